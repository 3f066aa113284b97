"""`mixcpt evaluate` to its end, on a tiny model, its job done inside this process."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asked import MORE, QUESTIONS, new_run, write
from in_process import InProcess
from test_cli import check_keys

from mixcpt import supervisor
from mixcpt.cli import main
from mixcpt.jobs import Jobs
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    monkeypatch.setattr(supervisor, "Supervisor", InProcess)

    def call(*arguments: object) -> tuple[int, str, str]:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as end:  # argparse
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def run(workspace: Workspace, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    write(tmp_path / "six.jsonl", QUESTIONS)
    write(tmp_path / "more.jsonl", MORE)
    monkeypatch.chdir(tmp_path)
    return new_run(workspace, tiny_model_folder, 1, {"tasks": [str(tmp_path / "six.jsonl")]})


def test_it_asks_what_the_run_asks_and_then_what_is_named(cli: Cli, run: Run, workspace: Workspace) -> None:
    code, out, _ = cli("evaluate", run.id)
    assert code == 0 and "  six: " in out and "6 items, chance 38%, majority 67%" in out and "lm_eval --model hf" in out
    code, out, _ = cli("evaluate", run.id[:-2], "--tasks", "more.jsonl", "--items", 5, "--batch-size", 3, "--json")
    shown: dict[str, Any] = json.loads(out)
    assert code == 0 and list(shown["final"]) == ["six", "more"] and shown["run"] == run.id
    assert shown["final"]["more"]["items"] == 5 and shown["asked"]["more"]["batch_size"] == 3
    assert shown["asked"]["six"]["batch_size"] == 8
    check_keys("mixcpt evaluate", [shown])
    assert [job.state for job in Jobs(workspace).all()] == ["done", "done"]
    assert Jobs(workspace).all()[-1].status.message.startswith("more ")
    code, out, _ = cli("show", run.id)
    assert code == 0 and "  six: " in out and "  more: " in out and out.count("lm_eval --model hf") == 2
    assert json.loads(cli("show", run.id, "--json")[1])["results"]["evaluation"] == {
        key: value for key, value in shown.items() if key != "run"
    }


def test_the_format_is_measured_by_the_same_command(cli: Cli, run: Run) -> None:
    code, out, err = cli("evaluate", run.id, "--format", 3, "--templates", "alpaca,own")
    assert code == 1 and "format in template alpaca: well formed" in out and "  six: " not in out
    assert err.endswith("name templates in format_templates, of chatml, llama3, zephyr, alpaca, question-answer.\n")


def test_what_cannot_be_had_is_told_and_the_rest_is_asked(cli: Cli, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def load_dataset(path: str, **options: Any) -> Any:
        raise ConnectionError(f"Couldn't reach {path!r} on the Hub")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    code, out, err = cli("evaluate", run.id, "--tasks", "lm-eval:arc_easy,six.jsonl")
    assert code == 1 and "  six: " in out
    assert err.splitlines()[-1].startswith(
        "mixcpt: lm-eval:arc_easy could not be asked, because the data set allenai/ai2"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tasks", "nowhere.jsonl"], "There is no question set"),
        (["--tasks", "lm-eval:arc_esy"], "did you mean lm-eval:arc_easy"),
        (["--tasks", ""], "nothing to ask"),
        (["--templates", "alpacca", "--format", "2"], "no chat template 'alpacca'"),
        (["--items", "0"], "invalid number value: '0'"),
    ],
)
def test_bad_input_is_one_sentence_and_queues_nothing(
    cli: Cli, run: Run, workspace: Workspace, arguments: list[str], said: str
) -> None:
    code, out, err = cli("evaluate", run.id, *arguments)
    assert code == 2 and not out and said in err and Jobs(workspace).all() == []


def test_a_run_that_is_not_there(cli: Cli, workspace: Workspace) -> None:
    code, _, err = cli("evaluate", "nobody")
    assert code == 2 and "There is no run 'nobody'" in err
