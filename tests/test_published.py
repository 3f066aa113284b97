"""Files of published data sets as question sets: each shape by hand, and the real files where they are there."""

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mixcpt.errors import BadFile
from mixcpt.published import as_ours
from mixcpt.questions import keep, kept_folder, kind_of, read_questions
from mixcpt.workspace import Workspace

SHAPES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("arc", {"id": "1", "question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
     {"question": "Q", "choices": ["a", "b"], "answer": 1}),
    ("numbered labels", {"question": "Q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "1"},
     {"question": "Q", "choices": ["a", "b"], "answer": 0}),
    ("labels in a list", {"question": "Q", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}],
                          "answerKey": "A"}, {"question": "Q", "choices": ["a", "b"], "answer": 0}),
    ("openbookqa", {"question_stem": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "A"},
     {"question": "Q", "choices": ["a", "b"], "answer": 0}),
    ("piqa", {"goal": "Q", "sol1": "a", "sol2": "b", "label": 1},
     {"question": "Q", "choices": ["a", "b"], "answer": 1}),
    ("hellaswag", {"ctx": "Q", "endings": ["a", "b", "c"], "label": "2", "ind": 4},
     {"question": "Q", "choices": ["a", "b", "c"], "answer": 2}),
    ("winogrande", {"sentence": "The _ was red.", "option1": "cat", "option2": "dog", "answer": "2"},
     {"question": "The", "choices": ["cat was red.", "dog was red."], "answer": 1}),
    ("boolq", {"question": "is it", "passage": "It is.", "answer": True},
     {"question": "It is.\nQuestion: is it\nAnswer:", "choices": ["no", "yes"], "answer": 1}),
    ("gsm8k", {"question": "Q", "answer": "first 500 * 2\n#### 1,000"}, {"question": "Q", "answers": ["1000"]}),
    ("llm-foundry choices", {"query": "Q", "choices": ["a", "b"], "gold": 1},
     {"question": "Q", "choices": ["a", "b"], "answer": 1}),
    ("llm-foundry open", {"context": "Q", "answer": "a", "aliases": ["b", "a", ""]},
     {"question": "Q", "answers": ["a", "b"]}),
    ("a letter", {"question": "Q", "choices": ["x", "y"], "answer": "B"},
     {"question": "Q", "choices": ["x", "y"], "answer": 1}),
    ("its text", {"question": "Q", "choices": ["B", "A"], "answer": "A"},
     {"question": "Q", "choices": ["B", "A"], "answer": 1}),
]  # fmt: skip


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(("row", "ours"), [shape[1:] for shape in SHAPES], ids=[shape[0] for shape in SHAPES])
def test_a_published_shape_becomes_ours(row: dict[str, Any], ours: dict[str, Any], tmp_path: Path) -> None:
    assert read_questions(write(tmp_path / "x.jsonl", [row])) == [ours]


def test_the_right_answer_of_sciq_does_not_always_come_first() -> None:
    rows = [
        {"question": f"Q{n}", "correct_answer": "r", "distractor1": "a", "distractor2": "b", "distractor3": "c"}
        for n in range(40)
    ]
    found = [as_ours(row) for row in rows]
    assert all(one["choices"][one["answer"]] == "r" and len(one["choices"]) == 4 for one in found)
    assert {one["answer"] for one in found} == {0, 1, 2, 3}
    assert found == [as_ours(row) for row in rows]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "Q", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "C"}, "answerKey 'C' is none of"),
        ({"goal": "Q", "sol1": "a", "sol2": "b", "label": -1}, "label must be the number of a choice, and is -1"),
        ({"goal": "Q", "sol1": "a", "sol2": "b"}, "label must be the number of a choice, and is None"),
        ({"sentence": "No gap.", "option1": "a", "option2": "b", "answer": "1"}, "has no _"),
        ({"text": "He went home"}, "add such a file as a corpus"),
        ({"question": "Q", "choices": ["a", "b"], "answer": "Z"}, "answer must be the index of a choice"),
    ],
)
def test_what_is_missing_is_named_with_its_line(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"Line 1 of .*is no question") as caught:
        read_questions(write(tmp_path / "x.jsonl", [row]))
    assert said in str(caught.value)


def test_a_packed_file_is_kept_unpacked(workspace: Workspace) -> None:
    packed = gzip.compress(json.dumps(SHAPES[0][1]).encode())
    path = keep(workspace, "arc_easy_test.jsonl.gz", io.BytesIO(packed))
    assert path == kept_folder(workspace) / "arc_easy_test.jsonl" and read_questions(path) == [SHAPES[0][2]]
    with pytest.raises(BadFile, match=r"torn\.jsonl\.gz cannot be unpacked"):
        keep(workspace, "torn.jsonl.gz", io.BytesIO(packed[:-12]))


def test_a_packed_file_that_grows_too_large_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mixcpt import questions

    monkeypatch.setattr(questions, "_MOST", 1000)
    path = tmp_path / "big.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * 5000))
    with pytest.raises(BadFile, match="holds more than"):
        read_questions(path)


@pytest.mark.parametrize(
    ("name", "items", "kind"),
    [
        ("arc_easy_test", 839, "choice"),
        ("commonsense_qa_val_600", 600, "choice"),
        ("gsm8k_test_500", 500, "open"),
        ("hellaswag_2choice", 800, "choice"),
        ("piqa_val_800", 800, "choice"),
    ],
)
def test_real_files_are_taken_as_they_come(
    workspace: Workspace, shared_data: Path, name: str, items: int, kind: str
) -> None:
    path = shared_data / "eval_general" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not on this machine")
    with path.open("rb") as file:
        kept = read_questions(keep(workspace, path.name, file))
    assert len(kept) == items and kind_of(kept) == kind
