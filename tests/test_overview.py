"""The list of runs: right figures, and nothing is read again that did not change."""

import shutil
from pathlib import Path

import pytest
from made import made_job, made_run

from mixcpt import overview as module
from mixcpt import recorded
from mixcpt.jobs import Jobs
from mixcpt.overview import DAMAGED, overview, summary
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace


def test_an_empty_workspace_has_no_runs(workspace: Workspace) -> None:
    assert overview(workspace) == []


def test_a_finished_run_in_one_line(workspace: Workspace) -> None:
    run = made_run(workspace, experiment="trial", arm="plain", seed=3, name="mine", gain=0.4, forgetting=0.1)
    run.relabel(tags=["good"])
    (line,) = overview(workspace)
    assert (line.id, line.name, line.title, line.experiment, line.arm) == (run.id, "mine", "mine", "trial", "plain")
    assert (line.stage, line.seed, line.parent, line.tags, line.recorded) == ("cpt", 3, None, ("good",), False)
    assert (line.model, line.retention, line.budget_tokens) == ("smollm2-135m", "lssd", 12_000)
    assert (line.state, line.kind, line.progress, line.created) == ("done", "evaluate", None, run.info.created)
    assert line.tokens == 10 * 1024
    reached = 1 - 2.718281828459045**-3  # the share of gain and forgetting that made.py's curve has at its end
    assert line.domain_gain == pytest.approx(0.4 * reached) and line.forgetting == pytest.approx(0.1 * reached)
    assert line.prompt_kl == pytest.approx(0.5 * reached)


def test_a_running_run_has_figures_so_far(workspace: Workspace) -> None:
    run = made_run(workspace, state="running", message="step 5 of 10, loss 2.2")
    (line,) = overview(workspace)
    assert (line.state, line.kind, line.message, line.progress) == ("running", "train", "step 5 of 10, loss 2.2", 0.5)
    assert line.tokens == 5 * 1024
    curve = run.curve()
    fall = curve[0]["measure"]["domain_bits_per_byte"] - curve[-1]["measure"]["domain_bits_per_byte"]
    assert line.domain_gain == fall and curve[-1]["step"] == 4


def test_a_queued_run_has_none(workspace: Workspace) -> None:
    made_run(workspace, state="queued")
    (line,) = overview(workspace)
    assert (line.state, line.tokens, line.domain_gain, line.forgetting, line.prompt_kl) == ("queued", 0, *3 * [None])


def test_a_run_without_jobs(workspace: Workspace) -> None:
    made_run(workspace, experiment=recorded.EXPERIMENT)
    made_run(workspace, state="failed")
    shutil.rmtree(workspace.jobs)
    workspace.jobs.mkdir()
    assert [(line.state, line.recorded) for line in overview(workspace)] == [("new", False), ("done", True)]


def test_newest_first_and_as_the_run_itself_says(workspace: Workspace) -> None:
    states = ["done", "failed", "cancelled", "paused", "queued", "running"]
    made = [made_run(workspace, state=state) for state in states]
    lines = overview(workspace)
    assert [line.id for line in lines] == [run.id for run in reversed(made)]
    assert [line.state for line in lines] == [run.state(Jobs(workspace)) for run in reversed(made)] == states[::-1]


def test_changes_are_seen_at_once(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    assert overview(workspace)[0].title == "mixture, CE + LSSD"
    run.relabel(name="named")
    run.append({"step": 6, "tokens": 6144, "loss": 1.0})
    job = Jobs(workspace).for_run(run.id)
    assert job
    job.update(state="failed", message="It broke.")
    (line,) = overview(workspace)
    assert (line.title, line.tokens, line.state, line.message) == ("named", 6144, "failed", "It broke.")
    Runs(workspace).delete(run)
    assert overview(workspace) == []


def test_what_only_reads_a_run_does_not_change_how_it_stands(workspace: Workspace) -> None:
    run = made_run(workspace)
    made_job(workspace, "export", "failed", run=run.id)
    made_job(workspace, "evaluate", "failed", run=run.id, payload={"ask": {"tasks": ["general"]}})
    assert overview(workspace)[0].state == "done" and run.state(Jobs(workspace)) == "done"


def test_what_did_not_change_is_not_read_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = made_run(workspace), made_run(workspace)
    overview(workspace)
    read: list[str] = []
    original = module._read

    def counted(run: Run) -> module.RunSummary:
        read.append(run.id)
        return original(run)

    monkeypatch.setattr(module, "_read", counted)
    before = overview(workspace)
    assert read == []
    second.relabel(tags=["x"])
    assert overview(workspace)[1:] == before[1:] and read == [second.id] and before[1].id == first.id


def test_one_damaged_folder_does_not_hide_the_others(workspace: Workspace) -> None:
    broken, unreadable, whole = made_run(workspace), made_run(workspace), made_run(workspace)
    (broken.folder / "results.json").write_text("{")
    (unreadable.folder / "config.yaml").write_text("a: [")
    (workspace.runs / "half-copied").mkdir()
    (workspace.runs / "notes.txt").touch()
    (workspace.jobs / "notes.txt").touch()
    lines = {line.id: line for line in overview(workspace)}
    assert {id: line.state for id, line in lines.items()} == {
        broken.id: DAMAGED,
        unreadable.id: DAMAGED,
        whole.id: "done",
    }
    assert "cannot be read" in lines[broken.id].message


def test_a_summary_is_that_of_the_list(workspace: Workspace) -> None:
    made_run(workspace)
    run = made_run(workspace, state="running")
    assert summary(workspace, run.id) == overview(workspace)[0]


@pytest.mark.parametrize("id", ["", ".", "..", "../jobs", "cpt-9", "a\0b"])
def test_there_is_no_summary_of_what_is_no_run(workspace: Workspace, id: str) -> None:
    assert summary(workspace, id) is None


def test_two_workspaces_do_not_mix(tmp_path: Path) -> None:
    one, two = Workspace(tmp_path / "one"), Workspace(tmp_path / "two")
    run = made_run(one)
    shutil.copytree(run.folder, two.runs / run.id)
    Run(two.runs / run.id).relabel(name="copy")
    assert (overview(one)[0].title, overview(two)[0].title) == ("mixture, CE + LSSD", "copy")
