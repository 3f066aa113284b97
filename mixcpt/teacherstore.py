"""The cached states of one frozen model, as one run reads and writes them.

No failure of the disk stops a training: it is said once, and the teacher computes. What this gives up: what others add
while a run trains is of no use to it.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mixcpt import shards, teachercache
from mixcpt.errors import Damaged
from mixcpt.shards import DamagedShard, Entry, Shard, Writer
from mixcpt.teachercache import Origin
from mixcpt.workspace import Workspace, write_json

_TOUCH_SECONDS = 60.0
"""A shard that is read says so to others no more often than this."""

Say = Callable[[str], None]


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

    def __contains__(self, key: object) -> bool:
        """Whether the states of a segment are at hand."""
        return key in self._entries

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
        if self._writer and self._writer.size + needed > teachercache.shard_bytes(self._most):
            self._end_writer()
        if self._writer is None:
            most = teachercache.limit(self.workspace)
            room = max(needed, teachercache.shard_bytes(most))
            with teachercache.held(self.workspace):
                if not teachercache.make_room(self.workspace, room, most, keep=self._used()):
                    self._writes = False
                    self._tell(
                        f"the teacher cache is full (limit {most / 1e9:g} GB, and {teachercache.SPARE_BYTES / 1e9:g} "
                        "GB of the disk stay free): what does not fit is computed each time it is read"
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
