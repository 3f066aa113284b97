"""What a run left behind, as the rules of a diagnosis look at it (`mixcpt.symptoms`): curves, what was measured again,
and what it was asked. And what a rule answers: a `Sign`.

No torch: it reads files. Figures of the curve rest on little text and have no interval; where a run was measured again
(`mixcpt measure`) that counts instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any, Literal, TypeVar

from mixcpt import evaluated, measured
from mixcpt.claims import NOISE
from mixcpt.evaluated import Line
from mixcpt.figures import signed
from mixcpt.measured import FEW, Taken, pooled
from mixcpt.runs import Record, Run
from mixcpt.stages import AnyStage

LEAST_TOKENS = 400
"""Of a measure of the curve, under which it is too short to be judged by."""
LEAST_STEPS = 12
"""Steps under which the course of a loss is not judged."""

TOLERANCE = 0.05
"""Bits per byte of general text that may be lost before it is called forgetting."""

State = Literal["found", "absent", "unknown", "elsewhere"]
Settings = dict[str, Any]
S = TypeVar("S", bound=AnyStage)


@dataclass(frozen=True)
class Change:
    """One change of the configuration: in words, and as dotted settings with their values."""

    words: str
    settings: Settings


@dataclass(frozen=True)
class Sign:
    """What one rule says of one run. `elsewhere`: it is not about runs of this stage.

    seen: the numbers, with units and intervals. why: why they are believed to mean this. unless: when they do not.
    change: of a sign that was found, where one setting may help. measure: what would tell, or tell more surely.
    """

    rule: str
    title: str
    state: State
    seen: tuple[str, ...] = ()
    why: str = ""
    unless: str = ""
    change: Change | None = None
    measure: str = ""


@dataclass(frozen=True)
class Case:
    """All that the rules look at. `failure` is the message of a run that failed, else empty."""

    run: Run
    failure: str = ""

    @cached_property
    def stage(self) -> AnyStage:
        return self.run.config

    @cached_property
    def losses(self) -> list[Record]:
        return self.run.losses()

    @cached_property
    def curve(self) -> list[Record]:
        return self.run.curve()

    @cached_property
    def lines(self) -> list[Line]:
        return [line for line in evaluated.lines(self.run) if line.measure != "exact"]

    @cached_property
    def taken(self) -> list[Taken]:
        return measured.at_strength(self.run)

    def again(self, part: str) -> Taken | None:
        """What was measured again of the field or of general text, all its texts together."""
        found = [one for one in self.taken if one.part == part and one.measure == "bits"]
        return pooled(found) if found else None

    def figure(self, key: str, point: int = -1) -> float | None:
        """A figure of the curve: at its end, or at another of its points."""
        value = self.curve[point]["measure"].get(key) if self.curve else None
        return None if value is None else float(value)

    def moved(self, key: str) -> float | None:
        """By how much a figure of the curve changed, from the base to its end."""
        before, after = self.figure(key, 0), self.figure(key)
        return None if before is None or after is None or len(self.curve) < 2 else after - before

    def mixture(self) -> list[Record]:
        """The sources as they were really read."""
        found: list[Record] = self.run.results().get("training", {}).get("mixture", {}).get("sources", [])
        return found


def about(sign: Sign, kind: type[S]) -> Callable[[Callable[[Case, S], Sign]], Callable[[Case], Sign]]:
    """Makes a rule of one that is about stages of this kind alone and is given the stage; of other runs it says that
    `sign` is elsewhere."""

    def rule_of(rule: Callable[[Case, S], Sign]) -> Callable[[Case], Sign]:
        @wraps(rule)
        def of_case(case: Case) -> Sign:
            return rule(case, case.stage) if isinstance(case.stage, kind) else replace(sign, state="elsewhere")

        return of_case

    return rule_of


def told(taken: Taken, what: str) -> str:
    low, high = taken.interval
    return (
        f"{what} {signed(taken.difference)} bits per byte against the base (95 % {signed(low)} to {signed(high)}, "
        f"{len(taken.documents)} documents, {taken.tokens:,} tokens)"
    )


def asked(line: Line) -> str:
    low, high = (signed(100 * bound, 0) for bound in line.difference_interval)
    return (
        f"{line.task.replace('_', ' ')} questions {line.base:.0%} → {line.final:.0%} right "
        f"({signed(100 * line.difference, 0)} points, 95 % {low} to {high}, {line.items} items)"
    )


def about_field(case: Case) -> list[Line]:
    """Probes of the field and, of the fictional country, its questions; else the sets that the user brought."""
    fields = case.stage.mixture.domain_sources()
    probes = [line for line in case.lines if line.asked.get("probes", {}).get("corpus") in fields]
    atlas = [line for line in case.lines if line.task.startswith("atlas_") and "builtin/atlas" in fields]
    mine = [
        line
        for line in case.lines
        if line.task not in ("general", "instructions") and line.asked.get("kind") in ("choice", "open")
        if not line.task.startswith("atlas_") and "probes" not in line.asked
    ]
    return [*probes, *atlas] or mine


def that_count(lines: Sequence[Line]) -> list[Line]:
    """Of probes those of held-out sentences, where they were asked: the others can be known by heart."""
    return [line for line in lines if line.asked.get("probes", {}).get("side") != "memorised"] or list(lines)


def field_gain(case: Case) -> tuple[State, str]:
    """`found`: gained beyond noise; `absent`: it did not."""
    if taken := case.again(measured.DOMAIN):
        low, high = taken.interval
        words = told(taken, "Held-out text of the field")
        if len(taken.documents) < FEW:
            return "unknown", words
        return "found" if high < 0 and -taken.difference > NOISE else "absent" if -low <= NOISE else "unknown", words
    change, tokens = case.moved("domain_bits_per_byte"), case.stage.measures.domain_tokens
    if change is None:
        return "unknown", ""
    words = f"Held-out text of the field {signed(change)} bits per byte ({tokens:,} tokens on the curve, no interval)"
    return "found" if change < -NOISE else "absent", words
