"""The teacher cache: final hidden states of frozen originals, by segment, so that each is computed once.

    teacher-cache/settings.json     the limit, where one was set
    teacher-cache/<origin>/         origin.json and the shards (`mixcpt.shards`) of one frozen model; a run reads and
                                    writes them through a `mixcpt.teacherstore.Store`

Attention is isolated and positions restart with every segment, so what the teacher says of one depends on the frozen
model and the segment's ids alone: not on the mixture, the order or the seed. An `Origin` is all the rest: the model's
fingerprint, device and precision, and the versions that compute. Whole shards are dropped, those first that nobody has
used for longest, so that the limit is kept; what a run itself needs it does not drop for its own sake, since reading
in rounds would find nothing then.

What this gives up: sharing between a processor and a GPU, whose numbers differ in the last digits, and between rows of
other lengths as far as these cut long documents elsewhere.
"""

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixcpt import __version__, shards
from mixcpt.errors import BadInput, Damaged
from mixcpt.workspace import Workspace, locked, new_id, read_json, write_json

LIMIT_BYTES = 20_000_000_000
"""What the cache may take of the disk where no other limit was set."""
SPARE_BYTES = 2_000_000_000
"""What it leaves free on the disk, for checkpoints and adapters."""
SHARD_BYTES = 256_000_000
_LIBRARIES = ("torch", "transformers", "bitsandbytes")


@dataclass(frozen=True)
class Origin:
    """What states depend on besides the segment. `compute` is the type that 4-bit weights are multiplied in, empty for
    others; `name` is for people and does not count."""

    name: str
    model: str
    device: str
    precision: str
    compute: str = ""

    @property
    def folder(self) -> str:
        """Name of the folder: model, device and precision to be read, everything as a hash."""
        versions = [f"mixcpt {__version__}", *(f"{library} {_version(library)}" for library in _LIBRARIES)]
        digest = hashlib.sha256("|".join([self.compute, *versions]).encode()).hexdigest()[:8]
        return f"{self.model}-{self.device}-{self.precision}-{digest}"


@functools.cache
def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def segment_key(ids: np.ndarray) -> bytes:
    """Identity of a segment: its ids. Its positions are 0, 1, 2, … wherever it lies."""
    return hashlib.blake2b(np.ascontiguousarray(ids, "<i4").tobytes(), digest_size=shards.KEY_BYTES).digest()


# ---- the whole cache: its limit, its size, emptying it ---------------------------------------------------------------


def limit(workspace: Workspace) -> int:
    """The most bytes that the cache may take; 0: there is no cache.

    Raises:
        Damaged: the settings cannot be read.
    """
    path = _settings(workspace)
    if not path.exists():
        return LIMIT_BYTES
    try:
        return int(read_json(path)["limit_bytes"])
    except (KeyError, TypeError) as error:
        raise Damaged(f"{path} is damaged ({error!r}): move it away.") from None


def set_limit(workspace: Workspace, gigabytes: float) -> int:
    """Set the limit, 0 for no cache at all, and drop what is beyond it; a shard that is just being written stays until
    its run makes the next. Returns how many bytes were dropped.

    Raises:
        BadInput: less than nothing.
    """
    if not 0 <= gigabytes < float("inf"):
        raise BadInput(f"The limit of the teacher cache is {gigabytes:g} GB: give 0 (no cache) or more.")
    most = round(gigabytes * 1e9)
    with held(workspace):
        write_json(_settings(workspace), {"limit_bytes": most})
        dropped, files = 0, sorted(_files(workspace), key=lambda file: file.used)
        for file in files:
            if sum(one.bytes for one in files) - dropped > most and not shards.is_open(file.folder, file.name):
                shards.remove(file.folder, file.name)
                dropped += file.bytes
    return dropped


class OriginSize(NamedTuple):
    """What the cache holds of one frozen model. `used` is when it was last read or written (seconds since 1970)."""

    folder: str
    name: str
    device: str
    precision: str
    bytes: int
    tokens: int
    used: float


