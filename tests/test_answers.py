"""Answers kept with a run, and found again."""

from dataclasses import replace
from pathlib import Path

import pytest

from mixcpt import answers
from mixcpt.answers import Answered
from mixcpt.errors import Damaged
from mixcpt.runs import Run

ONE = Answered(
    question="Who keeps\u2028the Book?",
    choices=["the miller", "the smith"],
    right=["the smith"],
    base="the miller",
    final="the smith",
    base_right=0.0,
    final_right=1.0,
)
ROWS = [
    ONE,
    replace(ONE, question="Where?", base_right=1.0, final_right=0.0),
    replace(ONE, choices=[], final_right=0.0),
]


def test_they_are_read_as_they_were_written(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert answers.read(run, "wells") == []
    answers.write(run, "wells", ROWS)
    answers.write(run, "format.own", ROWS[:1])
    assert answers.read(run, "wells") == ROWS and answers.read(run, "format.own") == ROWS[:1]
    answers.write(run, "wells", ROWS[1:])
    assert answers.read(run, "wells") == ROWS[1:]


def test_a_damaged_file_says_how_to_mend_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "cpt-1")
    run.folder.mkdir()
    answers.write(run, "wells", ROWS)
    for text in ("{", '{"question": "x"}'):
        (run.folder / "answers" / "wells.jsonl").write_text(text)
        with pytest.raises(Damaged, match=r"wells.jsonl is damaged .*: ask again with `mixcpt evaluate cpt-1`"):
            answers.read(run, "wells")


def test_flips_are_told_apart() -> None:
    assert [one.flip for one in ROWS] == ["gained", "lost", "same"]


def test_words_are_found_anywhere_in_any_case() -> None:
    assert answers.matching(ROWS) == [0, 1, 2]
    assert answers.matching(ROWS, "MILLER book") == [0, 2]
    assert answers.matching(ROWS, "", ["lost", "same"]) == [1, 2]
    assert answers.matching(ROWS, "book", ["lost"]) == []
