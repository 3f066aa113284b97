"""A shard of the teacher cache: a file of states that only grows, and an index whose records are written last.

    NAME.states   the states of segments, one after another: bf16, [tokens, width] each
    NAME.index    32 bytes a segment: its key, where its states begin, how many tokens they are, and a checksum

A record counts once all of it is there and all the states that it speaks of; so a writer may be killed at any point.
The checksum, CRC-32 over key and states, is verified at every reading, so what the disk or somebody else changed is not
believed either. One process writes a shard, under a lock that the kernel frees when it dies; any number read it while
it grows. What this gives up: `fsync`, for states that a power cut takes are computed again.

bf16 has no type in numpy, so states are uint16 here: the same bits.
"""

import contextlib
import fcntl
import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_RECORD = np.dtype([("key", "V16"), ("start", "<u8"), ("tokens", "<u4"), ("checksum", "<u4")])
KEY_BYTES = 16
BYTES = 2  # of one number


class Entry(NamedTuple):
    """A record of the index. `start` counts bytes in the states' file."""

    key: bytes
    start: int
    tokens: int
    checksum: int


class DamagedShard(Exception):
    """Its states are not those that were written."""


def states_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.states"


def index_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.index"


def names(folder: Path) -> list[str]:
    """The shards of a folder, in the order of their names; none where there is no folder."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(entry[: -len(".index")] for entry in os.listdir(folder) if entry.endswith(".index"))
    return []


def read_index(folder: Path, name: str, first: int = 0, end: int | None = None) -> list[Entry]:
    """The whole records of a shard from number `first` to before `end`, without those whose states are not all there;
    none where the shard is gone."""
    try:
        with open(index_path(folder, name), "rb") as file:
            file.seek(first * _RECORD.itemsize)
            data = file.read() if end is None else file.read(max(0, end - first) * _RECORD.itemsize)
    except FileNotFoundError:
        return []
    records = np.frombuffer(data[: len(data) // _RECORD.itemsize * _RECORD.itemsize], dtype=_RECORD)
    return [
        Entry(key.tobytes(), start, tokens, checksum)
        for key, start, tokens, checksum in zip(
            records["key"], *(records[name].tolist() for name in ("start", "tokens", "checksum")), strict=True
        )
    ]


def tokens_of(folder: Path, name: str) -> int:
    """How many tokens' states a shard holds; 0 where it is gone."""
    return sum(entry.tokens for entry in read_index(folder, name))


def is_open(folder: Path, name: str) -> bool:
    """Whether a process that lives is writing this shard."""
    try:
        with open(index_path(folder, name), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def remove(folder: Path, name: str) -> None:
    """Delete a shard, its index first, so that nobody finds states that are gone. Whoever has it open keeps it."""
    for path in (index_path(folder, name), states_path(folder, name)):
        path.unlink(missing_ok=True)


class Shard:
    """A shard to be read, mapped into memory anew as it grows.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, folder: Path, name: str, width: int):
        self.width = width
        self._file = open(states_path(folder, name), "rb")
        self._map: mmap.mmap | None = None

    def read(self, entry: Entry) -> np.ndarray:
        """The states of an entry, uint16 [tokens, width], read-only; valid as long as it is referred to.

        Raises:
            DamagedShard: the file is too short, or the checksum is another one.
        """
        end = entry.start + entry.tokens * self.width * BYTES
        # Looked at every time: to touch a mapped page beyond the end of the file would kill the process.
        size = os.fstat(self._file.fileno()).st_size
        if end > size or entry.tokens == 0:
            raise DamagedShard(f"it has {size:,} bytes, and should have {end:,}")
        if self._map is None or len(self._map) < end:
            self._map = mmap.mmap(self._file.fileno(), size, access=mmap.ACCESS_READ)
        states = np.frombuffer(self._map, np.uint16, entry.tokens * self.width, entry.start)
        if checksum(entry.key, states) != entry.checksum:
            raise DamagedShard("a checksum is wrong")
        return states.reshape(entry.tokens, self.width)

    def close(self) -> None:
        """The map itself goes when the last states that were read from it do."""
        self._file.close()


class Writer:
    """A new shard that this process writes.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, folder: Path, name: str, width: int):
        self.folder, self.name, self.width = folder, name, width
        self.size = 0
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        with contextlib.ExitStack() as opened:
            self._index = os.open(index_path(folder, name), flags, 0o644)
            opened.callback(os.close, self._index)
            fcntl.flock(self._index, fcntl.LOCK_EX)
            self._states = os.open(states_path(folder, name), flags, 0o644)
            opened.callback(os.close, self._states)
            self._opened = opened.pop_all()
        self._records = 0

    def append(self, segments: Sequence[tuple[bytes, np.ndarray]]) -> list[Entry]:
        """Write states [tokens, width] (uint16) by key; all of them count together or, if this is broken off, none.

        Raises:
            OSError: the disk is full or failed; what was written before is whole.
        """
        entries, start = [], self.size
        for key, states in segments:
            data = np.ascontiguousarray(states, np.uint16)
            if data.ndim != 2 or data.shape[1] != self.width:
                raise ValueError(f"states of shape {data.shape} do not have the width {self.width}")
            _write(self._states, data.data.cast("B"), start)
            entries.append(Entry(key, start, len(data), checksum(key, data)))
            start += data.nbytes
        records = np.zeros(len(entries), _RECORD)
        for number, entry in enumerate(entries):
            records[number] = (np.void(entry.key), *entry[1:])
        _write(self._index, memoryview(records.tobytes()), self._records * _RECORD.itemsize)
        self.size, self._records = start, self._records + len(entries)
        return entries

    @property
    def is_gone(self) -> bool:
        """Whether somebody deleted it meanwhile."""
        return os.fstat(self._index).st_nlink == 0

    def close(self) -> None:
        self._opened.close()


def checksum(key: bytes, states: np.ndarray) -> int:
    return zlib.crc32(states.data.cast("B"), zlib.crc32(key))


def _write(file: int, data: memoryview, start: int) -> None:
    """All of `data` at this place; the kernel may take it in parts."""
    while data:
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written
