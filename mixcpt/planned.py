"""The runs that a recipe stands for, before any of them is made: for each arm a chain, knowledge stage first.

Arms that begin alike share their beginning: of one seed, runs with the same settings that continue the same run are one
run, so an experiment over selections trains its knowledge stage once. Only the last run of an arm is always its own,
for arms are compared by it. A shared run belongs to no arm; its name tells which arms begin with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mixcpt.recipe import Recipe
from mixcpt.runs import NAME_LENGTH
from mixcpt.settings import override, to_yaml
from mixcpt.stages import AnyStage


@dataclass(frozen=True)
class PlannedRun:
    """One run of a chain. `arms` are all those that it is part of; `before` is the place, in the list, of the run that
    it continues, None where it starts from the base; `last`: its arm ends with it."""

    arms: tuple[str, ...]
    stage: AnyStage
    before: int | None
    last: bool

    @property
    def arm(self) -> str:
        """The arm that it belongs to; empty where there are none, or several share it."""
        return self.arms[0] if len(self.arms) == 1 else ""

    @property
    def name(self) -> str:
        """What a shared run is called; empty for any other."""
        if len(self.arms) == 1:
            return ""
        listed = f"{self.stage.stage} of {', '.join(self.arms[:-1])} and {self.arms[-1]}"
        return listed if len(listed) <= NAME_LENGTH else f"{self.stage.stage} of {len(self.arms)} arms"


def planned(recipe: Recipe, tuned: dict[str, float], seed: int | None) -> list[PlannedRun]:
    """All runs of one seed (None: the seeds that the stages name), each after the one that it continues. `tuned` holds
    the value found per tuning group."""
    found: list[PlannedRun] = []
    shared: dict[tuple[str, int | None], int] = {}
    for arm, stages in _chains(recipe, tuned):
        before: int | None = None
        for number, plain in enumerate(stages):
            run = PlannedRun((arm,), plain.with_seed(seed), before, last=number == len(stages) - 1)
            alike = (to_yaml(run.stage), before)
            if not run.last and alike in shared:
                before = shared[alike]
                found[before] = replace(found[before], arms=(*found[before].arms, arm))
                continue
            found.append(run)
            before = len(found) - 1
            if not run.last:
                shared[alike] = before
    return found


def _chains(recipe: Recipe, tuned: dict[str, float]) -> Iterator[tuple[str, list[AnyStage]]]:
    """Every arm's name and resolved stages, seeds not yet applied."""
    if not recipe.arms:
        yield "", recipe.chain(recipe.cpt)
    for arm in recipe.arms:
        chosen = {recipe.tune.field: tuned[arm.tuned] * arm.times} if recipe.tune and arm.tuned else {}
        yield arm.name, recipe.chain(override(recipe.cpt, chosen), arm.set)
