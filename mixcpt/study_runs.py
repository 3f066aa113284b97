"""A study carried out: corpora and models, tuning, every arm under every seed, measures at the end, and the report.

Each step finds what an earlier attempt left, so a study that was stopped or killed is carried on by beginning again: no
finished run is made twice, stopped ones go on from their checkpoints. `carry_on` does it here and now; a job of kind
`study` does it in the background, where it waits for the runs without holding the machine. What this gives up: one run
that fails does not stop the others, so a fault that they share is met by all of them.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mixcpt import matrix, study_reports
from mixcpt.builtin import GENERAL
from mixcpt.errors import BadInput, Interrupted, MixcptError
from mixcpt.jobs import MOVING, Job, Jobs
from mixcpt.measured import Order, alike, points
from mixcpt.measured import submit as submit_measure
from mixcpt.modelstore import ensure_model
from mixcpt.noise import noisy_copy
from mixcpt.outlook import estimate_in_turn, seconds_of_reading
from mixcpt.overview import overview
from mixcpt.planned import PlannedRun, planned
from mixcpt.recipes import Plan, check_fits, launch
from mixcpt.runs import Run, Runs
from mixcpt.stages import AnyStage
from mixcpt.studies import Study, grid, last_runs, open_study, save
from mixcpt.study_kinds import noisy_name
from mixcpt.submission import STOPPED, finish
from mixcpt.supervisor import OnChange, Supervisor
from mixcpt.tokens import TextTokenizer
from mixcpt.tuning import Say, trial, tune, untuned
from mixcpt.workspace import Workspace, locked

if TYPE_CHECKING:
    from mixcpt.worker import JobContext


@dataclass(frozen=True)
class Cost:
    """What a study takes on this machine, in seconds of scoring, training and measuring: per arm over all its seeds
    until it is trained, of the tuning, of the measures at the end, and in all. `saved` is how much longer it would
    take if its runs shared no teacher cache. Questions are not counted."""

    arms: dict[str, float]
    tuning: float
    measuring: float
    total: float
    saved: float
    runs: int


def cost(workspace: Workspace, study: Study) -> Cost | None:
    """By the estimates of its runs in their order, each with what the earlier ones left in the teacher cache; None
    while a model is not there or the machine not measured.

    Raises:
        TooLittle: a run cannot fit. Unavailable: this machine cannot do it.
    """
    recipe = study.recipe
    values = recipe.tune.values if recipe.tune else []
    tries = [trial(recipe, group, value) for group in untuned(recipe) for value in values]
    runs = [one for seed in recipe.seeds_or_none() for one in planned(recipe, untuned(recipe), seed)]
    stages = [*tries, *(one.stage for one in runs)]
    in_turn = estimate_in_turn(workspace, stages)
    if in_turn is None:
        return None
    alone = [found[0].seconds for stage in stages if (found := estimate_in_turn(workspace, [stage]))]
    seconds = [one.seconds for one in in_turn]
    arms: dict[str, float] = defaultdict(float)
    for one, needed in zip(runs, seconds[len(tries) :], strict=True):
        for arm in one.arms:
            arms[arm] += needed / len(one.arms)
    training, measuring = sum(seconds), _measuring(workspace, study, runs)
    saved = max(0.0, sum(alone) - training)
    return Cost(dict(arms), sum(seconds[: len(tries)]), measuring, training + measuring, saved, len(runs))


def _measuring(workspace: Workspace, study: Study, runs: Sequence[PlannedRun]) -> float:
    """Seconds that the measures at the end take: the field or fields, every kind of general text and the prompts are
    read by the runs that arms end with, of several corpora by all runs, at each strength. What the base reads once is
    not counted."""
    texts = len(set(study.choice.corpora)) + len(GENERAL) + 1
    stages: dict[str, AnyStage] = {}
    times: dict[str, int] = defaultdict(int)  # by model, whose shape takes a look at its files
    for one in runs:
        if one.last or study.recipe.then:
            model = one.stage.model.model_dump_json()
            stages[model] = one.stage
            times[model] += 1 + sum(len(study.strengths.get(arm, [])) for arm in one.arms)
    taken = (seconds_of_reading(workspace, stages[model], times[model] * texts * study.measured) for model in stages)
    return sum(seconds or 0.0 for seconds in taken)


def carry_on(
    workspace: Workspace,
    study: Study,
    supervisor: Supervisor,
    *,
    say: Say,
    on_change: OnChange,
    should_stop: Callable[[], None] = lambda: None,
) -> list[Run]:
    """Do all that is left of a study, and return the runs that its arms end with.

    Raises:
        MixcptError: something failed; when all the rest is done, and the report is written.
    """
    save(workspace, study)
    for model in dict.fromkeys(study.choice.models):
        ensure_model(workspace, model, progress=say, should_stop=should_stop)
    _spoil(workspace, study, say)
    check_fits(workspace, study.recipe, say)
    tuned = tune(workspace, study.recipe, supervisor, say, on_change, going_on=True)
    plan = launch(workspace, study.recipe, tuned, going_on=True)
    say(f"{study.name}: {len(plan.runs)} runs, {_done(plan)} of them done")
    supervisor.run_until([job.id for job in plan.jobs], on_change)
    _measure(workspace, study, supervisor, on_change)
    if last_runs(workspace, study):
        for path in study_reports.write(workspace, study):
            say(f"report {path}")
    _require_done(study, plan)
    return [Run(workspace.runs / id) for id in last_runs(workspace, study)]


def _done(plan: Plan) -> int:
    left = {job.run for job in plan.jobs if job.state != "done"}
    return sum(run.id not in left for run in plan.runs)


def _require_done(study: Study, plan: Plan) -> None:
    """Raises MixcptError, with the first reason, when a run did not end well."""
    failed = [job for job in plan.jobs if job.state != "done"]
    if failed:
        left = len({job.run for job in failed})
        first = failed[0].status.message
        raise MixcptError(
            f"{left} of {len(plan.runs)} runs of {study.name} did not end well, the first ({failed[0].run}) so: "
            f"{first} Carry on with `mixcpt study run {study.name}`."
        )


def _spoil(workspace: Workspace, study: Study, say: Say) -> None:
    """Make the noisy copies of the corpus that arms read, those that are not there."""
    for share in study.noise:
        tokenizer = TextTokenizer.from_folder(ensure_model(workspace, study.choice.models[0]))
        name = noisy_name(study.choice.corpus, share)
        made = noisy_copy(workspace, study.choice.corpus, name, share, tokenizer)
        say(f"corpus {made.name}: {made.documents:,} documents, {share:.0%} of those for training with shuffled words")


def _measure(workspace: Workspace, study: Study, supervisor: Supervisor, on_change: OnChange) -> None:
    """Measure the finished runs on more text than while training, and arms at strengths, where that is wanted; of
    several corpora every run of the chains, on all of them."""
    if not study.measured:
        return
    ends = [Runs(workspace).get(id) for id in last_runs(workspace, study)]
    if study.recipe.then:
        if any(one.missing for one in matrix.matrices(ends)):
            finish([matrix.submit(workspace, ends, study.measured)], supervisor, on_change)
        return
    groups: dict[tuple[float, ...], list[Run]] = defaultdict(list)
    same = alike(ends)  # else all are ordered, which makes those count that belong together
    for run in ends:
        strengths = (*sorted(study.strengths.get(run.info.arm, [])), 1.0)
        if not same or not {point.strength for point in points(run)} >= set(strengths):
            groups[strengths].append(run)
    jobs = [
        submit_measure(workspace, runs, Order(strengths=strengths, tokens=study.measured))
        for strengths, runs in groups.items()
    ]
    finish(jobs, supervisor, on_change)


# In the background


def submit(workspace: Workspace, study: Study) -> Job:
    """Queue what is left of a study, once: the job that is at it already, the one that stopped, or a new one.

    Raises:
        BadInput: the name is taken by another experiment.
    """
    save(workspace, study)
    jobs = Jobs(workspace)
    with locked(workspace.experiments / study.name / ".study.lock"):
        last = job_of(workspace, study.name)
        if last and last.state in MOVING:
            return last
        if last and last.state in STOPPED:
            return jobs.requeue(last)
        return jobs.submit("study", {"study": study.name}, label=study.title)


def job_of(workspace: Workspace, name: str) -> Job | None:
    """The latest job that is to carry on this study."""
    jobs = [job for job, _ in Jobs(workspace).snapshot() if job.kind == "study" and job.payload.get("study") == name]
    return jobs[-1] if jobs else None


def stop(workspace: Workspace, name: str) -> None:
    """Ask the study's job and its runs to end; what was done is kept, and `submit` goes on from there.

    Raises:
        BadInput: it does not run.
    """
    job = job_of(workspace, name)
    if job is None or job.state not in MOVING:
        raise BadInput(f"The study {name!r} does not run, so there is nothing to stop.")
    Jobs(workspace).request_cancel(job)


def run_job(context: "JobContext") -> str:
    """A job of kind `study`. Payload: `study`, its name."""
    workspace = context.workspace
    study = open_study(workspace, context.job.payload["study"])
    runs = len(study.arms) * len(study.choice.seeds)

    def tell(job: Job) -> None:
        cells = [cell for line in grid(workspace, study) for cell in line]
        done = sum(cell.state == "done" for cell in cells)
        context.progress(sum(cell.progress for cell in cells) / len(cells), f"{done} of {runs} runs done")

    try:
        carry_on(
            workspace, study, _Stoppable(workspace, context.check), say=context.say, on_change=tell,
            should_stop=context.check,
        )  # fmt: skip
    except Interrupted:
        _stop_runs(workspace, study.name)
        raise
    return f"All {runs} runs are done, and the report is written."


class _Stoppable(Supervisor):
    """Steps until it is asked to stop."""

    def __init__(self, workspace: Workspace, check: Callable[[], None]):
        super().__init__(workspace)
        self._check = check

    def step(self) -> None:
        self._check()
        super().step()


def _stop_runs(workspace: Workspace, name: str) -> None:
    active: Sequence[str] = [run.id for run in overview(workspace) if run.experiment == name and run.state in MOVING]
    for id in active:  # the newest first, so that none that waits starts meanwhile
        Runs(workspace).cancel(Runs(workspace).get(id))
