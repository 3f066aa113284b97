"""Search in documents that lie in several batches."""

import time
from pathlib import Path

import pyarrow as pa
import pytest

from mixcpt.documents import SCHEMA, Documents, writer
from mixcpt.search import Found, places, search


def made(path: Path, batches: list[list[str]]) -> Documents:
    with writer(path) as file:
        for texts in batches:
            rows = [
                {"id": "x", "kind": "documents", "text": text, "record": "", "file": "", "line": 1} for text in texts
            ]
            file.write_batch(
                pa.RecordBatch.from_pylist([row | {"bytes": 1, "tokens": 1} for row in rows], schema=SCHEMA)
            )
    return Documents(path)


@pytest.mark.parametrize(
    ("query", "indices"),
    [
        ("apple", [0, 3]),
        ("ÄPFEL", [1]),
        ("a.c", [4]),  # literal: "abc" is not found
        ("(", [2]),
        ("\\", []),
        ("nowhere", []),
    ],
)
def test_search_is_literal_and_knows_no_capitals(tmp_path: Path, query: str, indices: list[int]) -> None:
    documents = made(tmp_path / "a.arrow", [["An Apple", "Äpfel", "f(x)"], ["APPLE pie", "a.c"], ["abc"]])
    assert search(documents, query, 10) == Found(indices, len(indices))


def test_the_limit_cuts_the_list_but_not_the_count(tmp_path: Path) -> None:
    documents = made(tmp_path / "a.arrow", [["yes", "no", "yes"], ["yes"], ["yes"]])
    assert search(documents, "yes", 3) == Found([0, 2, 3], 4)
    assert search(documents, "yes", 0) == Found([], 4)


def test_places_are_in_characters() -> None:
    assert places("Über ü.b über", "ÜBER") == [(0, 4), (9, 13)]
    assert places("a.c abc", "a.c") == [(0, 3)]
    assert places("abc", "") == []


def test_a_hundred_thousand_documents_are_searched_and_read_at_once(tmp_path: Path) -> None:
    batch = [f"document number {number} " + "some words of a text " * 10 for number in range(500)]
    documents = made(tmp_path / "a.arrow", [batch] * 200)
    start = time.perf_counter()
    found = search(documents, "NUMBER 77 ", 1000)
    assert documents[99_999].text.startswith("document number 499 ")
    assert time.perf_counter() - start < 2  # 0.03 s on a quiet machine
    assert (found.total, found.indices[:2]) == (200, [77, 577])
