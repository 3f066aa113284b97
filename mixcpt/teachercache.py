"""The teacher cache: final hidden states of frozen originals, by segment, so that each is computed once.

    teacher-cache/settings.json     the limit, where one was set
    teacher-cache/<origin>/         origin.json and the shards (`mixcpt.shards`) of one frozen model

Attention is isolated and positions restart with every segment, so what the teacher says of one depends on the frozen
model and the segment's ids alone: not on the mixture, the order or the seed. An `Origin` is all the rest: the model's
fingerprint, device and precision, and the versions that compute. Whole shards are dropped, those first that nobody has
used for longest, so that the limit is kept; what a run itself needs it does not drop for its own sake, since reading
in rounds would find nothing then. No failure of the disk stops a training: it is said once, and the teacher computes.

What this gives up: sharing between a processor and a GPU, whose numbers differ in the last digits, and between rows of
other lengths as far as these cut long documents elsewhere.
"""

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mixcpt import shards
from mixcpt.errors import BadInput, Damaged
from mixcpt.shards import DamagedShard, Entry, Shard, Writer
from mixcpt.workspace import Workspace, locked, new_id, read_json, write_json

LIMIT_BYTES = 20_000_000_000
"""What the cache may take of the disk where no other limit was set."""
SPARE_BYTES = 2_000_000_000
"""What it leaves free on the disk, for checkpoints and adapters."""
SHARD_BYTES = 256_000_000
_TOUCH_SECONDS = 60.0
"""A shard that is read says so to others no more often than this."""
_LIBRARIES = ("torch", "transformers", "bitsandbytes")

Say = Callable[[str], None]


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
        versions = [f"{library} {_version(library)}" for library in _LIBRARIES]
        digest = hashlib.sha256("|".join([self.compute, *versions]).encode()).hexdigest()[:8]
        return f"{self.model}-{self.device}-{self.precision}-{digest}"


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
    with _held(workspace):
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
    with _held(workspace):
        files = _files(workspace)
        for folder in _folders(workspace):
            os.replace(folder, folder.with_name(f".cleared-{new_id(folder.name)}"))  # gone at once for every reader
        for hidden in workspace.teacher_cache.glob(".cleared-*"):
            shutil.rmtree(hidden)
    return sum(file.bytes for file in files)


def _settings(workspace: Workspace) -> Path:
    return workspace.teacher_cache / "settings.json"


@contextlib.contextmanager
def _held(workspace: Workspace) -> Iterator[None]:
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


def _make_room(workspace: Workspace, needed: int, most: int, keep: frozenset[tuple[Path, str]]) -> bool:
    """Drop shards, the longest unused first, until `needed` more bytes fit into `most` and onto the disk; shards that
    are being written, and those of `keep`, stay. Returns whether they fit; where they cannot, nothing is dropped."""
    files = sorted(_files(workspace), key=lambda file: file.used)
    growing = {file[:2] for file in files if shards.is_open(file.folder, file.name)}
    # One that is being written counts as large as it may become.
    taken = sum(max(file.bytes, _shard_bytes(most)) if file[:2] in growing else file.bytes for file in files)
    excess = max(taken + needed - most, needed + SPARE_BYTES - shutil.disk_usage(workspace.root).free)
    free_to_go = [file for file in files if file[:2] not in growing and file[:2] not in keep]
    if excess > sum(file.bytes for file in free_to_go):
        return False
    for file in free_to_go:
        if excess > 0:
            shards.remove(file.folder, file.name)
            excess -= file.bytes
    return True