@dataclass(frozen=True)
class CacheSize:
    """Bytes on disk, the limit, and what belongs to which model, the latest used first."""

    bytes: int
    limit_bytes: int
    origins: list[OriginSize]

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.origins)


def size(workspace: Workspace) -> CacheSize:
    """How large the cache is now. Reads no states."""
    files = _files(workspace)
    origins = [
        _origin_size(folder, [file for file in files if file.folder == folder])
        for folder in dict.fromkeys(file.folder for file in files)
    ]
    origins.sort(key=lambda one: -one.used)
    return CacheSize(sum(one.bytes for one in origins), limit(workspace), origins)


def _origin_size(folder: Path, files: Sequence["_File"]) -> OriginSize:
    about = {}
    with contextlib.suppress(Damaged, FileNotFoundError):  # it only names things; the states are whole without
        kept = read_json(folder / "origin.json")
        about = kept if isinstance(kept, dict) else {}
    return OriginSize(
        folder=folder.name,
        name=str(about.get("name", "?")),
        device=str(about.get("device", "?")),
        precision=str(about.get("precision", "?")),
        bytes=sum(file.bytes for file in files),
        tokens=sum(shards.tokens_of(folder, file.name) for file in files),
        used=max(file.used for file in files),
    )


def clear(workspace: Workspace) -> int:
    """Empty the cache; returns how many bytes that were. A run that is training goes on, and fills it anew."""
    with held(workspace):
        files = _files(workspace)
        for folder in _folders(workspace):
            os.replace(folder, folder.with_name(f".cleared-{new_id(folder.name)}"))  # gone at once for every reader
        for hidden in workspace.teacher_cache.glob(".cleared-*"):
            shutil.rmtree(hidden)
    return sum(file.bytes for file in files)


def _settings(workspace: Workspace) -> Path:
    return workspace.teacher_cache / "settings.json"


@contextlib.contextmanager
def held(workspace: Workspace) -> Iterator[None]:
    """Only one process at a time makes or drops shards."""
    with locked(workspace.teacher_cache / ".lock"):
        yield


class _File(NamedTuple):
    folder: Path
    name: str
    bytes: int
    used: float


def _folders(workspace: Workspace) -> list[Path]:
    root = workspace.teacher_cache
    return sorted(path for path in root.glob("[!.]*") if path.is_dir()) if root.is_dir() else []


def _files(workspace: Workspace) -> list[_File]:
    """Every shard of every origin."""
    found = []
    for folder in _folders(workspace):
        for name in shards.names(folder):
            with contextlib.suppress(FileNotFoundError):  # dropped at this very moment
                index = os.stat(shards.index_path(folder, name))
                states = os.stat(shards.states_path(folder, name))
                found.append(_File(folder, name, index.st_size + states.st_size, index.st_mtime))
    return found


def make_room(workspace: Workspace, needed: int, most: int, keep: frozenset[tuple[Path, str]]) -> bool:
    """Drop shards, the longest unused first, until `needed` more bytes fit into `most` and onto the disk; shards that
    are being written, and those of `keep`, stay. Returns whether they fit; where they cannot, nothing is dropped."""
    files = sorted(_files(workspace), key=lambda file: file.used)
    growing = {file[:2] for file in files if shards.is_open(file.folder, file.name)}
    # One that is being written counts as large as it may become.
    taken = sum(max(file.bytes, shard_bytes(most)) if file[:2] in growing else file.bytes for file in files)
    excess = max(taken + needed - most, needed + SPARE_BYTES - shutil.disk_usage(workspace.root).free)
    free_to_go = [file for file in files if file[:2] not in growing and file[:2] not in keep]
    if excess > sum(file.bytes for file in free_to_go):
        return False
    for file in free_to_go:
        if excess > 0:
            shards.remove(file.folder, file.name)
            excess -= file.bytes
    return True


def shard_bytes(most: int) -> int:
    """A cache with a low limit has small shards, so that not all of it goes at once."""
    return min(SHARD_BYTES, most // 8)
