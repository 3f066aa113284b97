"""The forgetting matrix over seeds: the chains of an arm that differ only by seed as one, two arms beside each other.

Every cell and every figure of `mixcpt.matrix` is taken for each seed by itself; what is told is their mean, with the
95 % interval by Student's t and all points, never a bootstrap of three. Two arms are compared seed by seed (paired t,
`mixcpt.claims`). What this gives up: the spread over documents, which `mixcpt.matrix` tells of one chain; and a cell
that was not measured under all seeds of an arm is empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixcpt.claims import Claim, claims
from mixcpt.compare import Arm, Row, arm_of, settings_but_seeds, titled
from mixcpt.errors import NotFound
from mixcpt.figures import signed
from mixcpt.further import fields_words
from mixcpt.matrix import BITS, FIGURES, Column, Matrix, figures, matrices, sentences
from mixcpt.overview import overview
from mixcpt.palette import STAGE_NAMES
from mixcpt.runs import Run, Runs
from mixcpt.stages import Stage
from mixcpt.statistics import leaves_out_zero, seed_interval
from mixcpt.workspace import Workspace


@dataclass(frozen=True)
class Mean:
    """A figure over seeds: `points` in the order of `seeds`."""

    seeds: tuple[int, ...]
    points: tuple[float, ...]

    @property
    def value(self) -> float:
        return sum(self.points) / len(self.points)

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """95 % of the mean; None with one seed."""
        return seed_interval(self.points)

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves out zero; one seed is never sure."""
        return self.interval is not None and leaves_out_zero(self.interval)

    def evidence(self) -> str:
        """The interval and all points in words, as in "95 % −0.2 to −0.1; seed 0 −0.1, seed 1 −0.2"."""
        points = ", ".join(f"seed {seed} {signed(point)}" for seed, point in zip(self.seeds, self.points, strict=True))
        if self.interval is None:
            return f"{points} only: a hint, not a result"
        low, high = self.interval
        return f"95 % {signed(low)} to {signed(high)}; {points}"


