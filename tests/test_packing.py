"""Packing: every token once, nothing across a boundary, the tightest row first."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixcpt import packing
from mixcpt.packing import IGNORED, build_row, cut, cut_all, pack, pad_rows

FEW = settings(deadline=None, max_examples=60, derandomize=True, database=None)


@pytest.mark.parametrize(
    ("length", "pieces"),
    [(1, [(0, 1)]), (7, [(0, 7)]), (8, [(0, 8)]), (9, [(0, 8), (8, 1)]), (20, [(0, 8), (8, 8), (16, 4)]), (0, [])],
)
def test_cut_by_hand_in_rows_of_eight(length, pieces):
    assert cut(length, 8) == pieces


def test_pack_by_hand():
    """Rows of 10. 6 opens row 0 (4 left), 7 row 1 (3 left), 3 fits both: row 1 is tighter (0 left); 4 fills row 0;
    5 opens row 2, and 5 fills it; 1 opens row 3."""
    assert pack([6, 7, 3, 4, 5, 5, 1], 10) == [[0, 3], [1, 2], [4, 5], [6]]


def test_pack_breaks_ties_by_the_older_row():
    assert pack([6, 6, 2], 10) == [[0, 2], [1]]


def test_pack_closes_the_fullest_when_too_many_rows_are_open():
    """Two open rows: 6 and 7 are open when another 8 comes, so row 1 (the fuller) is closed; then 3 finds row 0 with 4
    left, though the closed row 1 would have fitted exactly."""
    assert pack([6, 7, 8, 3], 10, open_rows=2) == [[0, 3], [1], [2]]
    assert pack([6, 7, 8, 3], 10, open_rows=3) == [[0], [1, 3], [2]]


def test_pack_of_nothing_is_no_rows():
    assert pack([], 10) == []


@pytest.mark.parametrize("length", [0, 11, -1])
def test_pack_refuses_what_does_not_fit_a_row_and_names_it(length):
    with pytest.raises(ValueError, match=rf"segment 1 has {length} tokens, but must have 1 to 10"):
        pack([5, length], 10)


lengths = st.lists(st.integers(1, 40), max_size=120)


@FEW
@given(lengths, st.integers(40, 60), st.integers(1, 8))
def test_packing_keeps_every_segment_once_in_order_and_within_the_row(lengths, row_tokens, open_rows):
    rows = pack(lengths, row_tokens, open_rows)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(row == sorted(row) for row in rows)
    assert all(sum(lengths[index] for index in row) <= row_tokens for row in rows)
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert rows == pack(lengths, row_tokens, open_rows)


@FEW
@given(lengths, st.integers(40, 60))
def test_each_segment_goes_where_it_leaves_the_least_room(lengths, row_tokens):
    """With every row open: replayed from the result, no other row that was there would have been tighter."""
    rows = pack(lengths, row_tokens, open_rows=1000)
    place = {index: number for number, row in enumerate(rows) for index in row}
    used = [0] * len(rows)
    opened = 0
    for index, length in enumerate(lengths):
        rest = [row_tokens - used[row] - length for row in range(opened)]
        fitting = [left for left in rest if left >= 0]
        if fitting:
            assert place[index] == rest.index(min(fitting))
        else:
            assert place[index] == opened
            opened += 1
        used[place[index]] += length


@FEW
@given(st.lists(st.integers(0, 200), max_size=20), st.integers(1, 50))
def test_pieces_of_a_cut_tile_the_document(document_lengths, row_tokens):
    for length in document_lengths:
        pieces = cut(length, row_tokens)
        assert [place for start, size in pieces for place in range(start, start + size)] == list(range(length))
        assert all(size == row_tokens for _, size in pieces[:-1])


def test_build_row_by_hand():
    row = build_row([(4, np.array([11, 12, 13])), (9, np.array([21])), (2, np.array([31, 32]))])
    assert row.ids.tolist() == [11, 12, 13, 21, 31, 32]
    assert row.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert row.labels.tolist() == [IGNORED, 12, 13, IGNORED, IGNORED, 32]
    assert row.segment.tolist() == [4, 4, 4, 9, 2, 2]
    assert {array.dtype for array in (row.ids, row.positions, row.labels, row.segment)} == {np.dtype("int32")}


def test_build_row_leaves_its_input_alone():
    ids = np.array([5, 6], dtype=np.int32)
    build_row([(0, ids)]).labels[:] = 0
    assert ids.tolist() == [5, 6]


@FEW
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=9), min_size=1, max_size=9))
def test_labels_never_cross_the_start_of_a_segment(segments):
    """The state at place i predicts labels[i + 1]: the next token of the *same* segment, or ignored."""
    row = build_row([(number, np.array(ids)) for number, ids in enumerate(segments)])
    assert row.ids.tolist() == [token for ids in segments for token in ids]
    for place in range(len(row.ids)):
        starts = place == 0 or row.segment[place - 1] != row.segment[place]
        assert row.labels[place] == (IGNORED if starts else row.ids[place])
        assert row.positions[place] == (0 if starts else row.positions[place - 1] + 1)
    assert (row.labels != IGNORED).sum() == sum(len(ids) - 1 for ids in segments)


def pack_slowly(lengths, row_tokens, open_rows=32):
    """The first version of `pack`, which looks at every open row for every segment. Runs that were made with it name
    rows by their fingerprint, so the fast one must place every segment as this does."""
    rows: list[list[int]] = []
    room: dict[int, int] = {}
    for index, length in enumerate(lengths):
        fitting = [row for row, left in room.items() if left >= length]
        if fitting:
            row = min(fitting, key=lambda candidate: room[candidate])
        else:
            if len(room) >= open_rows:
                del room[min(room, key=lambda candidate: room[candidate])]
            row = len(rows)
            rows.append([])
            room[row] = row_tokens
        rows[row].append(index)
        room[row] -= length
        if room[row] == 0:
            del room[row]
    return rows


@FEW
@given(lengths, st.integers(40, 60), st.integers(1, 8))
def test_packing_is_as_it_was_first_written(lengths, row_tokens, open_rows):
    assert pack(lengths, row_tokens, open_rows) == pack_slowly(lengths, row_tokens, open_rows)


@FEW
@given(st.lists(st.integers(0, 200), max_size=20), st.integers(1, 50))
def test_cutting_all_at_once_is_cutting_one_by_one(document_lengths, row_tokens):
    document, start, length = cut_all(np.array(document_lengths, dtype=np.int64), row_tokens)
    expected = [(number, *piece) for number, one in enumerate(document_lengths) for piece in cut(one, row_tokens)]
    assert list(zip(document.tolist(), start.tolist(), length.tolist(), strict=True)) == expected


def test_rows_are_padded_at_the_end_to_a_multiple(monkeypatch):
    monkeypatch.setattr(packing, "PADDED_TO", 3)
    rows = [build_row([(0, np.array([5, 6, 7])), (1, np.array([8, 9]))]), build_row([(2, np.array([3, 4]))])]
    ids, positions, labels = pad_rows(rows, pad_id=1)
    assert ids.tolist() == [[5, 6, 7, 8, 9, 1], [3, 4, 1, 1, 1, 1]]
    assert positions.tolist() == [[0, 1, 2, 0, 1, 0], [0, 1, 0, 1, 2, 3]]
    assert labels.tolist() == [[IGNORED, 6, 7, IGNORED, 9, IGNORED], [IGNORED, 4, *[IGNORED] * 4]]
    assert {array.dtype for array in (ids, positions, labels)} == {np.dtype(np.int64)}


def test_rows_that_fill_a_multiple_are_not_padded():
    assert pad_rows([build_row([(0, np.arange(128))])], pad_id=1)[0].shape == (1, 128)
    assert pad_rows([build_row([(0, np.arange(129))])], pad_id=1)[0].shape == (1, 192)
