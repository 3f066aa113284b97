"""From a run to its jobs: which there are, what each waits for, and what goes on when something is resumed."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from in_process import InProcess
from tiny import recipe

from mixcpt import recipes, submission
from mixcpt.errors import BadInput, MixcptError
from mixcpt.jobs import Job, Jobs
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.stages import Dpo, follow
from mixcpt.supervisor import Supervisor
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


def test_what_waits_in_the_queue_is_followed(workspace: Workspace, tiny_model_folder: Path) -> None:
    """After a Ctrl-C nobody else may be there to start it."""
    (_, sft, _), jobs = chain(workspace, tiny_model_folder)
    assert submission.resume(workspace, sft) == [*jobs["sft"], *jobs["dpo"]]
    jobs["sft"][0].update(state="done")
    assert submission.resume(workspace, sft) == [jobs["sft"][1], *jobs["dpo"]]
    assert {job.status.attempt for these in jobs.values() for job in these} == {1}


def test_a_run_at_work_or_done_is_not_resumed(workspace: Workspace, tiny_model_folder: Path) -> None:
    run, (train,) = queued(workspace, tiny_model_folder)
    train.update(state="running")
    with pytest.raises(BadInput, match=r"is running.*wait for its end"):
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


# Chains


def chain(workspace: Workspace, model: Path, **changes: Any) -> tuple[list[Run], dict[str, list[Job]]]:
    """A queued chain of all three stages, without questions: its runs, and their jobs by stage."""
    plan = recipes.launch(workspace, recipe(model, sft={}, dpo={}, **changes), {})
    return plan.runs, {run.info.stage: [job for job in plan.jobs if job.run == run.id] for run in plan.runs}


def settle(workspace: Workspace) -> None:
    """One look of a supervisor whose workers cannot start: what waits for something that stopped fails."""
    at_work = Supervisor(workspace)
    for job in at_work.jobs.all():
        if job.state == "queued":
            at_work._is_ready(job)


def test_a_chain_waits_link_by_link_and_is_scored_under_what_it_continues(
    workspace: Workspace, tiny_model_folder: Path
) -> None:
    (cpt, sft, dpo), jobs = chain(workspace, tiny_model_folder)
    assert [run.info.parent for run in (cpt, sft, dpo)] == [None, cpt.id, sft.id]
    assert {stage: [job.kind for job in these] for stage, these in jobs.items()} == {
        "cpt": ["train"],
        "sft": ["score", "train"],
        "dpo": ["score", "train"],
    }
    waits = {job.id: job.after for these in jobs.values() for job in these}
    (knows,), (easy, answers), (better, prefers) = jobs["cpt"], jobs["sft"], jobs["dpo"]
    assert waits == {
        knows.id: [],
        easy.id: [knows.id],
        answers.id: [easy.id],
        better.id: [answers.id],
        prefers.id: [better.id],
    }
    assert (easy.payload["run"], better.payload["run"]) == (cpt.id, sft.id)
    assert (easy.payload["source"], better.payload["source"]) == ("builtin/instructions", "builtin/preferences")
    assert [job.label for job in (knows, easy, prefers)] == ["tiny", "tiny (sft)", "tiny (dpo)"]


@pytest.mark.parametrize("samples", [{"rule": {"strategy": "random", "count": 4}}, {"selection": "mine"}])
def test_samples_that_need_no_score_are_not_scored(
    workspace: Workspace, tiny_model_folder: Path, samples: dict[str, Any]
) -> None:
    plan = recipes.launch(workspace, recipe(tiny_model_folder, sft={"samples": samples}), {})
    cpt, sft = plan.jobs
    assert (sft.kind, sft.after) == ("train", [cpt.id])


def test_what_is_trained_already_is_not_waited_for(workspace: Workspace, tiny_model_folder: Path) -> None:
    (cpt, *_), jobs = chain(workspace, tiny_model_folder)
    jobs["cpt"][0].update(state="done")
    child = Runs(workspace).create(follow(cpt.config, "sft"), experiment="e", parent=cpt.id)
    assert submission.submit_run(workspace, child)[0].after == []
    copied = Runs(workspace).create(recipe(tiny_model_folder).cpt, experiment="e")  # no job here ever trained it
    child = Runs(workspace).create(follow(cpt.config, "sft"), experiment="e", parent=copied.id)
    assert submission.submit_run(workspace, child)[0].after == []


def test_scores_of_the_base_name_the_model(workspace: Workspace, tiny_model_folder: Path) -> None:
    alone = Runs(workspace).create(follow(recipe(tiny_model_folder).cpt, "sft"), experiment="e")
    score, train = submission.submit_run(workspace, alone)
    assert (score.payload["run"], score.payload["model"]["name"]) == (None, str(tiny_model_folder))
    assert (score.after, train.after) == ([], [score.id])


def test_only_jobs_that_are_not_there_yet_are_made(workspace: Workspace, tiny_model_folder: Path) -> None:
    """However far something that was killed had come."""
    (_, sft, _), jobs = chain(workspace, tiny_model_folder, cpt=asking(tiny_model_folder))
    whole = jobs["sft"]
    assert [job.kind for job in whole] == ["score", "train", "evaluate"]
    assert [job.id for job in submission.submit_run(workspace, sft)] == [job.id for job in whole]
    shutil.rmtree(whole[2].folder)
    again = submission.submit_run(workspace, sft)
    assert [job.kind for job in again] == ["score", "train", "evaluate"]
    assert again[:2] == whole[:2] and again[2].after == [whole[1].id]


def asking(model: Path) -> dict[str, Any]:
    return override(recipe(model).cpt, {"evaluation.tasks": ["general"]}).model_dump()


def test_a_run_stands_as_the_first_of_its_jobs_that_is_not_done(workspace: Workspace, tiny_model_folder: Path) -> None:
    (_, sft, _), jobs = chain(workspace, tiny_model_folder)
    score, train = jobs["sft"]
    score.update(state="running")
    assert sft.state(Jobs(workspace)) == "running"
    score.update(state="done")
    assert sft.state(Jobs(workspace)) == "queued"
    train.update(state="done")
    assert sft.state(Jobs(workspace)) == "done"


@pytest.mark.parametrize(("state", "how"), [("failed", "failed"), ("cancelled", "was cancelled")])
def test_a_chain_whose_first_run_stopped_says_so_and_goes_on_with_it(
    workspace: Workspace, tiny_model_folder: Path, state: str, how: str
) -> None:
    (cpt, sft, dpo), jobs = chain(workspace, tiny_model_folder)
    (train,) = jobs["cpt"]
    train.update(state=state, message="No luck.")
    settle(workspace)
    assert [run.state(Jobs(workspace)) for run in (cpt, sft, dpo)] == [state, "failed", "failed"]
    assert jobs["sft"][0].status.message == (
        f"It was waiting for tiny, which {how}: No luck. Resume that (`mixcpt resume {cpt.id}`), and this goes on too."
    )
    resumed = submission.resume(workspace, cpt)
    everything = [job for these in jobs.values() for job in these]
    assert resumed == everything and {job.state for job in everything} == {"queued"}


def test_a_stopped_middle_takes_only_what_follows_along(workspace: Workspace, tiny_model_folder: Path) -> None:
    (_, sft, dpo), jobs = chain(workspace, tiny_model_folder)
    jobs["cpt"][0].update(state="done")
    score, train = jobs["sft"]
    score.update(state="done")
    train.update(state="paused")
    settle(workspace)
    assert dpo.state(Jobs(workspace)) == "queued"  # it waits for the paused one
    assert all(Jobs(workspace).rests(job) for job in jobs["dpo"])
    assert submission.resume(workspace, sft) == [train, *jobs["dpo"]]


def test_a_run_is_not_deleted_while_another_waits_for_it(workspace: Workspace, tiny_model_folder: Path) -> None:
    (cpt, sft, dpo), jobs = chain(workspace, tiny_model_folder)
    for job in (job for these in jobs.values() for job in these):
        job.update(state="done")
    with pytest.raises(BadInput, match=f"is the parent of {sft.id}"):
        Runs(workspace).delete(cpt)
    Runs(workspace).delete(dpo)
    Runs(workspace).delete(sft)
    assert [job.run for job in Jobs(workspace).all()] == [cpt.id]


def test_an_export_that_stopped_is_not_resumed_with_its_run(workspace: Workspace, tiny_model_folder: Path) -> None:
    run, (train,) = queued(workspace, tiny_model_folder)
    train.update(state="failed")
    export = Jobs(workspace).submit("export", {}, run=run.id)
    export.update(state="failed")
    assert submission.resume(workspace, run) == [train] and export.state == "failed"


def test_a_rerun_continues_the_same_run(workspace: Workspace, tiny_model_folder: Path) -> None:
    (_, sft, dpo), _ = chain(workspace, tiny_model_folder)
    again, jobs = submission.rerun(workspace, dpo, {"preference.beta": 0.5})
    assert isinstance(again.config, Dpo) and again.config.preference.reference == sft.id == again.info.parent
    assert (again.config.preference.beta, jobs[0].payload["beta"]) == (0.5, 0.5)
    with pytest.raises(BadInput, match=r"preference\.reference is 'base'"):
        submission.rerun(workspace, dpo, {"preference.reference": "base"})
