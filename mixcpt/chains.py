"""A chain of runs as one story: what was read before each of them, and how it stands among its relatives.

Tokens of a run start at 0, so a chain is put together by shifting each run by what its ancestors read. A run that
continues another opens its curve with the measure of the base (`under: base`), which belongs to no point of its
training: what it is compared with, not where it began. A chain of several corpora has several fields; each run measures
its own. What this gives up: chains that branch in one chart; each run ends one chain.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.overview import RunSummary
from mixcpt.runs import Record, Run

Measure = dict[str, float]


def own(curve: Sequence[Record]) -> list[Record]:
    """The points of a run's own training, of its `Run.curve()`: those after the base's, where it has one apart."""
    return [point for point in curve if point.get("under") != "base"]


def start_of(curve: Sequence[Record]) -> Measure | None:
    """What a run began with: the base for a first stage, its parent's end for a later one; None before it is known."""
    points = own(curve)
    measure: Measure | None = points[0]["measure"] if points else None
    return measure


def tokens_read(run: Run) -> int:
    """Tokens that a run has read so far, repetitions counted."""
    training: dict[str, Any] = run.results().get("training", {})
    if "tokens" in training:
        return int(training["tokens"])
    losses = run.losses()
    return int(losses[-1]["tokens"]) if losses else 0


def field_of(run: Run) -> tuple[str, ...]:
    """The sources that are the field of a run, by name."""
    return tuple(sorted(run.config.mixture.domain_sources()))


def tokens_before(run: Run) -> int:
    """Tokens that were read on the way to the beginning of a run, by all its ancestors.

    Raises:
        NotFound: one of them was deleted.
    """
    return sum(tokens_read(earlier) for earlier in run.chain()[:-1])


@dataclass(frozen=True)
class Link:
    """One run of a chain, to be drawn: `before` are the tokens that were read since the base when it began, `field` are
    the sources whose held-out part it measures as its field."""

    run: str
    title: str
    stage: str
    before: int
    curve: list[Record]
    field: tuple[str, ...] = ()

    @property
    def after(self) -> int:
        """Tokens read since the base at its latest measure."""
        return self.before + (int(self.curve[-1]["tokens"]) if self.curve else 0)


def links(run: Run) -> list[Link]:
    """The chain that ends with `run`, first stage first. Raises NotFound as `Run.chain`."""
    found: list[Link] = []
    before = 0
    for one in run.chain():
        found.append(Link(one.id, one.title, one.info.stage, before, one.curve(), field_of(one)))
        before += tokens_read(one)
    return found


@dataclass(frozen=True)
class Place:
    """A run of a chain among its relatives: `others` continue the same run (or the base) by the same stage."""

    run: RunSummary
    others: tuple[RunSummary, ...] = ()


def places(runs: Sequence[RunSummary], id: str) -> list[Place]:
    """The chain that ends with the run of this id, first stage first, as far as it is among `runs`. First stages have
    no others: every run of an experiment would be one."""
    known = {run.id: run for run in runs}
    found: list[Place] = []
    while run := known.get(id):
        rivals = [
            other for other in runs if other.parent == run.parent and other.stage == run.stage and other.id != run.id
        ]
        found.insert(0, Place(run, tuple(rivals) if run.parent else ()))
        id = run.parent or ""
    return found


def children(runs: Sequence[RunSummary], id: str) -> list[RunSummary]:
    """The runs that continue the run of this id, oldest first."""
    return [run for run in reversed(runs) if run.parent == id]
