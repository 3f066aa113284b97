"""A recipe carried out: corpora, tuning, then every arm under every seed, each a queued job.

Nothing here trains: it writes runs and jobs and lets a supervisor work them off, so a recipe started from the command
line and one started in the app are the same thing on disk.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mixcpt import builtin, guesses, machine
from mixcpt.builtin import require_source
from mixcpt.config import Stage, override
from mixcpt.corpus import list_corpora
from mixcpt.drafts import Guess
from mixcpt.errors import BadConfig, BadInput, MixcptError
from mixcpt.estimate import Estimate, estimate, require_memory, shape_of
from mixcpt.evaluation import BUILTIN_SETS, question_sets
from mixcpt.jobs import Job, Jobs
from mixcpt.machine import Machine
from mixcpt.manifest import Spec
from mixcpt.modelstore import BUILTIN_MODELS, ensure_model, find_folder
from mixcpt.recipe import CorpusSpec, Recipe
from mixcpt.runs import Run, Runs
from mixcpt.supervisor import Supervisor
from mixcpt.workspace import Workspace, read_json, write_json

OnChange = Callable[[Job], None]
Say = Callable[[str], None]
T = TypeVar("T")
STOPPED = ("failed", "cancelled", "paused")


@dataclass
class Plan:
    """What a recipe became on disk: its runs, and the jobs to wait for."""

    runs: list[Run] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def add(self, run: Run, jobs: Iterable[Job]) -> None:
        self.runs.append(run)
        self.jobs += jobs


def carry_out(
    workspace: Workspace, recipe: Recipe, folder: Path, *, say: Say, on_change: OnChange, guess: Guess | None = None
) -> Plan:
    """Run a recipe to its end, here and now; `folder` is where its relative file names start. A guess is kept with
    every run but those that tune.

    Raises:
        MixcptError: something failed; its sentence is the job's.
    """
    recipe = find_questions(find_models(recipe, folder), folder)
    ensure_model(workspace, recipe.cpt.model.name, progress=say)
    supervisor = Supervisor(workspace)
    ingest(workspace, recipe, folder, supervisor, on_change)
    check_fits(workspace, recipe, say)
    tuned = tune(workspace, recipe, supervisor, say, on_change)
    plan = launch(workspace, recipe, tuned, guess)
    for run in plan.runs:
        say(f"run {run.id}" + (f"  {run.info.arm}, seed {run.info.seed}" if run.info.arm else ""))
    supervisor.run_until([job.id for job in plan.jobs], on_change)
    return plan


def find_questions(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the names of question files absolute; every set is read, so that a bad one stops nothing later.

    Raises:
        BadFile: a question set that cannot be asked.
    """

    def absolute(tasks: list[str]) -> list[str]:
        return [task if task in BUILTIN_SETS else _absolute(task, folder) for task in tasks]

    found = _with_paths(recipe, "evaluation.tasks", recipe.cpt.evaluation.tasks, absolute)
    stages = [found.cpt, *(override(found.cpt, arm.set) for arm in found.arms)]
    for evaluation in {tuple(stage.evaluation.tasks): stage.evaluation for stage in stages}.values():
        question_sets(evaluation)
    return found


