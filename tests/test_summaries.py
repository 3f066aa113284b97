"""Summaries of finished runs: found again, and made anew as soon as anything that they were made of changes."""

import json
from typing import Any

import pytest
from made import made_child, made_run

from mixcpt import comparison, summaries, worker
from mixcpt.comparison import rows_of
from mixcpt.jobs import Job, Jobs
from mixcpt.plotting import per_line
from mixcpt.runs import Run
from mixcpt.workspace import Workspace


@pytest.fixture(autouse=True)
def restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a start: nothing is kept in memory."""
    monkeypatch.setattr(comparison._ROWS, "get", lambda key, files, make: make())


def counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one each time a run's records are read."""
    read: list[str] = []
    real = Run.curve

    def curve(self: Run) -> Any:
        read.append(self.id)
        return real(self)

    monkeypatch.setattr(Run, "curve", curve)
    return read


def test_a_finished_run_is_read_whole_once_and_then_found(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(workspace)
    read = counted(run, monkeypatch)
    first, _ = rows_of(workspace, [run.id])
    before = len(read)
    again, _ = rows_of(workspace, [run.id])
    assert before and len(read) == before
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(again))
    run.relabel(name="other")
    (row,), _ = rows_of(workspace, [run.id])
    assert row["title"] == "other" and len(read) > before


def test_a_chain_is_read_anew_when_a_run_before_it_changes(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = made_run(workspace)
    child = made_child(workspace, first)
    rows_of(workspace, [child.id])
    read = counted(child, monkeypatch)
    rows_of(workspace, [child.id])
    assert read == []
    first.append({"step": 11, "tokens": 99_999, "loss": 1.0, "seconds": 1.0})
    rows_of(workspace, [child.id])
    assert child.id in read


def test_a_run_at_work_keeps_no_summary_and_a_damaged_one_is_made_anew(workspace: Workspace) -> None:
    working, done = made_run(workspace, state="running"), made_run(workspace, arm="done")
    wanted, refused = rows_of(workspace, [working.id, done.id])
    assert not refused and not (working.folder / summaries.NAME).exists()
    for content in ("{", "[]", '{"made_of": 1}'):
        (done.folder / summaries.NAME).write_text(content)
        rows, _ = rows_of(workspace, [working.id, done.id])
        assert json.loads(json.dumps(rows)) == json.loads(json.dumps(wanted))


def test_points_on_the_way_are_never_kept(workspace: Workspace) -> None:
    run = made_run(workspace)
    (row,), _ = rows_of(workspace, [run.id], 2458)
    assert row["tokens"] == 4096 and not (run.folder / summaries.NAME).exists()


def test_many_lines_share_their_points() -> None:
    # 12,000 points together: 400 each up to 30 lines, 40 of 300, never fewer than 12
    assert [per_line(lines) for lines in (1, 30, 60, 300, 5000)] == [400, 400, 200, 40, 12]


def worker_ends(workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch, kind: str = "train") -> Job:
    """A worker's job of this run whose handler has nothing left to do."""
    job = Jobs(workspace).submit(kind, {}, run=run.id)
    job.update(state="running")
    monkeypatch.setattr(worker, "find_handler", lambda kind, handlers: lambda context: "nothing was left to do")
    assert worker.work(worker.JobContext(workspace, job)) == 0
    return job


@pytest.mark.parametrize("kind", ["train", "evaluate"])
def test_the_worker_keeps_it_so_that_the_first_look_is_quick(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = made_run(workspace)
    assert not (run.folder / summaries.NAME).exists()
    worker_ends(workspace, run, monkeypatch, kind)
    read = counted(run, monkeypatch)
    (row,), refused = rows_of(workspace, [run.id])
    assert read == [] and not refused and row["run"] == run.id and row["domain_gain"] == pytest.approx(0.38, abs=1e-3)


def test_what_is_asked_later_is_told_at_the_next_look(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(workspace)
    worker_ends(workspace, run, monkeypatch)
    evaluation = run.results()["evaluation"]
    evaluation["final"]["general"]["accuracy"] = 0.25
    run.write_results("evaluation", evaluation)
    (row,), _ = rows_of(workspace, [run.id])
    assert row["general_accuracy"] == 0.25


def test_a_job_is_done_also_where_no_summary_can_be_kept(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = made_run(workspace, state="queued")
    job = worker_ends(workspace, run, monkeypatch)
    assert job.state == "done" and "no summary for comparisons was kept: BadInput" in capsys.readouterr().out
    worker_ends(workspace, run, monkeypatch, "measure")
    assert "no summary" not in capsys.readouterr().out, "measuring changes none of its figures"
