"""Which places on the forgetting plane are worth choosing: the Pareto front, and the best gain within a tolerance.

A place is a run at one strength of its adapter; the base, which gains and forgets nothing, is always one. Seeds of one
arm are one choice: of them the means count, for the luckiest seed is nobody's choice. What this gives up: KL and
questions, which have no place on the plane.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.claims import NOISE
from mixcpt.compare import Arm, Row, arm_of
from mixcpt.curves import title_of
from mixcpt.figures import signed
from mixcpt.findings import Finding
from mixcpt.statistics import seed_interval


@dataclass(frozen=True)
class Place:
    """Gain in the field and forgetting of general text in bits per byte. `strength` is None where nothing was measured
    but the run as it is; `interval` is the 95 % interval of the forgetting, over seeds where there are several, else
    over documents, None where there is none; `run` is empty for the base and for means over seeds."""

    title: str
    run: str
    strength: float | None
    gain: float
    forgetting: float
    seeds: int = 1
    interval: tuple[float, float] | None = None


BASE = Place("base", "", None, 0.0, 0.0)


def places(rows: Iterable[Row]) -> list[Place]:
    """Every run at every strength, of rows of `compare` with a title; those of `strengths.anew` have `strengths`."""
    found = []
    for row in rows:
        points: Sequence[dict[str, Any]] = row.get("strengths", ())
        for point in points:
            found.append(
                _place(row, point["strength"], point["gain"], point["forgetting"], point.get("forgetting_interval"))
            )
        if not points and "forgetting" in row and "domain_gain" in row:
            found.append(_place(row, None, row["domain_gain"], row["forgetting"], None))
    return found


def _place(row: Row, strength: float | None, gain: float, forgetting: float, interval: Any) -> Place:
    kept = (float(interval[0]), float(interval[1])) if interval else None
    return Place(title_of(row), row["run"], strength, gain, forgetting, 1, kept)


def pareto(some: Iterable[Place]) -> list[Place]:
    """Those, the base among them, that no other beats: none gains as much and forgets less, or forgets as little and
    gains more. By rising forgetting; of equal ones the first."""
    best: list[Place] = []
    for place in sorted([BASE, *some], key=lambda one: (one.forgetting, -one.gain)):
        if not best or place.gain > best[-1].gain:
            best.append(place)
    return best


def choices(rows: Sequence[Row]) -> list[Place]:
    """One place per arm and strength: the mean over its seeds, where every seed has that strength."""
    arms: dict[Arm, dict[int, Row]] = defaultdict(dict)
    for row in rows:
        arms[arm_of(row)][row["seed"]] = row  # of several runs of one seed the last counts, as in `summarise`
    found = []
    for group in arms.values():
        at: dict[float | None, list[Place]] = defaultdict(list)
        for place in places(group.values()):
            at[place.strength].append(place)
        found += [_mean(some) for some in at.values() if len(some) == len(group)]
    return found


def _mean(some: Sequence[Place]) -> Place:
    if len(some) == 1:
        return some[0]
    gain, forgetting = (
        sum(values) / len(some) for values in ([one.gain for one in some], [one.forgetting for one in some])
    )
    interval = seed_interval([one.forgetting for one in some])
    return Place(some[0].title, "", some[0].strength, gain, forgetting, len(some), interval)


def best_within(rows: Sequence[Row], tolerance: float) -> Place | None:
    """Of `choices`, the one that gains most and forgets at most `tolerance` bits per byte; None where none of them
    gains anything within it. A strength of 0 is the base, and no choice."""
    kept = [one for one in choices(rows) if one.forgetting <= tolerance and one.gain > 0 and one.strength != 0]
    return max(kept, key=lambda one: one.gain, default=None)


def within_words(rows: Sequence[Row], tolerance: float) -> Finding:
    """What `best_within` found as a sentence, with what comes near it and how sure its forgetting is."""
    limit = f"Within {tolerance:g} bits per byte of forgetting"
    best = best_within(rows, tolerance)
    if best is None:
        return Finding("", f"{limit} nothing here gains anything in the field: accept more, or take the base")
    over = f", mean of {best.seeds} seeds" if best.seeds > 1 else ""
    words = (
        f"gains most: {signed(best.gain)} bits per byte in the field for {signed(best.forgetting)} of forgetting{over}"
    )
    if best.interval and best.interval[1] > tolerance:
        low, high = best.interval
        words += f". Its forgetting may be larger than you accept (95 % interval {signed(low)} to {signed(high)})"
    near = [
        one
        for one in choices(rows)
        if one.title != best.title and one.forgetting <= tolerance and best.gain - one.gain <= NOISE and one.gain > 0
    ]
    if near:
        words += f". Within {NOISE} of it: {_some_names(near)}"
    return Finding(f"{limit}, {name(best)}", words)


def name(place: Place) -> str:
    """Title and strength."""
    return place.title if place.strength in (None, 1) else f"{place.title} at strength {place.strength:g}"


def _some_names(near: Sequence[Place]) -> str:
    names = list(dict.fromkeys(one.title for one in near))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
