"""A recipe carried out: corpora, tuning, then the chain of every arm under every seed, each run with its queued jobs.

Nothing here trains: it writes runs and jobs and lets a supervisor work them off, so a recipe started from the command
line and one started in the app are the same thing on disk.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mixcpt import guesses
from mixcpt.corpus import list_corpora
from mixcpt.drafts import Guess
from mixcpt.errors import BadConfig
from mixcpt.estimate import Estimate
from mixcpt.jobs import Job, Jobs
from mixcpt.lineage import continuing
from mixcpt.manifest import Spec
from mixcpt.modelstore import BUILTIN_MODELS, ensure_model
from mixcpt.outlook import estimate_stage
from mixcpt.planned import PlannedRun, planned
from mixcpt.questions import is_file, question_sets
from mixcpt.recipe import CorpusSpec, Recipe
from mixcpt.requirements import require_parts
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.submission import finish, go_on, identity, made_before
from mixcpt.supervisor import OnChange, Supervisor
from mixcpt.tuning import Say, trial, tune, untuned
from mixcpt.workspace import Workspace


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
    every run that ends an arm.

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
        say(f"run {run.id}  {', '.join(_facts(run))}")
    supervisor.run_until([job.id for job in plan.jobs], on_change)
    return plan


def _facts(run: Run) -> list[str]:
    name = run.info.arm or run.info.name
    return [run.info.stage, *([name, f"seed {run.info.seed}"] if name else [])]


def find_questions(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the names of question files absolute; every set is read, so that a bad one stops nothing later.

    Raises:
        BadFile, NotFound: a question set that cannot be asked.
    """

    def absolute(tasks: list[str]) -> list[str]:
        return [_absolute(task, folder) if is_file(task) else task for task in tasks]

    found = _with_paths(recipe, "evaluation.tasks", absolute)
    evaluations = [run.stage.evaluation for run in planned(found, untuned(found), None)]
    for evaluation in {tuple(one.tasks): one for one in evaluations}.values():
        question_sets(evaluation)
    return found


