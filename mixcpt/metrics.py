"""A run's metrics: one file that only grows, a JSON record a line, read on from where the last look ended.

A line counts once its newline is there. {"event": "resume", "step": k} cancels the earlier records beyond step k, which
the resumed run does again; with step -1, all of them. What this gives up: queries. All records of the few files that
were read last are kept in memory, which is right for thousands of records and would be wrong for millions.
"""

import json
import os
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from mixcpt.errors import BadFile

Record = dict[str, Any]

FILES_IN_MEMORY = 64
TAIL_BYTES = 65_536


def append(path: Path, record: Record) -> None:
    """Add one record. A line that a killed worker left half-written is cut off first."""
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    with open(path, "ab+") as file:
        _cut_torn_line(file.fileno())
        file.write(line.encode())


def read(path: Path) -> list[Record]:
    """The records that count, in order; empty when there is no file yet. They are shared: do not change them.

    Raises:
        BadFile: a line is damaged.
    """
    return _reader(path).read()


def last(path: Path, key: str) -> Record | None:
    """The last record that counts and has this key; looks at the end of the file first, at the rest only if it must."""
    if not path.exists():
        return None
    size = path.stat().st_size
    for length in dict.fromkeys((min(size, TAIL_BYTES), size)):
        found = next(_backwards(path, size - length, length, key), None)
        if found:
            return found
    return None


def first(path: Path, key: str) -> Record | None:
    """The first record with this key, cancelled or not."""
    if not path.exists():
        return None
    with open(path, "rb") as file:
        lines = (line for line in file if f'"{key}"'.encode() in line and line.endswith(b"\n"))
        return next((record for line in lines if key in (record := _record(path, None, line))), None)


def _backwards(path: Path, start: int, length: int, key: str) -> Iterator[Record]:
    """The records with this key that count among the whole lines of this part of the file, last to first."""
    with open(path, "rb") as file:
        file.seek(start)
        lines = file.read(length).split(b"\n")[:-1]
    if start:
        del lines[:1]  # its beginning lies outside
    marks = (f'"{key}"'.encode(), b'"resume"')
    kept = float("inf")
    for line in reversed(lines):
        if not any(mark in line for mark in marks):
            continue  # reading JSON is what takes the time
        record = _record(path, None, line)
        if key in record and record.get("step", 0) <= kept:
            yield record
        if record.get("event") == "resume":
            kept = min(kept, record["step"])


class _Reader:
    """What was read of one file so far, and where it goes on."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.Lock()  # several people may watch the same run
        self._forget()

    def read(self) -> list[Record]:
        with self._lock:
            try:
                file = open(self.path, "rb")
            except FileNotFoundError:
                self._forget()
                return []
            with file:
                file.seek(self._offset - len(self._seen))
                seen, new = file.read(len(self._seen)), file.read()
                if seen != self._seen:  # somebody put another file there
                    self._forget()
                    file.seek(0)
                    new = file.read()
            self._take(new)
            return list(self._records)

    def _forget(self) -> None:
        self._records: list[Record] = []
        self._offset, self._lines, self._seen = 0, 0, b""

    def _take(self, new: bytes) -> None:
        *lines, _torn = new.split(b"\n")
        for line in lines:
            record = _record(self.path, self._lines + 1, line)
            if record.get("event") == "resume":
                self._records = [earlier for earlier in self._records if earlier.get("step", 0) <= record["step"]]
            self._records.append(record)
            self._lines += 1
            self._offset += len(line) + 1
            self._seen = line + b"\n"


@lru_cache(FILES_IN_MEMORY)
def _reader(path: Path) -> _Reader:
    return _Reader(path)


def _record(path: Path, number: int | None, line: bytes) -> Record:
    try:
        record: Record = json.loads(line)
    except ValueError:
        place = f"Line {number}" if number else "A line"
        raise BadFile(f"{place} of {path} is not JSON: remove that line, it was damaged.") from None
    return record


def _cut_torn_line(file: int) -> None:
    size = os.fstat(file).st_size
    if size == 0 or os.pread(file, 1, size - 1) == b"\n":
        return
    whole = os.pread(file, size, 0).rfind(b"\n") + 1
    os.ftruncate(file, whole)
