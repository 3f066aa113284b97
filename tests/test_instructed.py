"""Every check by itself, what the shipped prompts demand, and that lm-eval's own command scores them as we do."""

import json
from pathlib import Path
from typing import Any

import pytest
from asked import new_run, plain_lm_eval

from mixcpt import answers, builtin, instructed
from mixcpt.config import EvaluationConfig
from mixcpt.evaluation import evaluate
from mixcpt.instructed import CHECKS, constant, empty, in_words, is_strict, met, score
from mixcpt.questions import chance, kind_of, majority, question_sets
from mixcpt.statistics import share_interval
from mixcpt.tasks import export_tasks, write_tasks
from mixcpt.workspace import Workspace

CASES: list[tuple[dict[str, Any], list[str], list[str]]] = [
    ({"check": "words", "least": 2, "most": 3}, ["two words", "it's - fine"], ["one", "now these are four", "- -"]),
    ({"check": "words", "most": 2}, ["one", "two words"], ["three small words"]),
    ({"check": "sentences", "least": 2, "most": 2}, ["One. Two.", "Is it? Yes", 'He said "no." Then left.'],
     ["Only one.", "It costs 3.50 euros.", "A. B. C."]),
    ({"check": "lines", "least": 2, "most": 2}, ["a\nb", "a\n\nb"], ["a", "a\nb\nc"]),
    ({"check": "paragraphs", "least": 2, "most": 2}, ["a\nb\n\nc", "a\n \n\nb"], ["a\nb", "a\n\nb\n\nc"]),
    ({"check": "bullets", "least": 2, "most": 2}, ["- a\n- b", "Here:\n* a\n• b"], ["- a", "-a\n-b", "1. a\n2. b"]),
    ({"check": "numbered", "least": 2, "most": 2}, ["1. a\n2. b", "Steps:\n1) a\n2) b"],
     ["1. a", "2. a\n3. b", "1. a\n1. b", "- a\n- b"]),
    ({"check": "contains", "text": "salt"}, ["SALT is", "the salt."], ["salty", "pepper"]),
    ({"check": "contains", "text": "snow", "times": 2}, ["snow on Snow"], ["snow", "snow snowman"]),
    ({"check": "without", "text": "the"}, ["other"], ["in The end"]),
    ({"check": "without_character", "characters": "z,"}, ["a b"], ["a, b", "Zoo"]),
    ({"check": "lower"}, ["all small, 3"], ["One capital", "123"]),
    ({"check": "upper"}, ["ALL LARGE!"], ["Most LARGE", "123"]),
    ({"check": "starts", "text": "Once"}, ["Once upon"], ["once upon", "At Once"]),
    ({"check": "ends", "text": "?"}, ["Is it?"], ["Is it? No."]),
    ({"check": "quoted"}, ['"Bread first"'], ["'Bread'", '"', '"a" b', '""']),
    ({"check": "one_of", "choices": ["yes", "no"]}, ["Yes.", "no"], ["yes it is", "maybe"]),
    ({"check": "number", "least": 10, "most": 20}, ["10", "15."], ["9", "twelve", "15 16", "1e1"]),
    ({"check": "number"}, ["-3"], ["3.5"]),
    ({"check": "valid_json"}, ["{}", "[1]", " 3 "], ["{a: 1}", "Here: {}"]),
    ({"check": "valid_json", "keys": ["a", "b"]}, ['{"b": 1, "a": 2}'], ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}', "[]"]),
    ({"check": "valid_json", "items": 2}, ["[1, 2]"], ["[1]", "{}"]),
    ({"check": "script", "script": "GREEK"}, ["α, β, γ"], ["alpha", "α b", "123"]),
]  # fmt: skip


