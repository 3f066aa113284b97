"""Segments into rows: every token once, nothing across a boundary, little padding.

Documents are first cut into segments that fit a row, so a segment does not depend on the mixture, the order or the
seed; then segments are placed best-fit into a window of open rows, which keeps the order of the stream nearly as it
was. It gives up the last percent of fullness that a global best-fit would reach, for that order.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

IGNORED = -100
"""The label of a position that is not trained on (the convention of torch's cross-entropy)."""


def cut(length: int, row_tokens: int) -> list[tuple[int, int]]:
    """(start, length) of the pieces of a document of `length` tokens: all but the last are exactly a row long."""
    return [(start, min(row_tokens, length - start)) for start in range(0, length, row_tokens)]


def cut_all(lengths: np.ndarray, row_tokens: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`cut` for many documents at once: per piece, in order, the index of its document, its start and its length."""
    pieces = -(-lengths // row_tokens)
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = number * row_tokens
    return document, start, np.minimum(row_tokens, lengths[document] - start)


def pack(lengths: Sequence[int], row_tokens: int, open_rows: int = 32) -> list[list[int]]:
    """Place segments into rows; returns per row the indices of its segments, in reading order.

    Each segment goes into the open row where it leaves the least room; when none has room a new row is opened, and the
    fullest is closed once more than `open_rows` are open. Deterministic: ties go to the older row.

    Raises:
        ValueError: a segment is longer than a row, or empty.
    """
    rows: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # (tokens left, row) of the open rows, sorted: the tightest fit is a bisection
    for index, length in enumerate(lengths):
        if not 0 < length <= row_tokens:
            raise ValueError(f"segment {index} has {length} tokens, but must have 1 to {row_tokens}: cut it first")
        tightest = bisect_left(rooms, (length, -1))
        if tightest < len(rooms):
            left, row = rooms.pop(tightest)
        else:
            if len(rooms) >= open_rows:
                del rooms[0]
            left, row = row_tokens, len(rows)
            rows.append([])
        rows[row].append(index)
        if left > length:
            insort(rooms, (left - length, row))
    return rows


@dataclass(frozen=True, slots=True)
class Row:
    """One row as the model reads it. All arrays have the row's length in tokens, padding not included.

    ids: int32 token ids.
    positions: int32, restarting at 0 with every segment; that restart is what isolates attention.
    labels: int32, equal to ids except the first token of each segment, which nothing precedes (IGNORED).
    segment: int32, index of the segment in the mixture that each token comes from.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray
    segment: np.ndarray


def build_row(segments: Sequence[tuple[int, np.ndarray]]) -> Row:
    """Join (segment index, token ids) pairs into one row."""
    lengths = [len(ids) for _, ids in segments]
    ids = np.concatenate([ids for _, ids in segments]).astype(np.int32)
    positions = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
    labels = ids.copy()
    labels[positions == 0] = IGNORED
    segment = np.repeat(np.array([index for index, _ in segments], dtype=np.int32), lengths)
    return Row(ids, positions, labels, segment)


PADDED_TO = 64
"""Rows are padded to a multiple of so many tokens. On a CPU in bf16 every other length of a batch makes matrix products
of other shapes, for which kernels are compiled and kept: 15 MB a step with a model of four layers, without end."""


def pad_rows(rows: Sequence[Row], pad_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids, positions and labels of several rows, int64 [rows, tokens], as long as the longest needs. Padding stands
    last, with positions that restart (so nothing attends to it) and labels that do not count."""
    longest = -(-max(len(row.ids) for row in rows) // PADDED_TO) * PADDED_TO
    ids = np.full((len(rows), longest), pad_id, dtype=np.int64)
    positions = np.zeros_like(ids)
    labels = np.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length], labels[number, :length] = row.ids, row.labels
        positions[number, :length], positions[number, length:] = row.positions, np.arange(longest - length)
    return ids, positions, labels
