"""From a run to its jobs: which there are, what each waits for, and what goes on when something is resumed."""

import os
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess
from tiny import recipe

from mixcpt import recipes, submission
from mixcpt.config import override
from mixcpt.errors import BadInput, MixcptError
from mixcpt.jobs import Job, Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace


def queued(workspace: Workspace, model: Path, **changes: Any) -> tuple[Run, list[Job]]:
    plan = recipes.launch(workspace, override(recipe(model), changes), {})
    return plan.runs[0], plan.jobs


def test_resume_puts_back_what_stopped_and_what_waited_for_it(workspace: Workspace, tiny_model_folder: Path) -> None:
    run, (train, ask) = queued(workspace, tiny_model_folder, **{"cpt.evaluation.tasks": ["general"]})
    for job in (ask, train):
        Jobs(workspace).request_cancel(job)
    assert [job.state for job in (train, ask)] == ["cancelled", "cancelled"]
    assert submission.resume(workspace, run) == [train, ask]
    assert [job.state for job in (train, ask)] == ["queued", "queued"]

    train.update(state="done")
    ask.update(state="failed", message="no luck")
    assert submission.resume(workspace, run) == [ask]
    assert (train.state, ask.state) == ("done", "queued")


def test_only_a_stopped_run_can_be_resumed(workspace: Workspace, tiny_model_folder: Path) -> None:
    run, (train,) = queued(workspace, tiny_model_folder)
    with pytest.raises(BadInput, match=r"is queued.*wait for its end"):
        submission.resume(workspace, run)
    train.update(state="done")
    with pytest.raises(BadInput, match=r"is done.*start a new one"):
        submission.resume(workspace, run)


def test_a_run_that_never_got_its_jobs_gets_them_by_resume(workspace: Workspace, tiny_model_folder: Path) -> None:
    run = Runs(workspace).create(recipe(tiny_model_folder).cpt, experiment="e")
    assert [job.kind for job in submission.resume(workspace, run)] == ["train"]
    assert run.state(Jobs(workspace)) == "queued"


def test_a_rerun_is_a_new_run_of_the_same_configuration(workspace: Workspace, tiny_model_folder: Path) -> None:
    parent, _ = queued(workspace, tiny_model_folder)
    config = recipe(tiny_model_folder).cpt.with_seed(7)
    run = Runs(workspace).create(config, experiment="e", arm="a", parent=parent.id, recipe="r", name="n")
    again, jobs = submission.rerun(workspace, run)
    assert again.id != run.id and again.config == run.config
    assert {**vars(again.info), "id": "", "created": ""} == {**vars(run.info), "id": "", "created": ""}
    assert [(job.kind, job.run, job.state) for job in jobs] == [("train", again.id, "queued")]


def test_a_failed_job_is_an_error_with_its_sentence(small_corpora: Workspace, tiny_model_folder: Path) -> None:
    run, jobs = queued(small_corpora, tiny_model_folder, **{"cpt.mixture.sources.1.source": "nowhere"})
    seen: list[str] = []
    stand_in: Any = InProcess(small_corpora)
    with pytest.raises(MixcptError, match="no corpus 'nowhere'"):
        submission.finish(jobs, stand_in, lambda job: seen.append(job.state))
    assert seen == ["failed"] and run.state(Jobs(small_corpora)) == "failed"
    assert jobs[0].status.pid == os.getpid()


def test_resume_waits_for_what_has_started_meanwhile(
    workspace: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor may be quicker than we are, and what waits for a paused job was never stopped."""
    run, (train, ask) = queued(workspace, tiny_model_folder, **{"cpt.evaluation.tasks": ["general"]})
    Jobs(workspace).request_pause(train)
    requeue = Jobs.requeue

    def at_once(jobs: Jobs, job: Job) -> Job:
        requeue(jobs, job)
        job.update(state="running")
        return job

    monkeypatch.setattr(Jobs, "requeue", at_once)
    assert submission.resume(workspace, run) == [train, ask]