@pytest.mark.parametrize(("demand", "meets", "fails"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_check(demand: dict[str, Any], meets: list[str], fails: list[str]) -> None:
    assert [met(text, [demand]) for text in meets] == [[True]] * len(meets)
    assert [met(text, [demand]) for text in fails] == [[False]] * len(fails)
    assert met(" \n", [demand]) == [False], "an empty answer meets nothing"


def test_every_check_is_tested_and_told_in_words() -> None:
    assert {case[0]["check"] for case in CASES} == set(CHECKS)
    told = [in_words(case[0]) for case in CASES]
    assert told[:3] == ["2 to 3 words", "at most 2 words", "exactly 2 sentences"] and len(set(told)) == len(told)
    assert in_words({"check": "lines", "least": 1, "most": 1}) == "exactly 1 line"


def test_json_that_is_nested_without_end_is_no_json() -> None:
    assert not is_strict("[" * 100_000, [{"check": "valid_json"}])


def test_strict_wants_every_demand() -> None:
    demands = [{"check": "lower"}, {"check": "words", "most": 2}]
    doc = {"question": "q", "checks": json.dumps(demands)}
    assert score(doc, ["two words"]) == {"strict": 1.0, "met": 1.0}
    assert score(doc, ["three small words"]) == {"strict": 0.0, "met": 0.5}


def test_the_shipped_prompts() -> None:
    rows = builtin.instructed()
    assert 60 <= len(rows) <= 100 and len({row["prompt"] for row in rows}) == len(rows)
    assert all(1 <= len(row["checks"]) <= 3 and row["checks"] for row in rows)
    used = {demand["check"] for row in rows for demand in row["checks"]}
    assert used == set(CHECKS)
    for text in instructions_that_are_trained_on():
        assert text not in {row["prompt"] for row in rows}


def instructions_that_are_trained_on() -> list[str]:
    return [row["instruction"] for row in builtin.instructions()]


def test_what_knows_nothing_of_a_prompt_scores_little_and_it_is_told() -> None:
    demands = [row["checks"] for row in builtin.instructed()]
    assert empty(demands) == 0.0
    by_hand = max(sum(is_strict(one, each) for each in demands) for one in instructed.CONSTANT) / len(demands)
    assert constant(demands) == by_hand < 0.3
    (questions,) = question_sets(EvaluationConfig(tasks=["instructions"])).values()
    assert (kind_of(questions), chance(questions), majority(questions)) == ("instructed", 0.0, by_hand)


def test_the_task_files_name_no_path_and_load(tmp_path: Path) -> None:
    questions = [{"question": "Say 7", "checks": [{"check": "number"}], "text": "<q>Say 7<a>", "ends": ["<end>"]}]
    write_tasks({"instructions": questions}, tmp_path)
    assert json.loads((tmp_path / "instructions.jsonl").read_text()) == {
        "question": "Say 7",
        "text": "<q>Say 7<a>",
        "ends": ["<end>"],
        "checks": '[{"check": "number"}]',
    }
    definition = (tmp_path / "instructions.yaml").read_text()
    assert "process_results: !function instructed.score" in definition and str(tmp_path) not in definition
    assert "import mixcpt" not in (tmp_path / "instructed.py").read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("instructed") / "home")


def test_a_run_is_asked_as_lm_eval_asks_it(home: Workspace, tiny_model_folder: Path, tmp_path: Path) -> None:
    """The tiny model has no template, so prompts are plain text; what it writes is noise, of which some fits."""
    run = new_run(home, tiny_model_folder, 3, {"tasks": ["instructions"], "items": 8, "batch_size": 8}, scale=0.3)
    section = evaluate(home, run)
    final, asked = section["final"]["instructions"], section["asked"]["instructions"]
    rows = answers.read(run, "instructions")
    (questions,) = question_sets(run.config.evaluation).values()
    assert asked["kind"] == "instructed" and final["measure"] == "strict" and final["items"] == len(rows) == 8
    right = [float(is_strict(row.final, one["checks"])) for row, one in zip(rows, questions, strict=True)]
    assert final["correct"] == right
    assert tuple(final["interval"]) == share_interval(sum(right), 8)
    assert rows[0].question == questions[0]["question"]
    assert rows[0].right == ["; ".join(map(in_words, questions[0]["checks"]))]
    assert any(row.base != row.final for row in rows)
    kept = [json.loads(line) for line in (run.folder / "tasks" / "instructions.jsonl").read_text().splitlines()]
    assert kept[0]["text"] == f"{questions[0]['question']}\n\n"
    folder = export_tasks(home, run, tmp_path / "exported")
    arguments = json.dumps({"pretrained": str(tiny_model_folder), "peft": str(run.adapter), "dtype": "float32"})
    found = plain_lm_eval(
        ["--model", "hf", "--model_args", arguments, "--tasks", "mixcpt_instructions", "--include_path", str(folder),
         "--batch_size", "8", "--device", "cpu"], tmp_path)  # fmt: skip
    assert found["mixcpt_instructions"]["strict,none"] == final["accuracy"]
