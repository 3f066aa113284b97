"""`mixcpt export` and `mixcpt card`: exit codes, one sentence, and what is written; jobs run inside this process."""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from exportable import exportable_run, tiny_model
from in_process import InProcess
from made import made_run

from mixcpt import exporting, supervisor
from mixcpt.card import model_card
from mixcpt.cli import main
from mixcpt.jobs import Job, Jobs
from mixcpt.runs import Run
from mixcpt.workspace import Workspace


@pytest.fixture
def run(workspace: Workspace, tiny_tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    monkeypatch.setattr(supervisor, "Supervisor", InProcess)
    monkeypatch.chdir(tmp_path)
    return exportable_run(workspace, tiny_model("llama", tmp_path / "little-llama", tiny_tokenizer_folder))


def exports_of(workspace: Workspace) -> list[str]:
    return [job.state for job in Jobs(workspace).all() if job.kind == "export"]


@pytest.mark.parametrize(
    "to, file", [("adapter", "adapter_model.safetensors"), ("merged", "model.safetensors"), ("tasks", "general.yaml")]
)
def test_an_export_goes_where_it_was_wanted(
    workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str], to: str, file: str
) -> None:
    assert main(["export", run.id[:-1], "--to", to, "new/one"]) == 0
    out, err = capsys.readouterr()
    assert out == "new/one\n" and f"export mixture, CE + LSSD, {to}: done" in err
    assert Path("new/one", file).is_file()
    assert [path.name for path in Path("new").iterdir()] == ["one"]


def test_the_next_one_is_only_copied(workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", run.id, "one"]) == 0
    capsys.readouterr()
    assert main(["export", run.id, "two"]) == 0
    assert capsys.readouterr() == ("two\n", "") and exports_of(workspace) == ["done"]
    assert Path("one/adapter_config.json").read_bytes() == Path("two/adapter_config.json").read_bytes()


def test_so_much_of_the_adapter_as_was_asked_for(
    workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", run.id, "--strength", "0.5", "half"]) == 0
    assert "adapter at 0.5: done" in capsys.readouterr().err
    assert main(["export", run.id, "whole"]) == 0
    assert main(["export", run.id, "again"]) == 0
    alphas = [json.loads(Path(name, "adapter_config.json").read_text())["lora_alpha"] for name in ("half", "whole")]
    assert alphas == [4.0, 8.0] and exports_of(workspace) == ["done", "done"]
    assert Path("whole/README.md").read_bytes() == Path("again/README.md").read_bytes()
    capsys.readouterr()
    assert main(["card", run.id, "--strength", "0.5"]) == 0
    assert capsys.readouterr().out == Path("half/README.md").read_text()
    for command in (["export", run.id, "--strength", "2", "out"], ["card", run.id, "--strength", "nan"]):
        assert main(command) == 2
        assert "take one from 0 (the base) to 1" in capsys.readouterr().err
    assert not Path("out").exists()


def test_what_is_taken_away_meanwhile_is_told(
    workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class AnotherStrength(InProcess):
        def run_until(self, job_ids: Iterable[str], on_change: Callable[[Job], None] = lambda job: None) -> None:
            super().run_until(job_ids, on_change)
            exporting.make(workspace, run, "adapter", 0.25)

    monkeypatch.setattr(supervisor, "Supervisor", AnotherStrength)
    assert main(["export", run.id, "out"]) == 1
    assert "was removed or made anew meanwhile: export it again" in capsys.readouterr().err and not Path("out").exists()


def test_what_is_there_is_not_touched(workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine").mkdir()
    assert main(["export", run.id, "mine"]) == 2
    assert capsys.readouterr().err == "mixcpt: mine is there already: name a folder that does not exist yet.\n"
    assert not any(Path("mine").iterdir()) and exports_of(workspace) == []


def test_bad_input_is_one_sentence_and_queues_nothing(
    workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    waiting = made_run(workspace, state="queued")
    assert main(["export", waiting.id, "out"]) == 2
    assert "is queued and has no adapter yet: let it finish first." in capsys.readouterr().err
    shutil.rmtree("little-llama")
    assert main(["export", run.id, "--to", "merged", "out"]) == 2
    err = capsys.readouterr().err
    assert "is not here any more: put it back there." in err and err.count("\n") == 1
    assert exports_of(workspace) == [] and not Path("out").exists()


def test_a_job_that_fails_says_so(
    workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mixcpt.machine.memory_gb", lambda: (8.0, 0.1))
    assert main(["export", run.id, "--to", "merged", "out"]) == 1
    assert "mixcpt: Merging run" in capsys.readouterr().err and not Path("out").exists()


def test_the_card_is_printed_as_it_is_exported(
    workspace: Workspace, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["card", run.id]) == 0
    assert capsys.readouterr().out == model_card(workspace, run, "adapter")
    assert main(["card", run.id, "--of", "merged"]) == 0
    printed = capsys.readouterr().out
    assert main(["export", run.id, "--to", "merged", "out"]) == 0
    assert Path("out/README.md").read_text() == printed
