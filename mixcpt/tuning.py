"""Tuning: short runs on a validation split that choose one setting of the knowledge stage before a recipe's arms start.

The held-out part is never looked at. What was found is kept in the experiment's tuning.json and found again there, as
long as settings, seed, texts, device and precision are the same. It gives up search: every value is tried.
"""

from collections.abc import Callable
from typing import Any

from mixcpt import builtin, machine
from mixcpt.recipe import Recipe
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.stages import Stage
from mixcpt.submission import Identity, finish, go_on, identity, made_before
from mixcpt.supervisor import OnChange, Supervisor
from mixcpt.workspace import Workspace, read_json, write_json

Say = Callable[[str], None]


def untuned(recipe: Recipe) -> dict[str, float]:
    """A value per tuning group before any is found, for what does not depend on it."""
    return dict.fromkeys(recipe.tune.groups, recipe.tune.values[0]) if recipe.tune else {}


def tune(
    workspace: Workspace,
    recipe: Recipe,
    supervisor: Supervisor,
    say: Say,
    on_change: OnChange,
    *,
    going_on: bool = False,
) -> dict[str, float]:
    """The value found per tuning group: lowest domain bits per byte on validation documents, all else as the recipe;
    empty when there is nothing to tune. When `going_on`, tries of the experiment that were begun before are finished
    instead of begun again."""
    if recipe.tune is None:
        return {}
    kept = workspace.experiments / recipe.name / "tuning.json"
    question = _question(workspace, recipe)
    if kept.exists() and read_json(kept)["question"] == question:
        chosen: dict[str, float] = read_json(kept)["chosen"]
        return chosen
    there = made_before(workspace, recipe.name) if going_on else {}
    tries = {
        (group, value): _try(workspace, recipe, group, value, there)
        for group in recipe.tune.groups
        for value in recipe.tune.values
    }
    jobs = [job for run in tries.values() for job in go_on(workspace, run)]
    for run in tries.values():
        say(f"run {run.id}  {run.info.arm}")
    finish(jobs, supervisor, on_change)
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
        **({"parent": recipe.parent} if recipe.parent else {}),
        "corpora": {source: builtin.fingerprint(workspace, source) for source in sources},
        "machine": {group: [*machine.resolve(stage.model, facts)] for group, stage in groups.items()},
    }


def _try(workspace: Workspace, recipe: Recipe, group: str, value: float, there: dict[Identity, Run]) -> Run:
    stage = trial(recipe, group, value)
    arm = f"tune {group} {value:g}"
    if known := there.get(identity(workspace, stage, arm, recipe.parent)):
        return known
    return Runs(workspace).create(stage, experiment=recipe.name, arm=arm, parent=recipe.parent, recipe=recipe.name)


def trial(recipe: Recipe, group: str, value: float) -> Stage:
    """The stage that tries one value of a recipe that tunes."""
    assert recipe.tune is not None
    changes = recipe.tune.groups[group] | {
        recipe.tune.field: value,
        "mixture.budget_tokens": recipe.tune.budget_tokens,
        "measures.on": "validation",
        "measures.every_steps": 0,
        "evaluation.tasks": [],
        "evaluation.format_items": 0,
    }
    return override(recipe.cpt, changes).with_seed(recipe.seeds_or_none()[0])
