"""The queue as one list."""

from typing import Any

import pytest
from made import made_job, made_run

from mixcpt.jobs import Jobs
from mixcpt.processes import lease
from mixcpt.queue import TALK, at_machine, next_for_machine, queue, taken
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace


def test_nothing_to_do_is_an_empty_queue(workspace: Workspace) -> None:
    for state in ("done", "failed", "cancelled", "paused"):
        made_run(workspace, state=state)
    made_job(workspace, "ingest", "done")
    assert queue(workspace) == []


def test_what_runs_comes_first_and_a_run_is_one_item(workspace: Workspace) -> None:
    waiting = made_run(workspace, state="queued", arm="second")
    corpus = made_job(workspace, "ingest", "queued", label="rust-book")
    running = made_run(workspace, state="running", name="first")
    items = queue(workspace)
    assert [item.title for item in items] == ["first", "second", "rust-book"]
    assert [item.job.run or item.job.id for item in items] == [running.id, waiting.id, corpus.id]
    assert [item.then for item in items] == [("evaluate",), ("evaluate",), ()]
    assert [item.status.state for item in items] == ["running", "queued", "queued"]


def test_time_left_is_known_while_a_run_is_trained(workspace: Workspace) -> None:
    """5,120 of 12,000 tokens are read, at 1,024 in 8 s; then comes one more measure, of 2 s."""
    made_run(workspace, state="running")
    made_run(workspace, state="queued")
    running, queued = queue(workspace)
    assert running.seconds_left == pytest.approx(6880 / 1024 * 8 + 2)
    assert queued.seconds_left is None


def test_a_run_that_asks_questions_still_runs(workspace: Workspace) -> None:
    run = made_run(workspace)
    made_job(workspace, "evaluate", "running", run=run.id)
    (item,) = queue(workspace)
    assert (item.job.kind, item.seconds_left, item.then) == ("evaluate", None, ())


@pytest.mark.parametrize(("kind", "payload"), [("export", {}), ("evaluate", {"ask": {"tasks": ["general"]}})])
def test_what_only_reads_a_run_is_an_item_of_its_own(workspace: Workspace, kind: str, payload: dict[str, Any]) -> None:
    run = made_run(workspace, name="mine")
    made_job(workspace, kind, "running", run=run.id, payload=payload)
    (item,) = queue(workspace)
    assert (item.job.kind, item.title) == (kind, "mine")


def test_what_was_asked_to_end_is_stopping(workspace: Workspace) -> None:
    run = made_run(workspace, state="running")
    Runs(workspace).cancel(run)
    (item,) = queue(workspace)
    assert item.stopping and item.then == ()


def test_jobs_of_a_deleted_folder_are_still_shown(workspace: Workspace) -> None:
    Jobs(workspace).submit("train", {}, run="cpt-gone", label="plain")
    (item,) = queue(workspace)
    assert item.title == "plain"


@pytest.mark.parametrize("file", ["run.json", "labels.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}"])
def test_a_damaged_run_is_called_by_its_id(workspace: Workspace, file: str, content: str) -> None:
    run = made_run(workspace, state="running")
    (run.folder / file).write_text(content)
    assert [item.title for item in queue(workspace)] == [run.id]


def test_who_has_the_machine_is_said_in_words(workspace: Workspace) -> None:
    assert at_machine(workspace) is None
    run = made_run(workspace, state="running", name="wells")
    train, evaluate = (next(job for job in Jobs(workspace).all() if job.kind == kind) for kind in ("train", "evaluate"))
    score = made_job(workspace, "score", "running", label="builtin/instructions")
    expected = {
        train.id: "training wells",
        evaluate.id: "the evaluation of wells",
        score.id: "scoring builtin/instructions",
        "job-gone": "job-gone",
        TALK: None,
    }
    for holder, words in expected.items():
        with lease(workspace, holder):
            assert at_machine(workspace) == words
    (run.folder / "labels.json").write_text("{")
    with lease(workspace, train.id):
        assert at_machine(workspace) == f"training {run.id}"
    assert taken("training wells") == "Training wells has the machine; Talk goes on when it is done."


def test_the_next_for_the_machine_is_the_oldest_that_waits_for_nothing_else(workspace: Workspace) -> None:
    assert next_for_machine(workspace) is None
    made_job(workspace, "ingest", "queued")
    first = made_job(workspace, "train", "running")
    made_job(workspace, "evaluate", "queued", after=[first.id])
    assert next_for_machine(workspace) is None
    second, _ = made_job(workspace, "score", "queued"), made_job(workspace, "train", "queued")
    found = next_for_machine(workspace)
    assert found and found.id == second.id