def find_models(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe with the names of model folders absolute, so that its runs can be resumed from anywhere."""
    return _with_paths(recipe, "model.name", lambda name: find_model(name, folder))


def find_model(name: str, folder: Path) -> str:
    """The name of a model; of a local folder its absolute path, looked for in `folder`, then where we are."""
    places = [] if name in BUILTIN_MODELS else [_absolute(name, folder), _absolute(name, Path())]
    return next((place for place in places if Path(place).is_dir()), name)


def _absolute(path: str, folder: Path) -> str:
    return str((folder / Path(path).expanduser()).absolute())


def _with_paths(recipe: Recipe, field: str, absolute: Callable[[Any], Any]) -> Recipe:
    """The recipe with `absolute` applied to a field of a stage, wherever stages, arms and tuning groups set it."""
    changes: dict[str, Any] = {"cpt": _changed(recipe.cpt.model_dump(), field, absolute)}
    changes["then"] = [_changed(settings, field, absolute) for settings in recipe.then]
    for stage, settings in (("sft", recipe.sft), ("dpo", recipe.dpo)):
        if settings is not None:
            changes[stage] = _changed(settings, field, absolute)
    for number, arm in enumerate(recipe.arms):
        own = arm.set
        for path in (field, *(f"{stage}.{field}" for stage in ("sft", "dpo", *_then(recipe)))):
            own = _changed(own, path, absolute)
        changes[f"arms.{number}.set"] = own
    if recipe.tune:
        changes["tune.groups"] = {
            group: _changed(settings, field, absolute) for group, settings in recipe.tune.groups.items()
        }
    return override(recipe, changes)


def _then(recipe: Recipe) -> list[str]:
    """The names of the further knowledge stages, as changes name them."""
    return [f"then.{number}" for number in range(len(recipe.then))]


def _changed(settings: dict[str, Any], path: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """The settings with `change` applied to the value at a dotted path, whether it is written dotted or nested."""

    def one(name: str, value: Any) -> Any:
        if name == path:
            return change(value)
        if isinstance(value, dict) and path.startswith(f"{name}."):
            return _changed(value, path.removeprefix(f"{name}."), change)
        return value

    return {name: one(name, value) for name, value in settings.items()}


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
    finish(jobs, supervisor, on_change)


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


def launch(
    workspace: Workspace,
    recipe: Recipe,
    tuned: dict[str, float],
    guess: Guess | None = None,
    *,
    going_on: bool = False,
) -> Plan:
    """Create and queue the runs of every arm and seed; a guess is kept with those that end an arm. When `going_on`,
    runs of the experiment that are just what is wanted are taken instead of made again: those that stopped go on from
    where they were."""
    plan = Plan()
    there = made_before(workspace, recipe.name) if going_on else {}
    for seed in recipe.seeds_or_none():
        made: list[Run] = []
        for one in planned(recipe, tuned, seed):
            parent = recipe.parent if one.before is None else made[one.before].id
            wanted = identity(workspace, one.stage, one.arm, parent)
            run = there.get(wanted) or Runs(workspace).create(
                one.stage, experiment=recipe.name, arm=one.arm, parent=parent, recipe=recipe.name, name=one.name
            )
            if guess and one.last:
                guesses.keep(run, guess)
            made.append(run)
            plan.add(run, go_on(workspace, run))
    return plan


@dataclass(frozen=True)
class Need:
    """What `runs` runs of one stage take, each of them. `arm` names the arms that it is for; of runs that tune it is
    "tune GROUP"."""

    arm: str
    stage: str
    runs: int
    estimate: Estimate


def estimate_recipe(workspace: Workspace, recipe: Recipe, say: Say) -> list[Need]:
    """The estimate of every run, those that tune first; nothing is trained.

    Raises:
        TooLittle: a run cannot fit.
    """
    ensure_model(workspace, recipe.cpt.model.name, progress=say)
    tries = len(recipe.tune.values) if recipe.tune else 0
    tuning = [
        Need(f"tune {group}", "cpt", tries, estimate_stage(workspace, trial(recipe, group, value)))
        for group, value in untuned(recipe).items()
    ]
    seeds = recipe.seeds_or_none()
    return tuning + [
        Need(_arms(one), one.stage.stage, len(seeds), estimate_stage(workspace, one.stage))
        for one in planned(recipe, untuned(recipe), seeds[0])
    ]


def _arms(run: PlannedRun) -> str:
    return ", ".join(run.arms)


def check_fits(workspace: Workspace, recipe: Recipe, say: Say) -> None:
    """See that every run has what it reads, and estimate it, before anything starts.

    Raises:
        NotFound, BadInput: as `require_parts`, or the run that is continued is gone or does not fit. TooLittle: a run
        needs more memory than there is. BadConfig: it would take longer than the recipe allows.
    """
    total = 0.0
    seeds = recipe.seeds_or_none()
    runs = planned(recipe, untuned(recipe), seeds[0])
    parent = Runs(workspace).get(recipe.parent) if recipe.parent else None
    for one in runs:
        if one.before is not None:
            require_parts(workspace, one.stage, runs[one.before].stage)
        else:
            require_parts(workspace, one.stage, parent.config if parent else None)
            continuing(one.stage, parent)
    for one in runs:
        needed = estimate_stage(workspace, one.stage)
        total += needed.seconds * len(seeds)
        if recipe.max_minutes is not None and needed.seconds > 60 * recipe.max_minutes:
            less = "mixture.budget_tokens" if isinstance(one.stage, Stage) else f"{one.stage.stage}.samples.rule.count"
            raise BadConfig(
                f"{_arms(one) or recipe.name} would take about {needed.seconds / 60:.0f} minutes, but max_minutes is "
                f"{recipe.max_minutes:g}: lower {less} or raise max_minutes."
            )
    say(f"training is estimated at {total / 60:.0f} minutes in all")
