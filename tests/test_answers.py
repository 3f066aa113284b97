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


def test_outcomes_are_told_apart() -> None:
    assert [one.outcome for one in ROWS] == ["gained", "lost", "kept wrong"]
    assert replace(ONE, base_right=1.0).outcome == "kept right"
    assert [replace(ONE, base_right=0.5, final_right=share).outcome for share in (0.25, 0.5, 0.75)] == [
        *("lost", "kept right", "gained")
    ]


def rows_of(gained: int, lost: int, right: int, wrong: int) -> list[Answered]:
    flips = [(0.0, 1.0)] * gained + [(1.0, 0.0)] * lost + [(1.0, 1.0)] * right + [(0.0, 0.0)] * wrong
    return [replace(ONE, base_right=before, final_right=after) for before, after in flips]


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 32),  # both tails of five tosses
        (0, 6, 2 / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),
    ],
)
def test_mcnemar_by_hand(gained: int, lost: int, p: float) -> None:
    found = answers.counts(rows_of(gained, lost, 4, 7))
    assert (found.gained, found.lost, found.kept_right, found.kept_wrong, found.items) == (
        *(gained, lost, 4, 7, gained + lost + 11),
    )
    assert found.p == pytest.approx(p)


def test_what_the_split_says() -> None:
    assert "in 6.2% of cases, so this may be chance." in answers.counts(rows_of(5, 0, 1, 1)).words()
    assert "in 3.1% of cases, so this is hardly chance." in answers.counts(rows_of(0, 6, 1, 1)).words()
    assert answers.counts(rows_of(0, 0, 1, 1)).words() == "No answer changed between right and wrong."
    same = [replace(one, about="the mill") for one in rows_of(1, 0, 1, 0)]
    assert "2 questions are about 1 things only" in answers.counts(same).words()


def test_words_are_found_anywhere_in_any_case() -> None:
    assert answers.matching(ROWS) == [0, 1, 2]
    assert answers.matching(ROWS, "MILLER book") == [0, 2]
    assert answers.matching(ROWS, "", ["lost", "kept wrong"]) == [1, 2]
    assert answers.matching(ROWS, "book", ["lost"]) == []
