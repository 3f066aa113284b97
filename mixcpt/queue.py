"""What is being worked at and what waits, as one list to look at."""

from collections.abc import Iterable
from dataclasses import dataclass

from mixcpt.errors import MixcptError
from mixcpt.jobs import ACCELERATOR_KINDS, MOVING, Job, Jobs, Status, is_part_of_run, telling
from mixcpt.processes import lease_holder
from mixcpt.progress import progress
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

Look = tuple[Job, Status]


@dataclass(frozen=True)
class QueueItem:
    """Something that runs or waits: of a run, the job at which it stands; `then` are the kinds of work that follow it.
    `run` is None where the job has none, or one that is gone.

    `stage` is that of the run, empty for a job of none. `seconds_left` is known while a run is being trained.
    `stopping`: it was asked to cancel or pause and has not yet.
    """

    job: Job
    status: Status
    title: str
    run: Run | None = None
    then: tuple[str, ...] = ()
    seconds_left: float | None = None
    stopping: bool = False
    stage: str = ""


def queue(workspace: Workspace) -> list[QueueItem]:
    """First what runs, then what waits, in the order in which it was given."""
    looks = Jobs(workspace).snapshot()
    busy = {_whose(job) for job, status in looks if status.state in MOVING}
    items = []
    for owner in busy:
        mine = [look for look in looks if _whose(look[0]) == owner]
        found = telling(mine) or mine[-1]  # what is no part of a run tells nothing about it
        if found[1].state in MOVING:  # what waits for a paused job is at rest as well
            items.append(_item(workspace, found, mine))
    return sorted(items, key=lambda item: (item.status.state == "queued", item.job.created))


TALK = "talk"
"""What the inference process calls itself while it holds the accelerator's lease."""
_WORK = {"train": "training", "evaluate": "the evaluation of", "measure": "measuring", "score": "scoring"}


def next_for_machine(workspace: Workspace) -> Job | None:
    """The job that takes the accelerator as soon as it is free: the oldest that waits for nothing else."""
    looks = Jobs(workspace).snapshot()
    done = {job.id for job, status in looks if status.state == "done"}
    ready = (
        job
        for job, status in looks
        if status.state == "queued" and job.kind in ACCELERATOR_KINDS and done.issuperset(job.after)
    )
    return next(ready, None)


def at_machine(workspace: Workspace) -> str | None:
    """In words, what has the accelerator, such as "training quick"; None when it is free or the talk page has it."""
    holder = lease_holder(workspace)
    if holder is None or holder == TALK:
        return None
    try:
        return in_words(workspace, Jobs(workspace).get(holder))
    except MixcptError:  # no job: whatever took the lease by another name
        return holder or "something else"


def in_words(workspace: Workspace, job: Job) -> str:
    """What a job does and to what, for the middle of a sentence: "training quick"."""
    run = _run(workspace, job)
    return f"{_WORK.get(job.kind, job.kind)} {_title(run) if run else job.name}"


def _whose(job: Job) -> str:
    return str(job.run) if is_part_of_run(job) else job.id


def _item(workspace: Workspace, found: Look, mine: Iterable[Look]) -> QueueItem:
    job, status = found
    then = tuple(other.kind for other, its in mine if its.state == "queued" and other.id != job.id)
    run = _run(workspace, job)
    stopping = status.state == "running" and job.requested() is not None
    left = _left(run) if run and job.kind == "train" and status.state == "running" else None
    title, stage = (_title(run), _stage(run)) if run else (job.label or job.kind, "")
    return QueueItem(job, status, title, run, then, left, stopping, stage)


def taken(words: str) -> str:
    """What is said to whoever wants to talk meanwhile."""
    return f"{words[:1].upper()}{words[1:]} has the machine; Talk goes on when it is done."


def _run(workspace: Workspace, job: Job) -> Run | None:
    """None where the job has none, or one that is gone."""
    return Run(workspace.runs / job.run) if job.run and (workspace.runs / job.run / "run.json").is_file() else None


def _title(run: Run) -> str:
    try:
        return run.title
    except (MixcptError, KeyError, TypeError):  # its run.json or labels.json is damaged: it can still be cancelled
        return run.id


def _stage(run: Run) -> str:
    try:
        return run.info.stage
    except (MixcptError, KeyError, TypeError):  # as in `_title`
        return ""


def _left(run: Run) -> float | None:
    try:
        how_far = progress(run.config, run.total_tokens, run.losses(), run.curve())
    except MixcptError:  # its own page tells what is wrong with it; the queue goes on without this figure
        return None
    return how_far.seconds_left if how_far else None
