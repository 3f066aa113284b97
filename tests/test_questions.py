"""Question sets: what they hold, and what is said of a line that cannot be used."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from asked import MORE, QUESTIONS, write

from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadConfig, BadFile, NotFound
from mixcpt.questions import (
    about,
    chance,
    drawn,
    fingerprint,
    is_file,
    keep,
    kept_folder,
    majority,
    question_sets,
    read_questions,
)
from mixcpt.settings import validate
from mixcpt.workspace import Workspace

OPEN = [
    {"question": "The capital of the north?", "answers": ["Aldermoor", "Aldermoor town"]},
    {"question": "And of the south?", "answers": ["Brack"]},
    {"question": "Where is the blue book?", "answers": ["the BRACK!"]},
]


def test_built_in_sets_have_their_names_and_sizes() -> None:
    sets = question_sets(EvaluationConfig(tasks=["general", "atlas"]))
    assert list(sets) == ["general", "atlas_recall", "atlas_two_step"]
    assert all(0 <= q["answer"] < len(q["choices"]) for questions in sets.values() for q in questions)
    some = question_sets(EvaluationConfig(tasks=["general"], items=10))
    assert len(some["general"]) == 10
    assert some == question_sets(EvaluationConfig(tasks=["general"], items=10)), "the same ten every time"
    places = [sets["general"].index(question) for question in some["general"]]
    assert places == sorted(places) and places != list(range(10)), "drawn from all, in their order"


def test_as_many_as_there_are_are_drawn_at_most() -> None:
    assert drawn(3, None) == drawn(3, 3) == drawn(3, 9) == [0, 1, 2] and len(set(drawn(50, 7))) == 7


def test_an_open_set_is_read_with_one_answer_or_several(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"question": "Who?", "answer": "the miller"}, OPEN[0]])
    assert read_questions(path) == [{"question": "Who?", "answers": ["the miller"]}, OPEN[0]]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "q", "choices": ["a", "b"]}', "'answer'"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 2}', "answer must be the index of a choice, 0 to 1"),
        ('{"question": "q", "choices": ["a", "b"], "answer": -1}', "answer must be the index"),
        ('{"question": "q", "choices": ["a", "b"], "answer": true}', "answer must be the index"),
        ('{"question": "q", "choices": ["a", "b"], "answer": 0.5}', "answer must be the index"),
        ('{"question": "q", "choices": ["a", "b"], "answer": "c"}', "answer must be the index"),
        ('{"question": "q", "choices": ["a"], "answer": 0}', "two or more"),
        ('{"question": "q", "choices": ["a", " "], "answer": 0}', "choice 2 is empty"),
        ('{"question": "q", "choices": "ab", "answer": 0}', "a list"),
        ('{"question": 3, "choices": ["a", "b"], "answer": 0}', "question must be text"),
        ('{"question": " ", "choices": ["a", "b"], "answer": 0}', "question must be text"),
        ('{"question": "q", "answer": 1}', "'choices' is missing"),
        ('{"choices": ["a", "\\ud800"], "question": "q", "answer": 0}', "surrogates not allowed"),
        ('["q"]', "no JSON object"),
        ("not json", "Expecting value"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str, reason: str) -> None:
    good = json.dumps(QUESTIONS[0])
    path = tmp_path / "questions.jsonl"
    path.write_text(f"{good}\n\n{good}\n{line}\n{good}\n")
    with pytest.raises(BadFile, match=r"^Line 4 of .*questions\.jsonl is no question \(.*write \{") as caught:
        read_questions(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"question": "q"}', "'answer' is missing"),
        ('{"question": "q", "answers": []}', "one or more"),
        ('{"question": "q", "answers": "a"}', "must be a list"),
        ('{"question": "q", "answer": ["a"]}', "the answer ['a'] has no letter"),
        ('{"question": "q", "answer": "…?"}', "the answer '…?' has no letter or digit"),
        ('{"question": "", "answer": "a"}', "question must be text"),
    ],
)
def test_a_bad_open_question_is_named_with_its_form(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(line)
    with pytest.raises(
        BadFile, match=r'^Line 1 of .* is no question \(.*write \{"question": "...", "answer":'
    ) as caught:
        read_questions(path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("first", [0, 1])
def test_a_file_holds_one_kind_of_question(tmp_path: Path, first: int) -> None:
    kinds = [QUESTIONS[0], OPEN[0]]
    path = write(tmp_path / "x.jsonl", [kinds[first], kinds[first], kinds[1 - first]])
    with pytest.raises(BadFile, match=r"^Line 3 of .* those before are of the other kind .*a file of its own\.$"):
        read_questions(path)


def test_files_that_hold_no_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"no question set .*nowhere\.jsonl'.*existing JSONL file"):
        read_questions(tmp_path / "nowhere.jsonl")
    with pytest.raises(BadFile, match="no question set"):
        read_questions(tmp_path)
    path = tmp_path / "x.jsonl"
    path.write_text("\n \n")
    with pytest.raises(BadFile, match="holds no questions"):
        read_questions(path)
    path.write_bytes("é".encode("latin-1"))
    with pytest.raises(BadFile, match="not UTF-8"):
        read_questions(path)


def test_marks_and_unusual_line_ends_inside_a_question_do_no_harm(tmp_path: Path) -> None:
    """U+2028 may stand in JSON as it is, and Python's splitlines would break the line there."""
    path = tmp_path / "x.jsonl"
    line = json.dumps({"question": "a\u2028b", "choices": ["1", 2], "answer": 1}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n".encode())
    assert read_questions(path) == [{"question": "a\u2028b", "choices": ["1", "2"], "answer": 1}]


def test_two_sets_of_one_name_are_refused(tmp_path: Path) -> None:
    """Task names come from file names; the second would silently take the place of the first."""
    one = write(tmp_path / "set.jsonl", QUESTIONS)
    two = write(tmp_path / "set.v2.jsonl", MORE)
    with pytest.raises(BadFile, match="would be called 'set', which is taken: rename"):
        question_sets(EvaluationConfig(tasks=[str(one), str(two)]))
    for name in ("general", "atlas_recall", "domain", "arc_easy"):
        path = write(tmp_path / f"{name}.jsonl", MORE)
        with pytest.raises(BadFile, match=f"would be called '{name}'"):
            question_sets(EvaluationConfig(tasks=[str(path), "lm-eval:arc_easy"]))


@pytest.mark.parametrize(
    ("file", "name"),
    [("my wells (v2), a*b.jsonl", "my_wells_v2_a_b"), ("größe.jsonl", "größe"), ("--.jsonl", "questions")],
)
def test_a_file_s_name_becomes_one_that_a_command_line_takes(tmp_path: Path, file: str, name: str) -> None:
    assert list(question_sets(EvaluationConfig(tasks=[str(write(tmp_path / file, MORE))]))) == [name]


def test_what_guessing_and_always_the_same_would_score() -> None:
    assert chance(QUESTIONS) == pytest.approx((1 / 3 + 1 / 2 + 1 / 4 + 1 / 2 + 1 / 3 + 1 / 3) / 6)
    assert majority(QUESTIONS) == pytest.approx(4 / 6), "four answers are the first choice"
    assert chance(OPEN) == 0
    assert majority(OPEN) == pytest.approx(2 / 3), "two accept Brack, however it is written"


def test_a_fingerprint_changes_with_any_question_and_their_order() -> None:
    other: list[dict[str, Any]] = [*OPEN[:2], {"question": "Where is the blue book?", "answers": ["Brack"]}]
    assert len({fingerprint(OPEN), fingerprint(OPEN[::-1]), fingerprint(other), fingerprint(OPEN[:2])}) == 4


def test_questions_that_name_no_fact_are_about_themselves_only() -> None:
    assert len(set(about(OPEN))) == 3
    assert len(set(about([{"meta": {"fact": n // 2}} for n in range(4)]))) == 2


def test_an_official_task_is_no_file_and_its_name_is_checked() -> None:
    assert [is_file(entry) for entry in ("general", "lm-eval:arc_easy", "general.jsonl")] == [False, False, True]
    assert question_sets(EvaluationConfig(tasks=["lm-eval:arc_easy"])) == {}
    with pytest.raises(NotFound, match="no task 'arc_easyy': did you mean lm-eval:arc_easy"):
        question_sets(EvaluationConfig(tasks=["lm-eval:arc_easyy"]))


def test_an_unknown_format_template_is_refused_with_what_there_is() -> None:
    with pytest.raises(BadConfig, match="no chat template 'alpacca': choose from own, chatml"):
        validate(EvaluationConfig, {"format_templates": ["alpacca"]}, "the test")
    twice = EvaluationConfig(tasks=[], format_items=2, format_templates=["own", "own"])
    assert twice.format_templates == ["own"] and twice.asks
    assert not EvaluationConfig(tasks=[]).asks


def test_a_file_that_was_sent_is_kept_once(workspace: Workspace) -> None:
    content = b'{"question": "Who?", "answer": "me"}\n'
    first = keep(workspace, "../wells.jsonl", io.BytesIO(content))
    assert first == kept_folder(workspace) / "wells.jsonl" and first.read_bytes() == content
    assert keep(workspace, "again.jsonl", io.BytesIO(content)) == first
    other = keep(workspace, "wells.jsonl", io.BytesIO(content * 2))
    assert other.name == "wells-2.jsonl" and first.read_bytes() == content
    with pytest.raises(BadFile, match=r"^Line 1 of bad\.jsonl is no question"):
        keep(workspace, "bad.jsonl", io.BytesIO(b"{"))
    assert sorted(path.name for path in kept_folder(workspace).iterdir()) == ["wells-2.jsonl", "wells.jsonl"]