@dataclass(frozen=True)
class ArmMatrix:
    """The matrices of an arm's chains, one a seed; `runs` are those that the chains end with, and `stages` what the
    rows are called, the base first."""

    title: str
    experiment: str
    seeds: tuple[int, ...]
    runs: tuple[str, ...]
    stages: tuple[str, ...]
    matrices: tuple[Matrix, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        return self.matrices[0].columns

    @property
    def missing(self) -> list[str]:
        """Ids of the runs that were not measured on every text."""
        return list(dict.fromkeys(run for one in self.matrices for run in one.missing))

    def base(self, column: int) -> float | None:
        """The figure of the base, which is the same under all seeds."""
        cell = self.matrices[0].base(column)
        return cell.base if cell else None

    def change(self, row: int, column: int) -> Mean | None:
        """The figure after the stage minus that of the base."""
        gains = [one.gain(row, column) for one in self.matrices]
        known = [-gain for gain in gains if gain is not None]
        return Mean(self.seeds, tuple(known)) if len(known) == len(gains) else None

    def figure(self, key: str) -> Mean | None:
        """One of `matrix.FIGURES`; None where it cannot be told under every seed."""
        known = [figures(one) for one in self.matrices]
        points = tuple(own[key] for own in known if key in own)
        return Mean(self.seeds, points) if len(points) == len(known) else None


def arms(runs: Sequence[Run]) -> list[ArmMatrix]:
    """The chains that end with these runs, those of an arm that differ only by seed as one. Of several that share even
    the seed the last counts. Raises as `matrix.matrices`."""
    rows = titled([_row(run) for run in runs])
    groups: dict[Arm, dict[int, tuple[Run, Row, Matrix]]] = {}
    for run, row, one in zip(runs, rows, matrices(runs), strict=True):
        groups.setdefault(arm_of(row), {})[run.info.seed] = run, row, one
    return [_arm([group[seed] for seed in sorted(group)]) for group in groups.values()]


def _row(run: Run) -> Row:
    """What an arm is known by, as in `compare.compare`; an arm is called as its recipe calls it."""
    info = run.info
    name = "" if info.arm else run.labels.name
    return {
        "run": run.id, "experiment": info.experiment, "arm": info.arm, "name": name, "stage": info.stage,
        "settings": settings_but_seeds(run),
    }  # fmt: skip


def _arm(found: Sequence[tuple[Run, Row, Matrix]]) -> ArmMatrix:
    run, row, _ = found[0]
    stages = [_stage(one) for one in run.chain()]
    return ArmMatrix(
        title=row["title"],
        experiment=run.info.experiment,
        seeds=tuple(one.info.seed for one, _, _ in found),
        runs=tuple(one.id for one, _, _ in found),
        stages=("base", *(f"{number}. {stage}" for number, stage in enumerate(stages, 1))),
        matrices=tuple(one for _, _, one in found),
    )


def _stage(run: Run) -> str:
    """What a row is called: by the field that was learned, or the stage that learned none."""
    return fields_words(run.config) if isinstance(run.config, Stage) else STAGE_NAMES[run.info.stage]


def difference(one: ArmMatrix, other: ArmMatrix, row: int, column: int) -> Mean | None:
    """`one` minus `other` in a cell, over the seeds that both have; None where there is none."""
    mine, its = one.change(row, column), other.change(row, column)
    if mine is None or its is None:
        return None
    before = dict(zip(its.seeds, its.points, strict=True))
    shared = [
        (seed, point - before[seed]) for seed, point in zip(mine.seeds, mine.points, strict=True) if seed in before
    ]
    return Mean(tuple(seed for seed, _ in shared), tuple(point for _, point in shared)) if shared else None


def comparable(one: ArmMatrix, other: ArmMatrix) -> bool:
    """Whether two arms learned the same corpora in the same order, and were measured on the same texts."""
    return one.columns == other.columns and len(one.stages) == len(other.stages)


def claims_of(found: Sequence[ArmMatrix]) -> list[Claim]:
    """What can be said of the difference between each further arm and the first, where they can be compared."""
    rows = {arm.runs: _claimed(arm) for arm in found}
    pairs = [(rows[arm.runs], rows[found[0].runs]) for arm in found[1:] if comparable(arm, found[0])]
    return [claim for own in claims(pairs) for claim in own]


def _claimed(arm: ArmMatrix) -> Row:
    """A row of figures by seed, as `claims.claims` takes it."""
    row: Row = {"title": arm.title, "runs": list(arm.runs), "seeds": list(arm.seeds)}
    for key in FIGURES:
        if mean := arm.figure(key):
            row |= {key: mean.value} | ({f"{key}_seeds": list(mean.points)} if len(mean.points) > 1 else {})
    return row


# Which runs


def ends(runs: Sequence[Run]) -> list[Run]:
    """Those of these runs that no other of them continues: each ends a chain."""
    continued = {earlier.id for run in runs for earlier in run.chain()[:-1]}
    return [run for run in runs if run.id not in continued]


def beside(workspace: Workspace, run: Run) -> list[Run]:
    """The finished runs of its experiment whose chains learned the same corpora in the same order, the oldest first;
    it is among them when it is done."""
    found = []
    for one in reversed(overview(workspace)):
        if one.experiment == run.info.experiment and one.state == "done" and one.parent and one.stage == run.info.stage:
            other = Runs(workspace).get(one.id)
            if _learned(other) == _learned(run):
                found.append(other)
    return found


def _learned(run: Run) -> list[str] | None:
    """The stages of its chain by their fields; None where one was deleted."""
    try:
        return [_stage(one) for one in run.chain()]
    except NotFound:
        return None


# In words


def as_table(arm: ArmMatrix) -> list[tuple[str, ...]]:
    """The header and the rows: mean bits per byte of every text, and behind it the difference to the base; of prompts
    the KL in nats per token."""
    rows = [("after", *(column.title for column in arm.columns))]
    for row, stage in enumerate(arm.stages):
        rows.append((stage, *(cell_words(arm, row, column) for column in range(len(arm.columns)))))
    return rows


def cell_words(arm: ArmMatrix, row: int, column: int) -> str:
    """As in "0.812 (−0.041)"; without a difference of the base, and of a KL, which is one."""
    base, change = arm.base(column), arm.change(row, column)
    if base is None or change is None:
        return "–"
    told = row and arm.columns[column].unit == BITS
    return f"{base + change.value:.3f}" + (f" ({signed(change.value)})" if told else "")


def difference_table(one: ArmMatrix, other: ArmMatrix) -> list[tuple[str, ...]]:
    """As `as_table`, of `one` minus `other`, each with half the width of its 95 % interval over seeds."""
    rows = [as_table(one)[0]]
    for row, stage in enumerate(one.stages[1:], 1):
        means = (difference(one, other, row, column) for column in range(len(one.columns)))
        rows.append((stage, *("–" if mean is None else difference_words(mean) for mean in means)))
    return rows


def difference_words(mean: Mean) -> str:
    """As in "−0.041 ± 0.020"."""
    half = f" ± {(mean.interval[1] - mean.interval[0]) / 2:.3f}" if mean.interval else ""
    return f"{signed(mean.value)}{half}"


def told(arm: ArmMatrix) -> list[str]:
    """What came of an arm in words: its figures over seeds; of one seed those of its chain, over documents."""
    if len(arm.seeds) == 1:
        return [f"{sentence[:-1]}; one seed." for sentence in sentences(arm.matrices[0])]
    said = []
    for key, figure in FIGURES.items():
        if mean := arm.figure(key):
            said.append(
                f"{figure.name} {signed(mean.value)} bits per byte ({mean.evidence()}): "
                f"{figure.meaning(mean.value, mean.is_sure)}."
            )
    return said


def as_facts(arm: ArmMatrix) -> dict[str, Any]:
    """As plain values (docs/cli.md, `matrix --json`)."""
    return {
        "title": arm.title,
        "experiment": arm.experiment,
        "seeds": list(arm.seeds),
        "runs": list(arm.runs),
        "columns": [{"text": column.text, "kind": column.kind, "unit": column.unit} for column in arm.columns],
        "stages": [
            {"title": stage, "cells": [_cell(arm, row, column) for column in range(len(arm.columns))]}
            for row, stage in enumerate(arm.stages)
        ],
        **{key: _mean(arm.figure(key)) for key in FIGURES},
        "missing": arm.missing,
    }


def _cell(arm: ArmMatrix, row: int, column: int) -> dict[str, Any] | None:
    base, change = arm.base(column), arm.change(row, column)
    if base is None or change is None:
        return None
    return {arm.columns[column].key: base + change.value, "difference": _mean(change)}


def _mean(mean: Mean | None) -> dict[str, Any] | None:
    return None if mean is None else {"mean": mean.value, "interval": mean.interval, "points": list(mean.points)}
