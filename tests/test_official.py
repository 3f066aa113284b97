"""lm-eval's own tasks: their names without a network, the call for their questions, and what is said without them."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from mixcpt import official
from mixcpt.config import EvaluationConfig
from mixcpt.errors import BadInput, NotFound, Unavailable
from mixcpt.grading import theirs


def test_the_names_are_those_of_lm_eval_s_own_index() -> None:
    """Of folders with all the ways in which names are written: lists, quotes, classes, groups in the same file."""
    known, groups = official._index()
    for folder in ("arc", "mmlu", "scrolls", "truthfulqa", "gsm8k", "AraDiCE"):
        place = Path(lm_eval.__file__).parent / "tasks" / folder
        theirs = TaskManager(include_path=str(place), include_defaults=False)
        ours = {name for name, path in known.items() if path.is_relative_to(place)}
        assert ours == set(theirs.all_subtasks) and set(theirs.all_groups) <= groups, folder
    assert len(official.names()) > 10_000


def test_a_typo_is_told_with_the_nearest_names() -> None:
    assert official.tasks(["general", "lm-eval:arc_easy", "lm-eval:arc_easy", "x.jsonl"]) == ["arc_easy"]
    with pytest.raises(NotFound, match="no task 'arc_esy': did you mean lm-eval:arc_easy"):
        official.tasks(["lm-eval:arc_esy"])
    with pytest.raises(NotFound, match="no task 'qqqqqqqqqq': `lm_eval ls tasks` lists them"):
        official.tasks(["lm-eval:qqqqqqqqqq"])
    with pytest.raises(
        BadInput, match=r"mmlu is a group of lm-eval's tasks.*for example lm-eval:mmlu_.* or lm-eval:mmlu_"
    ):
        official.tasks(["lm-eval:mmlu"])


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    """What lm-eval gets in place of a data set of the hub; returns the names it asks for."""
    asked = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        asked.append(f"{path}/{name}")
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_its_questions_come_from_the_hub_by_lm_eval(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "question": "Which is alive?",
        "choices": {"text": ["a stone", "a fern"], "label": ["A", "B"]},
        "answerKey": "B",
        "id": "1",
    }
    rows = datasets.Dataset.from_list([row])
    asked = fake_hub(monkeypatch, datasets.DatasetDict({"train": rows, "validation": rows, "test": rows}))
    task = official.load("arc_easy")
    assert asked == ["allenai/ai2_arc/ARC-Easy"]
    assert task.doc_to_text(row) == "Question: Which is alive?\nAnswer:" and task.doc_to_target(row) == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub (offline)"),
            "could not be had from the Hugging Face",
        ),
        (FileNotFoundError("no such data set"), "ask again where the hub can be reached"),
        (ValueError("columns differ"), r"could not be read \(columns differ\): leave it out"),
    ],
)
def test_without_its_questions_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    fake_hub(monkeypatch, error)
    with pytest.raises(Unavailable, match=r"^lm-eval:arc_easy could not be asked, because the data set") as caught:
        official.load("arc_easy")
    assert re.search(said, str(caught.value))


def test_code_that_a_model_wrote_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Task:
        UNSAFE_CODE = True

    monkeypatch.setattr(official, "load_from", lambda folder, names: {names[0]: Task()})
    with pytest.raises(Unavailable, match="runs code that a model has written"):
        official.load("arc_easy")


def test_naming_tasks_does_not_import_lm_eval() -> None:
    script = (
        "import sys; from mixcpt import official; official.tasks(['lm-eval:arc_easy']); print('lm_eval' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"


# ---- presets


def test_every_task_of_the_presets_is_one_of_lm_eval_s_own() -> None:
    known, _ = official._index()
    names = {name for preset in official.PRESETS.values() for name in preset.shots}
    assert len(official.PRESETS["paper"].shots) == 17 and len(official.PRESETS["paper"].abilities) == 7
    for folder in {known[name].parent for name in names}:
        theirs = TaskManager(include_path=str(folder), include_defaults=False).all_subtasks
        assert {name for name in names if known[name].parent == folder} <= set(theirs), folder


def test_a_preset_is_its_tasks_each_once() -> None:
    asked = ["general", "preset:quick", "lm-eval:sciq", "lm-eval:gsm8k"]
    assert official.tasks(asked) == ["arc_easy", "sciq", "piqa", "winogrande", "gsm8k"]
    assert official.shots(asked) == {"arc_easy": 0, "piqa": 0, "winogrande": 0}, "what is named by itself is as it is"
    assert official.shots(["preset:paper"])["arc_challenge"] == 25
    with pytest.raises(NotFound, match=r"no preset 'all'.*preset:quick, preset:paper"):
        official.tasks(["preset:all"])
    words = official.PRESETS["quick"].needs()
    assert "4 of lm-eval's tasks with about 6,481 questions" in words and "Hugging Face hub" in words


def test_a_preset_is_asked_with_its_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the call of the hub: what is asked for, and with how many examples in the prompt."""
    rows = datasets.Dataset.from_list(
        [
            {"question": f"Which is {n}?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
            for n in range(40)
        ]
    )
    asked = fake_hub(monkeypatch, datasets.DatasetDict({"train": rows, "validation": rows, "test": rows}))
    monkeypatch.setattr(
        official, "PRESETS", {"two": official.Preset("Two.", {"x": {"arc_easy": (0, 1), "arc_challenge": (25, 1)}})}
    )
    found, problems = theirs(EvaluationConfig(tasks=["preset:two"], items=8))
    assert asked == ["allenai/ai2_arc/ARC-Easy", "allenai/ai2_arc/ARC-Challenge"] and not problems
    assert [(one.name, one.shots, one.items) for one in found] == [("arc_easy", 0, 8), ("arc_challenge", 25, 8)]
    assert found[0].fingerprint != found[1].fingerprint, "the same questions with examples before them are others"
    assert found[1].facts()["shots"] == 25


def test_without_a_hub_every_task_of_a_preset_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, ConnectionError("offline"))
    found, problems = theirs(EvaluationConfig(tasks=["preset:quick"]))
    assert not found and set(problems) == set(official.PRESETS["quick"].shots)
    assert all("ask again where the hub can be reached" in problem for problem in problems.values())
