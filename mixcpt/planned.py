"""The runs that a recipe stands for, before any of them is made: for each arm a chain, knowledge stage first.

Arms that begin alike share their beginning: of one seed, runs with the same settings that continue the same run are one
run, so an experiment over selections trains its knowledge stage once. Only the last run of an arm is always its own,
for arms are compared by it. A shared run belongs to no arm; its name tells which arms begin with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from mixcpt.figures import listed
from mixcpt.further import fields_words
from mixcpt.recipe import Recipe
from mixcpt.runs import NAME_LENGTH
from mixcpt.settings import override, to_yaml
from mixcpt.stages import AnyStage, Stage


@dataclass(frozen=True)
class PlannedRun:
    """One run of a chain. `arms` are all those that it is part of; `before` is the place, in the list, of the run that
    it continues, None where it is the first of its chain; `last`: its arm ends with it; `further`: its chain holds
    several knowledge stages, and it is one of them."""

    arms: tuple[str, ...]
    stage: AnyStage
    before: int | None
    last: bool
    further: bool = False

    @property
    def arm(self) -> str:
        """The arm that it belongs to; empty where there are none, or several share it."""
        return self.arms[0] if len(self.arms) == 1 else ""

    @property
    def name(self) -> str:
        """What a shared run is called, and one of several corpora, which its arm alone would not tell from the others;
        empty for any other."""
        what = fields_words(self.stage) if self.further and isinstance(self.stage, Stage) else ""
        if len(self.arms) == 1:
            return ", ".join(filter(None, [self.arm, what]))[:NAME_LENGTH] if what else ""
        called = what or self.stage.stage
        named = f"{called} of {listed(self.arms)}"
        return named if len(named) <= NAME_LENGTH else f"{called} of {len(self.arms)} arms"[:NAME_LENGTH]


def planned(recipe: Recipe, tuned: dict[str, float], seed: int | None) -> list[PlannedRun]:
    """All runs of one seed (None: the seeds that the stages name), each after the one that it continues. `tuned` holds
    the value found per tuning group."""
    found: list[PlannedRun] = []
    shared: dict[tuple[str, int | None], int] = {}
    for arm, stages in _chains(recipe, tuned):
        before: int | None = None
        for number, plain in enumerate(stages):
            further = isinstance(plain, Stage) and bool(recipe.then)
            run = PlannedRun((arm,), plain.with_seed(seed), before, number == len(stages) - 1, further)
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
        yield arm.name, recipe.chain(override(recipe.cpt, chosen), arm.set, arm.ends)
