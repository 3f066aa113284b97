"""What the probes of a run say: sentences it read beside sentences it never saw, and which questions it had read.

No torch: it reads what an evaluation wrote. What it gives up: the two sets ask for the same terms in other sentences,
so their scores differ for that alone; it is their gains that are compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mixcpt.runs import Run
from mixcpt.statistics import paired_interval

Interval = Sequence[float]


@dataclass(frozen=True)
class Side:
    """One set: shares right (0 to 1) of base and run, and the gain with its 95 % interval, over `items` questions."""

    task: str
    items: int
    base: float
    final: float
    gain: float
    interval: Interval
    chance: float

    @property
    def change(self) -> int:
        """1 where it got better and that is hardly chance, -1 where worse, else 0."""
        return 1 if self.interval[0] > 0 else -1 if self.interval[1] < 0 else 0


@dataclass(frozen=True)
class Probed:
    """The probes of one corpus. read: how many of the `sentences` of its training text the run really read; None where
    nobody can tell. memorised: on these, or on all where it read all or none.
    more: by how much the gain on these is larger than on sentences it never saw, with a 95 % interval over the terms,
    which both ask for; None where they cannot be paired."""

    corpus: str
    sentences: int
    read: int | None
    memorised: Side
    generalised: Side
    more: tuple[float, Interval] | None

    def words(self) -> str:
        """What it comes to, in a sentence."""
        if self.read == 0:
            return "This run read none of these sentences, so what changed here was learned elsewhere, or is chance."
        read, unseen = self.memorised.change, self.generalised.change
        if read > 0 and unseen > 0:
            return (
                "It knows the terms of the field better, in sentences that it read and in sentences that it never saw."
            )
        if read > 0:
            return (
                "It got better at sentences that it read, but not measurably at others: as far as these questions can "
                "tell, it learned by heart."
            )
        if unseen > 0:
            return "It got better at sentences that it never saw: what it learned carries over."
        if read < 0 or unseen < 0:
            return "It finds the terms of the field less often than the base does."
        return (
            "No change that could not be chance: it may have learned nothing here, or too little for these questions."
        )


def pairs(run: Run) -> list[Probed]:
    """The probes that a run was asked, a pair of sets for each corpus, in the order in which they were asked."""
    found: dict[str, Any] = run.results().get("evaluation", {})
    sides: dict[str, dict[str, str]] = {}
    for task, how in found.get("asked", {}).items():
        if facts := how.get("probes"):
            sides.setdefault(facts["corpus"], {})[facts["side"]] = task
    return [_pair(found, corpus, tasks) for corpus, tasks in sides.items() if len(tasks) == 2]


def _pair(found: dict[str, Any], corpus: str, tasks: dict[str, str]) -> Probed:
    memorised, generalised = tasks["memorised"], tasks["generalised"]
    gained = {task: _gained(found, task) for task in (memorised, generalised)}
    total = len(gained[memorised])
    seen = found.get("contamination", {}).get(memorised, {})
    read = seen["items"] if seen.get("only") else list(range(total))
    more = None
    if len(gained[generalised]) == total:
        ours, others = ([gained[task][item] for item in read] for task in (memorised, generalised))
        more = (sum(ours) - sum(others)) / len(read), paired_interval(others, ours)
    count = len(seen["items"]) if "items" in seen else None
    return Probed(
        corpus, total, count, _side(found, memorised, seen.get("only")), _side(found, generalised, None), more
    )


def _gained(found: dict[str, Any], task: str) -> list[float]:
    base, final = (found[side][task]["correct"] for side in ("base", "final"))
    return [after - before for before, after in zip(base, final, strict=True)]


def _side(found: dict[str, Any], task: str, part: dict[str, Any] | None) -> Side:
    """The scores of a set, or of the part of it that is given."""
    scores = part or {side: found[side][task] for side in ("base", "final")} | {"gain": found["gain"][task]}
    return Side(
        task=task,
        items=part["items"] if part else found["final"][task]["items"],
        base=scores["base"]["accuracy"],
        final=scores["final"]["accuracy"],
        gain=scores["gain"]["difference"],
        interval=scores["gain"]["interval"],
        chance=found["final"][task]["chance"],
    )


def seen_words(seen: dict[str, Any], items: int) -> str:
    """What was found of a set of so many questions in the text that the run read, in words; nothing where nobody
    looked. `seen` is that set's part of the section `contamination`."""
    if not seen:
        return ""
    if "unknown" in seen:
        return f"Whether the questions stand in the training text is not known. {seen['unknown']}"
    count, short = len(seen["items"]), seen["too_short"]
    if seen["by_construction"]:
        if not count:
            return f"None of these {items} sentences stands in what the run read."
        words = f"{count} of these {items} sentences stand in what the run read, as is meant here"
        return words + (f"; on those alone {_scores(seen['only'])}." if seen["only"] else ".")
    unsure = f" {short} of {items} are too short to tell." if short else ""
    if not count:
        return f"None of the {items} questions was found in the training text.{unsure}"
    where = ", ".join(f"{source}: {number}" for source, number in seen["sources"].items())
    words = f"{count} of {items} questions stand in the training text ({where})"
    return words + (f"; without them {_scores(seen['without'])}." if seen["without"] else ".") + unsure


def _scores(scores: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in scores["gain"]["interval"])
    return (
        f"{scores['base']['accuracy']:.1%} → {scores['final']['accuracy']:.1%}, "
        f"{100 * scores['gain']['difference']:+.1f} points (95 % {low:+.1f} to {high:+.1f}, {scores['items']} items)"
    )
