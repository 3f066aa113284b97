"""From a run to its jobs, and back into the queue with what stopped.

A run of stage two that chooses its samples by a score has them scored first, under the run it continues; whatever it
does waits for that run's training. So a whole chain can be queued at once. Where one of its runs stops, those after it
say so, and go on when it is resumed.
"""

from typing import Any

from mixcpt.errors import BadInput, MixcptError
from mixcpt.jobs import Job, Jobs, is_part_of_run
from mixcpt.lineage import continuing
from mixcpt.runs import Run, Runs
from mixcpt.samples import needs_scores, score_payload
from mixcpt.settings import override, to_yaml
from mixcpt.stages import AnyStage, Sft
from mixcpt.supervisor import OnChange, Supervisor
from mixcpt.workspace import Workspace

STOPPED = ("failed", "cancelled", "paused")


def finish(jobs: list[Job], supervisor: Supervisor, on_change: OnChange) -> None:
    """Wait for jobs; the first that is not done becomes an error with its sentence."""
    supervisor.run_until([job.id for job in jobs], on_change)
    for job in jobs:
        if job.state != "done":
            raise (BadInput if job.status.bad_input else MixcptError)(job.status.message)


def submit_run(workspace: Workspace, run: Run) -> list[Job]:
    """Queue the jobs of a run, those that it does not have yet: the scores that choose its samples, its training, and
    its questions, each after the one before, and the first after the training of the run it continues. Returns all of
    them in that order."""
    jobs = Jobs(workspace)
    known = jobs.all()
    there = {job.kind: job for job in known if job.run == run.id and is_part_of_run(job)}
    after = _training_of_parent(known, run)
    ordered: list[Job] = []
    for kind, payload in _work(run):
        job = there.get(kind) or jobs.submit(kind, payload, run=run.id, after=after, label=_label(run))
        ordered.append(job)
        after = [job.id]
    return ordered


def _work(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """Kind and payload of each job of a run."""
    stage = run.config
    work: list[tuple[str, dict[str, Any]]] = [("train", {})]
    if isinstance(stage, Sft) and needs_scores(stage):
        work.insert(0, ("score", score_payload(stage, run.info.parent)))
    if stage.evaluation.asks:
        work.append(("evaluate", {}))
    return work


def _training_of_parent(known: list[Job], run: Run) -> list[str]:
    """What a run waits for; nothing where its parent is trained, be it by a job, elsewhere, or long ago."""
    if run.info.parent is None:
        return []
    trainings = [job for job in known if job.kind == "train" and job.run == run.info.parent]
    return [job.id for job in trainings[-1:] if job.state != "done"]


def _label(run: Run) -> str:
    name = run.info.arm or run.info.experiment
    return name if run.info.stage == "cpt" else f"{name} ({run.info.stage})"


def resume(workspace: Workspace, run: Run) -> list[Job]:
    """Put a stopped run back into the queue, from its last whole checkpoint, and with it the runs that failed only
    because they waited for it; returns the jobs to wait for, however they stand by then.

    A run that never got a job, because what made it was killed just then, gets them now. One that waits in the queue
    stays there: whoever waits for its jobs works the queue off.

    Raises:
        BadInput: it is running or done.
    """
    jobs = Jobs(workspace)
    mine = [job for job in jobs.all() if job.run == run.id and is_part_of_run(job)]
    if not mine:
        return submit_run(workspace, run)
    states = {job.id: job.state for job in mine}
    if "queued" in states.values() and set(states.values()) <= {"queued", "done"}:
        waiting = [job for job in mine if states[job.id] == "queued"]
        return waiting + _waiting_for(jobs, waiting)
    stopped = [job for job in mine if states[job.id] in STOPPED] or mine[-1:]
    jobs.requeue(stopped[0])
    for job in stopped[1:]:
        if job.state in STOPPED:
            jobs.requeue(job)
    again = [job for job in mine if job in stopped or states[job.id] == "queued"]
    return again + _waiting_for(jobs, again)


def _waiting_for(jobs: Jobs, these: list[Job]) -> list[Job]:
    """Jobs that wait for one of these, at any remove."""
    reached = {job.id for job in these}
    found = []
    for job in jobs.all():  # oldest first, and a job waits only for older ones
        if job.id not in reached and reached.intersection(job.after) and job.state == "queued":
            reached.add(job.id)
            found.append(job)
    return found


def go_on(workspace: Workspace, run: Run) -> list[Job]:
    """Bring a run into the queue wherever it stands: a stopped one is resumed, any other has its jobs or gets them."""
    return resume(workspace, run) if run.state(Jobs(workspace)) in STOPPED else submit_run(workspace, run)


Identity = tuple[str, str | None, str]


def identity(workspace: Workspace, stage: AnyStage, arm: str, parent: str | None) -> Identity:
    """What makes a run the same as another of its experiment: its arm, what it continues, and all settings."""
    before = Runs(workspace).get(parent) if parent else None
    return arm, parent, to_yaml(continuing(stage, before))


def made_before(workspace: Workspace, experiment: str) -> dict[Identity, Run]:
    """The runs of an experiment by their identity; of several alike the last."""
    found = [run for run in Runs(workspace).all() if run.info.experiment == experiment]
    return {(run.info.arm, run.info.parent, to_yaml(run.config)): run for run in found}


def rerun(workspace: Workspace, run: Run, changes: dict[str, Any] | None = None) -> tuple[Run, list[Job]]:
    """A fresh run of the same configuration with dotted `changes`, queued; it continues the same parent. It keeps arm
    and name where nothing changes.

    Raises:
        BadInput: an unknown setting, a contradiction, or it could not continue its parent so.
    """
    info, stage = run.info, override(run.config, changes or {})
    arm, name = ("", "") if changes else (info.arm, run.labels.name)
    again = Runs(workspace).create(
        stage, experiment=info.experiment, arm=arm, parent=info.parent, recipe=info.recipe, name=name
    )
    return again, submit_run(workspace, again)
