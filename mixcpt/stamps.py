"""Reading again only what has changed: what was made of some files is kept as long as their stamps stay.

A stamp is time, size and inode. Small files here are replaced whole (a new inode) and logs only grow (a new size), so
a change cannot hide in the clock's coarseness. What this gives up: what was made of deleted files stays in memory.
"""

import os
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")
Stamp = tuple[int, int, int] | None


def stamp(path: str) -> Stamp:
    """None when there is no such file."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Kept(Generic[T]):
    """Answers by key, each made anew once one of its files has changed. Any number of threads may ask: at worst two of
    them do the same work."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, tuple[tuple[Stamp, ...], T]] = {}

    def get(self, key: Hashable, files: Sequence[str], make: Callable[[], T]) -> T:
        now = tuple(map(stamp, files))  # taken before the reading: what changes meanwhile is read next time
        kept = self._answers.get(key)
        if kept and kept[0] == now:
            return kept[1]
        answer = make()
        self._answers[key] = (now, answer)
        return answer