def find_models(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the names of model folders absolute, so that its runs can be resumed from anywhere."""
    return _with_paths(recipe, "model.name", recipe.cpt.model.name, lambda name: find_model(name, folder))


def find_model(name: str, folder: Path) -> str:
    """The name of a model; of a local folder its absolute path, looked for in `folder`, then where we are."""
    places = [] if name in BUILTIN_MODELS else [_absolute(name, folder), _absolute(name, Path())]
    return next((place for place in places if Path(place).is_dir()), name)


def _absolute(path: str, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).absolute())


def _with_paths(recipe: Recipe, field: str, value: T, absolute: Callable[[T], T]) -> Recipe:
    """The recipe with `absolute` applied to a field of the stage, whose value is `value`, and where arms and tuning
    groups set it."""

    def changed(settings: dict[str, Any]) -> dict[str, Any]:
        return settings | {field: absolute(settings[field])} if field in settings else settings

    changes: dict[str, Any] = {f"cpt.{field}": absolute(value)}
    changes |= {f"arms.{number}.set": changed(arm.set) for number, arm in enumerate(recipe.arms)}
    if recipe.tune:
        changes["tune.groups"] = {group: changed(settings) for group, settings in recipe.tune.groups.items()}
    return override(recipe, changes)


def ingest(workspace: Workspace, recipe: Recipe, folder: Path, supervisor: Supervisor, on_change: OnChange) -> None:
    """Make the recipe's corpora that the workspace does not have.

    Raises:
        BadConfig: a corpus of that name is there, but was made of something else.
    """
    there = {manifest.name: manifest for manifest in list_corpora(workspace)}
    for spec in recipe.corpora:
        kept = there[spec.name].spec if spec.name in there else None
        wanted = _spec(spec, folder)
        if kept and kept != wanted:
            parts = ", ".join(part for part in Spec.model_fields if getattr(kept, part) != getattr(wanted, part))
            raise BadConfig(
                f"The corpus {spec.name!r} is there already, but made otherwise than the recipe says (other {parts}): "
                f"rename it in the recipe, or `mixcpt corpus remove {spec.name}`."
            )
    jobs = [
        submit_ingest(workspace, spec, folder, recipe.cpt.model.name)
        for spec in recipe.corpora
        if spec.name not in there
    ]
    finish(workspace, jobs, supervisor, on_change)


def _spec(spec: CorpusSpec, folder: Path) -> Spec:
    """As it is kept in the manifest; what concerns only the hub does not count for files."""
    aside = {"name", "hub_config", "hub_dir", "split"} if spec.files else {"name"}
    return Spec(**spec.model_dump(exclude=aside) | {"files": [_absolute(file, folder) for file in spec.files]})


def submit_ingest(workspace: Workspace, spec: CorpusSpec, folder: Path, model: str, replace: bool = False) -> Job:
    """Queue the making of one corpus; file names, and that of a model folder, are relative to `folder`."""
    payload = spec.model_dump() | {
        "files": [_absolute(file, folder) for file in spec.files],
        "model": find_model(model, folder),
        "replace": replace,
    }
    return Jobs(workspace).submit("ingest", payload, label=spec.name)


def finish(workspace: Workspace, jobs: list[Job], supervisor: Supervisor, on_change: OnChange) -> None:
    """Wait for jobs; the first that is not done becomes an error with its sentence."""
    supervisor.run_until([job.id for job in jobs], on_change)
    for job in jobs:
        if job.state != "done":
            raise (BadInput if job.status.bad_input else MixcptError)(job.status.message)


def submit_run(workspace: Workspace, run: Run) -> list[Job]:
    """Queue a run's training and, where questions are configured, its evaluation."""
    jobs = Jobs(workspace)
    label = run.info.arm or run.info.experiment
    train = jobs.submit("train", {}, run=run.id, label=label)
    if not run.config.evaluation.tasks:
        return [train]
    return [train, jobs.submit("evaluate", {}, run=run.id, after=[train.id], label=label)]


def stages(recipe: Recipe, tuned: dict[str, float]) -> Iterator[tuple[str, Stage]]:
    """Every arm's name and resolved stage, seeds not yet applied. `tuned` holds the value found per tuning group."""
    if not recipe.arms:
        yield "", recipe.cpt
    for arm in recipe.arms:
        chosen = {recipe.tune.field: tuned[arm.tuned] * arm.times} if recipe.tune and arm.tuned else {}
        yield arm.name, override(recipe.cpt, chosen | arm.set)


def untuned(recipe: Recipe) -> dict[str, float]:
    """A value per tuning group before any is found, for what does not depend on it."""
    return dict.fromkeys(recipe.tune.groups, recipe.tune.values[0]) if recipe.tune else {}


def launch(workspace: Workspace, recipe: Recipe, tuned: dict[str, float], guess: Guess | None = None) -> Plan:
    """Create and queue a run for every arm and seed."""
    plan = Plan()
    for seed in recipe.seeds_or_none():
        for name, stage in stages(recipe, tuned):
            run = Runs(workspace).create(stage.with_seed(seed), experiment=recipe.name, arm=name, recipe=recipe.name)
            if guess:
                guesses.keep(run, guess)
            plan.add(run, submit_run(workspace, run))
    return plan


def tune(
    workspace: Workspace, recipe: Recipe, supervisor: Supervisor, say: Say, on_change: OnChange
) -> dict[str, float]:
    """Choose the tuned setting per group: lowest domain bits per byte on validation documents, all else as the recipe.

    The held-out part is never looked at. What was found is kept in the experiment's tuning.json and found again there,
    as long as settings, seed, texts, device and precision are the same.
    """
    if recipe.tune is None:
        return {}
    kept = workspace.experiments / recipe.name / "tuning.json"
    question = _question(workspace, recipe)
    if kept.exists() and read_json(kept)["question"] == question:
        chosen: dict[str, float] = read_json(kept)["chosen"]
        return chosen
    tries = {
        (group, value): _try(workspace, recipe, group, value)
        for group in recipe.tune.groups
        for value in recipe.tune.values
    }
    jobs = [job for run in tries.values() for job in submit_run(workspace, run)]
    for run in tries.values():
        say(f"run {run.id}  {run.info.arm}")
    finish(workspace, jobs, supervisor, on_change)
    table = {
        group: {
            value: tries[group, value].curve()[-1]["measure"]["domain_bits_per_byte"] for value in recipe.tune.values
        }
        for group in recipe.tune.groups
    }
    chosen = {group: min(scores, key=lambda value: scores[value]) for group, scores in table.items()}
    kept.parent.mkdir(parents=True, exist_ok=True)
    shown = {group: {f"{value:g}": score for value, score in scores.items()} for group, scores in table.items()}
    runs = {f"{group} {value:g}": run.id for (group, value), run in tries.items()}
    write_json(kept, {"question": question, "chosen": chosen, "validation_bits_per_byte": shown, "runs": runs})
    for group, value in chosen.items():
        say(f"tuned {recipe.tune.field} for {group}: {value:g}")
    return chosen


def _question(workspace: Workspace, recipe: Recipe) -> dict[str, Any]:
    """All that the outcome of tuning depends on."""
    assert recipe.tune is not None
    groups = {group: override(recipe.cpt, changes) for group, changes in recipe.tune.groups.items()}
    facts = machine.here(workspace)
    sources = sorted({source for stage in groups.values() for source in stage.mixture.target_tokens()})
    return {
        "tune": recipe.tune.model_dump(mode="json"),
        "cpt": recipe.cpt.model_dump(mode="json"),
        "seed": recipe.seeds_or_none()[0],
        "corpora": {source: builtin.fingerprint(workspace, source) for source in sources},
        "machine": {group: [*machine.resolve(stage.model, facts)] for group, stage in groups.items()},
    }


def _try(workspace: Workspace, recipe: Recipe, group: str, value: float) -> Run:
    stage = trial(recipe, group, value)
    return Runs(workspace).create(stage, experiment=recipe.name, arm=f"tune {group} {value:g}", recipe=recipe.name)


def trial(recipe: Recipe, group: str, value: float) -> Stage:
    """The stage that tries one value of a recipe that tunes."""
    assert recipe.tune is not None
    changes = recipe.tune.groups[group] | {
        recipe.tune.field: value,
        "mixture.budget_tokens": recipe.tune.budget_tokens,
        "measures.on": "validation",
        "measures.every_steps": 0,
        "evaluation.tasks": [],
    }
    return override(recipe.cpt, changes).with_seed(recipe.seeds_or_none()[0])


@dataclass(frozen=True)
class Need:
    """What `runs` runs of one arm take, each of them. Of those that tune, `arm` is "tune GROUP"."""

    arm: str
    runs: int
    estimate: Estimate


def estimate_recipe(workspace: Workspace, recipe: Recipe, say: Say) -> list[Need]:
    """The estimate of every arm, and of the tuning before; nothing is trained.

    Raises:
        TooLittle: an arm cannot fit.
    """
    ensure_model(workspace, recipe.cpt.model.name, progress=say)
    tuning = (
        [
            Need(f"tune {group}", len(recipe.tune.values), estimate_stage(workspace, trial(recipe, group, value)))
            for group, value in untuned(recipe).items()
        ]
        if recipe.tune
        else []
    )
    seeds = len(recipe.seeds_or_none())
    return tuning + [
        Need(name, seeds, estimate_stage(workspace, stage)) for name, stage in stages(recipe, untuned(recipe))
    ]


def check_fits(workspace: Workspace, recipe: Recipe, say: Say) -> None:
    """See that every arm has its sources, and estimate it, before anything starts.

    Raises:
        NotFound: a source is not there. TooLittle: an arm needs more memory than there is. BadConfig: it would take
        longer than the recipe allows.
    """
    total = 0.0
    for name, stage in stages(recipe, untuned(recipe)):
        for source in [*stage.mixture.target_tokens(), stage.measures.general]:
            require_source(workspace, source)
        needed = estimate_stage(workspace, stage)
        total += needed.seconds * len(recipe.seeds_or_none())
        if recipe.max_minutes is not None and needed.seconds > 60 * recipe.max_minutes:
            raise BadConfig(
                f"{name or recipe.name} would take about {needed.seconds / 60:.0f} minutes, but max_minutes is "
                f"{recipe.max_minutes:g}: lower mixture.budget_tokens or raise max_minutes."
            )
    say(f"training is estimated at {total / 60:.0f} minutes in all")


def estimate_stage(workspace: Workspace, stage: Stage) -> Estimate:
    """The estimate of one stage on this machine; the model is fetched and the machine measured when they are not yet.

    Raises:
        TooLittle: it cannot fit.
    """
    folder = find_folder(workspace, stage.model.name) or ensure_model(workspace, stage.model.name)
    return _estimate(stage, folder, machine.here(workspace))


def estimate_at_once(workspace: Workspace, stage: Stage) -> Estimate | None:
    """As `estimate_stage`, for pages: None while the model is not there or the machine not measured. Jobs of the kinds
    `fetch` and `doctor` see to that.

    Raises:
        TooLittle: it cannot fit. Unavailable: this machine cannot do it.
    """
    folder, facts = find_folder(workspace, stage.model.name), machine.read(workspace)
    return _estimate(stage, folder, facts) if folder and facts else None


def _estimate(stage: Stage, folder: Path, facts: Machine) -> Estimate:
    device, precision = machine.resolve(stage.model, facts)
    shape = shape_of(folder)
    speed = None
    if device == "cpu":
        speed = facts.timings.bf16 if precision == "bf16" else facts.timings.fp32
    needed = estimate(stage, shape, device=device, precision=precision, gflops=speed)
    free = facts.cuda.memory_free_gb if device == "cuda" and facts.cuda else facts.memory_available_gb
    require_memory(stage, shape, needed, free * 1e9, device=device, precision=precision)
    return needed


def resume(workspace: Workspace, run: Run) -> list[Job]:
    """Put a stopped run back into the queue, from its last whole checkpoint; returns the jobs to wait for, however
    they stand by then.

    A run that never got a job, because what made it was killed just then, gets them now.

    Raises:
        BadInput: it is running, queued or done.
    """
    jobs = Jobs(workspace)
    mine = [job for job in jobs.all() if job.run == run.id]
    if not mine:
        return submit_run(workspace, run)
    states = {job.id: job.state for job in mine}
    stopped = [job for job in mine if states[job.id] in STOPPED] or mine[-1:]
    jobs.requeue(stopped[0])
    for job in stopped[1:]:
        if job.state in STOPPED:
            jobs.requeue(job)
    return [job for job in mine if job in stopped or states[job.id] == "queued"]


def rerun(workspace: Workspace, run: Run, changes: dict[str, Any] | None = None) -> tuple[Run, list[Job]]:
    """A fresh run of the same configuration with dotted `changes`, queued. It keeps arm and name where nothing changes.

    Raises:
        BadConfig: an unknown setting or a contradiction.
    """
    info, stage = run.info, override(run.config, changes or {})
    arm, name = ("", "") if changes else (info.arm, run.labels.name)
    again = Runs(workspace).create(
        stage, experiment=info.experiment, arm=arm, parent=info.parent, recipe=info.recipe, name=name
    )
    return again, submit_run(workspace, again)