def _shard_bytes(most: int) -> int:
    """A cache with a low limit has small shards, so that not all of it goes at once."""
    return min(SHARD_BYTES, most // 8)


# ---- the states of one origin ----------------------------------------------------------------------------------------


class Store:
    """The cached states of one origin, as one run reads and writes them.

    A run sees what was there when it began and what it wrote itself, nothing that others add meanwhile: so it is the
    same run whether it is stopped in between or not.

    Args:
        owner: id of the run. Its shards begin with it.
        width: of the states.
        seen: what `snapshot` told at the run's first start; None now.
        say: is told in a sentence, once for each cause, why something is not read or written.
    """

    def __init__(
        self,
        workspace: Workspace,
        origin: Origin,
        *,
        owner: str,
        width: int,
        seen: Mapping[str, int] | None = None,
        say: Say = print,
    ):
        self.workspace, self.origin, self.owner, self.width = workspace, origin, owner, width
        self.folder = workspace.teacher_cache / origin.folder
        self._say = say
        self._told: set[str] = set()
        self._entries: dict[bytes, tuple[str, Entry]] = {}
        self._shards: dict[str, Shard] = {}
        self._touched: dict[str, float] = {}
        self._writer: Writer | None = None
        self._most = 0
        self._writes = True
        self._seen = dict(seen) if seen is not None else {}
        with self._failing("read"):
            self._look(first=seen is None)

    def _look(self, first: bool) -> None:
        for name in shards.names(self.folder):
            mine = self._is_mine(name)
            if mine or first or name in self._seen:
                entries = shards.read_index(self.folder, name, end=None if mine or first else self._seen[name])
                self._entries |= {entry.key: (name, entry) for entry in entries}
                if first and not mine:
                    self._seen[name] = len(entries)

    def _is_mine(self, name: str) -> bool:
        return name.startswith(f"{self.owner}.")

    def snapshot(self) -> dict[str, int]:
        """Of the shards that the run sees and did not write, how many segments: what `seen` is for."""
        return dict(self._seen)

    def keys(self) -> Container[bytes]:
        """The segments whose states are at hand."""
        return self._entries.keys()

    def claim(self, keys: Iterable[bytes]) -> None:
        """Tell that these segments will be read: their shards are in use from now on, and stay."""
        for name in {self._entries[key][0] for key in keys if key in self._entries}:
            self._touch(name)

    def find(self, key: bytes) -> np.ndarray | None:
        """The states of a segment, uint16 [tokens, width] (the bits of bf16), read-only; None when they are not at
        hand, or are damaged: then all of their shard is deleted."""
        place = self._entries.get(key)
        if place is None:
            return None
        name, entry = place
        with self._failing("read"):
            try:
                if name not in self._shards:
                    self._shards[name] = Shard(self.folder, name, self.width)
                states = self._shards[name].read(entry)
            except FileNotFoundError:  # dropped or emptied meanwhile
                self._forget(name)
            except DamagedShard as damage:
                self._forget(name)
                shards.remove(self.folder, name)
                self._tell(f"the part {name} of the teacher cache was damaged ({damage}) and is computed again")
            else:
                self._touch(name)
                return states
        return None

    def add(self, segments: Sequence[tuple[bytes, np.ndarray]]) -> None:
        """Keep states [tokens, width] (uint16) by key: all of them or, where there is no room, none."""
        if not self._writes or not segments:
            return
        with self._failing("written"):
            needed = sum(states.nbytes for _, states in segments)
            writer = self._writer_for(needed)
            if writer is None:
                return
            for entry in writer.append(segments):
                self._entries[entry.key] = (writer.name, entry)

    def close(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None
        for shard in self._shards.values():
            shard.close()
        self._shards.clear()

    def _writer_for(self, needed: int) -> Writer | None:
        """A shard with room for so many bytes; None, and nothing is written any more, when the cache is full."""
        if self._writer and self._writer.is_gone:  # somebody emptied the cache
            self._forget(self._writer.name)
            self._end_writer()
        if self._writer and self._writer.size + needed > _shard_bytes(self._most):
            self._end_writer()
        if self._writer is None:
            most = limit(self.workspace)
            room = max(needed, _shard_bytes(most))
            with _held(self.workspace):
                if not _make_room(self.workspace, room, most, keep=self._used()):
                    self._writes = False
                    self._tell(
                        f"the teacher cache is full (limit {most / 1e9:g} GB, {SPARE_BYTES / 1e9:g} GB of the disk "
                        "stay free): what does not fit is computed each time it is read"
                    )
                    return None
                self._make_folder()
                self._most = most
                self._writer = Writer(self.folder, f"{self.owner}.{time.time_ns():x}", self.width)
        return self._writer

    def _end_writer(self) -> None:
        if self._writer:
            self._writer.close()
            self._writer = None

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "origin.json").exists():
            write_json(self.folder / "origin.json", asdict(self.origin))

    def _used(self) -> frozenset[tuple[Path, str]]:
        """Shards that this run has read or written."""
        mine = {name for name in shards.names(self.folder) if self._is_mine(name)}
        return frozenset((self.folder, name) for name in mine | self._touched.keys())

    def _forget(self, name: str) -> None:
        if shard := self._shards.pop(name, None):
            shard.close()
        self._entries = {key: place for key, place in self._entries.items() if place[0] != name}

    def _touch(self, name: str) -> None:
        """Tell other processes that a shard is in use."""
        if time.monotonic() - self._touched.get(name, float("-inf")) < _TOUCH_SECONDS:
            return
        self._touched[name] = time.monotonic()
        with contextlib.suppress(OSError):  # one that may only be read is of use all the same
            os.utime(shards.index_path(self.folder, name))

    @contextlib.contextmanager
    def _failing(self, done: str) -> Iterator[None]:
        """What the disk refuses is said, and not tried again; the teacher computes instead."""
        try:
            yield
        except (OSError, Damaged) as error:
            if done == "written":
                self._writes = False
            reason = f"{error.strerror}: {error.filename or self.folder}" if isinstance(error, OSError) else str(error)
            self._tell(f"the teacher cache cannot be {done} ({reason}); the training goes on without")

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._say(sentence)
