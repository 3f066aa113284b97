"""Claims: of two arms which is better, by how much, and whether that is real. `mixcpt.claim_cards` makes cards of them.

Arms are compared by the paired t over the seeds that both have, and where several pairs are compared by Holm's
correction. A difference is called one when the corrected p lies below 5 % and it is more than `NOISE`; else the two are
"the same within noise", with the smallest difference that so many seeds would have found. One seed in common cannot
tell one way of training from another: what it shows is called a hint, with a paired bootstrap over the documents or
questions where both runs were given the same ones (`mixcpt.paired`). What this gives up: it does not ask whether a
difference matters to anybody.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from mixcpt.columns import template_words
from mixcpt.compare import DIFFERENTLY, Row, format_key, task_words, tasks, templates
from mixcpt.curves import title_of
from mixcpt.errors import BadInput
from mixcpt.figures import signed
from mixcpt.paired import Paired, paired
from mixcpt.runs import Run
from mixcpt.statistics import SeedDifference, detectable, holm, seed_difference
from mixcpt.workspace import Workspace

NOISE = 0.02
"""Bits per byte, or nats per token of the KL. Ours: measures of some thousand tokens cannot tell less from nothing."""
LEVEL = 0.05


@dataclass(frozen=True)
class Measure:
    """How a measure is spoken of: `more`, `less` and `same` have places for the two arms and the size."""

    key: str
    unit: str
    better: int
    """1: more is better, -1: less is."""
    more: str
    less: str
    same: str
    noise: float = NOISE
    scale: float = 1.0
    """What a value is multiplied by to be told in `unit`."""
    items: str = ""
    """The key of how many items a share is of."""
    kind: str = ""
    """What these items are: questions or answers."""
    asked: str = ""
    """The key of which items were asked and how; empty where arms are alike by themselves."""
    what: str = ""
    """These items, in words."""


MEASURES = (
    Measure(
        "domain_gain", "bits per byte", 1,
        "{one} gains {size} more in the field than {other}", "{one} gains {size} less in the field than {other}",
        "{one} and {other} gain the same in the field within noise",
    ),
    Measure(
        "forgetting", "bits per byte", -1,
        "{one} forgets {size} more than {other}", "{one} forgets {size} less than {other}",
        "{one} and {other} forget the same within noise",
    ),
    Measure(
        "prompt_kl", "nats per token", -1,
        "{one} lies {size} farther from the base than {other}", "{one} lies {size} nearer to the base than {other}",
        "{one} and {other} lie equally far from the base within noise",
    ),
)  # fmt: skip
OF_CHAINS = (
    Measure(
        "average_gain", "bits per byte", 1,
        "{one} gains {size} more over all corpora in the end than {other}",
        "{one} gains {size} less over all corpora in the end than {other}",
        "{one} and {other} gain the same over all corpora in the end within noise",
    ),
    Measure(
        "field_forgetting", "bits per byte", -1,
        "{one} loses {size} more of earlier corpora than {other}",
        "{one} loses {size} less of earlier corpora than {other}",
        "{one} and {other} lose the same of earlier corpora within noise",
    ),
    Measure(
        "backward_transfer", "bits per byte", 1,
        "{one} has {size} more backward transfer than {other}", "{one} has {size} less backward transfer than {other}",
        "{one} and {other} have the same backward transfer within noise",
    ),
    Measure(
        "forward_transfer", "bits per byte", 1,
        "{one} has {size} more forward transfer than {other}", "{one} has {size} less forward transfer than {other}",
        "{one} and {other} have the same forward transfer within noise",
    ),
)  # fmt: skip
"""Of several corpora that were learned one after the other (`mixcpt.matrix`)."""


def measures(arms: Sequence[Row]) -> list[Measure]:
    """What can be compared of these arms: what they all have, question sets and the format of answers included where
    all were asked the same."""
    return [measure for measure in _shared(arms) if _alike(arms, measure)]


def asked_differently(arms: Sequence[Row]) -> list[str]:
    """Question sets and templates that all of these arms have results of, but were not asked alike."""
    return list(dict.fromkeys(measure.what for measure in _shared(arms) if not _alike(arms, measure)))


def _shared(arms: Sequence[Row]) -> list[Measure]:
    shared = {key: arms[0][key] for key in arms[0] if all(key in arm for arm in arms)} if arms else {}
    told = [measure for measure in (*MEASURES, *OF_CHAINS) if measure.key in shared]
    told += [_of_task(task) for task in tasks([shared])]
    return told + [measure for template in templates([shared]) for measure in _of_format(template)]


def _alike(arms: Sequence[Row], measure: Measure) -> bool:
    """Whether all were asked the same items in the same precision. Of old runs nobody knows; they count as alike."""
    asked = {arm[measure.asked] for arm in arms if arm.get(measure.asked)}
    return len(asked) <= 1 and DIFFERENTLY not in asked


def _of_task(task: str) -> Measure:
    name = task_words(task).replace("{", "{{").replace("}", "}}")  # a file of questions may be called anything
    asked = f"of the {name} questions"
    return Measure(
        f"{task}_accuracy", "points", 1,
        f"{{one}} answers {{size}} more {asked} right than {{other}}",
        f"{{one}} answers {{size}} fewer {asked} right than {{other}}",
        f"{{one}} and {{other}} answer the same share {asked} right within noise",
        noise=0.0, scale=100.0, items=f"{task}_items", kind="questions", asked=f"{task}_how",
        what=f"the {name} questions",
    )  # fmt: skip


def _of_format(template: str) -> list[Measure]:
    where = template_words(template).replace("{", "{{").replace("}", "}}")
    asked, what = format_key(template, "how"), f"the answers in {where}"
    return [
        Measure(
            format_key(template, "well_formed"), "points", 1,
            f"{{one}} gives {{size}} more well-formed answers in {where} than {{other}}",
            f"{{one}} gives {{size}} fewer well-formed answers in {where} than {{other}}",
            f"{{one}} and {{other}} give the same share of well-formed answers in {where} within noise",
            noise=0.0, scale=100.0, items=format_key(template, "items"), kind="answers", asked=asked,
            what=what,
        ),
        Measure(
            format_key(template, "loss"), "nats per token", -1,
            f"{{one}} is {{size}} less sure of the reference answers in {where} than {{other}}",
            f"{{one}} is {{size}} surer of the reference answers in {where} than {{other}}",
            f"{{one}} and {{other}} are equally sure of the reference answers in {where} within noise",
            asked=asked, what=what,
        ),
    ]  # fmt: skip


Verdict = Literal["more", "less", "same", "hint"]


@dataclass(frozen=True)
class Claim:
    """One measure of two arms. `one` and `other` are their titles, which are somebody's text.

    `difference` is one minus other; `found` tells it over the seeds in common, None with fewer than two; `p` is that of
    `found`, corrected for `pairs` comparisons; `detectable` the smallest difference that these seeds find in four of
    five tries among so many comparisons, by the spread of their own differences. `over_items`, where one seed is in
    common, tells the difference of these two runs over the items that both were given; then `difference` is its.
    `items` is of how many questions or answers a share is.
    "hint": seeds cannot tell, but it is more than noise.
    """

    one: str
    other: str
    measure: Measure
    difference: float
    seeds: int
    found: SeedDifference | None = None
    p: float | None = None
    pairs: int = 1
    detectable: float | None = None
    over_items: Paired | None = None
    items: int = 0

    @property
    def verdict(self) -> Verdict:
        if abs(self.difference) <= self.measure.noise:
            return "same"
        if self.p is None:
            return "same" if self.over_items and not self.over_items.is_sure else "hint"
        return "same" if self.p >= LEVEL else "more" if self.difference > 0 else "less"

    @property
    def good(self) -> bool | None:
        """Whether `one` is the better one; None when nobody is known to be."""
        if self.verdict not in ("more", "less"):
            return None
        return self.measure.better * self.difference > 0

    @property
    def lacks_documents(self) -> bool:
        """Whether the two runs of one seed would have an interval, had both been measured again on the same texts."""
        return self.seeds == 1 and self.over_items is None and self.measure in MEASURES

    def sentence(self, escaped: Callable[[str], str] = str) -> str:
        """The claim in words, without a stop. `escaped` is applied to the titles."""
        statement, evidence = self.words(escaped)
        return f"{statement} ({evidence})"

    def words(self, escaped: Callable[[str], str] = str) -> tuple[str, str]:
        """What is claimed, and what stands behind it. `escaped` is applied to the titles."""
        verdict = self.verdict
        sign = -1 if self.difference < 0 else 1
        told = "same" if verdict == "same" else "more" if sign > 0 else "less"
        words = getattr(self.measure, told).format(
            one=escaped(self.one), other=escaped(self.other), size=f"{self._number(abs(self.difference))} {self._unit}"
        )
        return words, self._evidence(1 if verdict == "same" else sign)

    @property
    def _unit(self) -> str:
        return self.measure.unit

    def _evidence(self, sign: int) -> str:
        """What stands behind it; `sign` turns the interval to how much more, or less, the words tell of."""
        told = self.verdict != "same"
        difference = [] if told else [f"difference {self._signed(self.difference)} {self._unit}"]
        if self.found is None:
            return ", ".join([*difference, *self._one_seed(sign)])
        parts = [*difference, self._interval(sign, self.found.interval), f"{self.seeds} seeds"]
        parts += [f"{self.items:,} {self.measure.kind} each"] if self.items else []
        if self.pairs > 1 and self.p is not None:
            parts.append(f"p {_p(self.p)}, corrected for {self.pairs} comparisons")
        words = ", ".join(parts)
        if not told and self.detectable and (self.p or 0) >= LEVEL:
            words += f"; {self._number(self.detectable)} {self._unit} are found in four of five tries"
        elif not told:
            words += f"; up to {self.measure.noise:g} {self._unit} are called nothing"
        return words

    def _one_seed(self, sign: int) -> list[str]:
        """What stands behind a difference that the seeds say nothing of."""
        if self.over_items is None:
            return ["one seed: a hint, not a result" if self.seeds == 1 else "no seed in common: a hint, not a result"]
        items = self.over_items
        over = f"{self._interval(sign, items.interval)} over {items.counted}"
        told = f"the same on each of {items.counted}" if items.is_flat else over
        hint = ", so a hint" if self.verdict == "hint" else ""
        return [f"{told}; one seed{hint}: of these two runs on other {items.what}, not of other seeds"]

    def _interval(self, sign: int, interval: tuple[float, float]) -> str:
        low, high = sorted(sign * bound for bound in interval)
        return f"95 % {self._signed(low)} to {self._signed(high)}"

    def _digits(self) -> int:
        if self.measure.scale == 100:
            return 0 if abs(self.difference) >= 0.095 else 1
        return 3 if 0 < abs(self.difference) < 0.095 else 2

    def _number(self, value: float) -> str:
        return f"{self.measure.scale * value:.{self._digits()}f}"

    def _signed(self, value: float) -> str:
        return signed(self.measure.scale * value, self._digits()).removeprefix("+")


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


Pair = tuple[Row, Row]


def pairs_against(arms: Sequence[Row], title: str | None = None) -> list[Pair]:
    """Every other arm with the one of this title, or with the first.

    Raises:
        BadInput: no arm has this title.
    """
    titles = [title_of(arm) for arm in arms]
    if title is not None and title not in titles:
        raise BadInput(f"No arm is called {title!r}: take one of {', '.join(map(repr, titles))}.")
    place = 0 if title is None else titles.index(title)
    return [(arm, arms[place]) for number, arm in enumerate(arms) if number != place]


def claims(pairs: Sequence[Pair], workspace: Workspace | None = None) -> list[list[Claim]]:
    """Per pair of arms (rows of `compare.summarise`) its claims. The first of a pair is what is spoken of, the second
    what it is held against; every measure is corrected for all the pairs that have it.

    Args:
        workspace: where their runs lie, so that one seed in common is told over documents and questions. These were
            given to finished runs: None where the arms are compared on the way.

    Raises:
        Damaged: what was measured of a run is not what it should be.
    """
    found = [[_claim(one, other, measure, workspace) for measure in measures([one, other])] for one, other in pairs]
    corrected: dict[tuple[int, str], tuple[float, int]] = {}
    for key in dict.fromkeys(claim.measure.key for own in found for claim in own):
        known = [(place, claim.p) for place, own in enumerate(found) for claim in own if claim.measure.key == key]
        tested = [(place, p) for place, p in known if p is not None]
        for (place, _), p in zip(tested, holm([p for _, p in tested]), strict=True):
            corrected[place, key] = p, len(tested)
    return [[_corrected(claim, corrected.get((place, claim.measure.key))) for claim in own]
            for place, own in enumerate(found)]  # fmt: skip


def _claim(one: Row, other: Row, measure: Measure, workspace: Workspace | None) -> Claim:
    mine, its = by_seed(one, measure.key), by_seed(other, measure.key)
    items = min(one.get(measure.items, 0), other.get(measure.items, 0))
    found, shared = seed_difference(mine, its, 1 / items if items else 0.0), mine.keys() & its.keys()
    if shared:
        difference = sum(mine[seed] - its[seed] for seed in shared) / len(shared)
    else:
        difference = one[measure.key] - other[measure.key]
    p = found.p if found else None
    claim = Claim(title_of(one), title_of(other), measure, difference, len(shared), found, p, items=items)
    if workspace is None or len(shared) != 1:
        return claim
    over_items = _over_items(workspace, one, other, measure, min(shared))
    return replace(claim, difference=over_items.difference, over_items=over_items) if over_items else claim


def _over_items(workspace: Workspace, one: Row, other: Row, measure: Measure, seed: int) -> Paired | None:
    """The difference of the two runs of this seed over the items that both were given."""
    mine, its = (Run(workspace.runs / arm["runs"][arm["seeds"].index(seed)]) for arm in (one, other))
    left_out = one.get("left_out", {}).get(measure.key.removesuffix("_accuracy"), ())
    return paired(mine, its, measure.key, (one.get("strength", 1.0), other.get("strength", 1.0)), left_out)


def _corrected(claim: Claim, correction: tuple[float, int] | None) -> Claim:
    """With what correction leaves of p and of what can be detected: among several each has to be surer."""
    if correction is None or claim.found is None:
        return claim
    p, pairs = correction
    smallest = detectable(claim.found.deviation, claim.seeds, level=LEVEL / pairs)
    return replace(claim, p=p, pairs=pairs, detectable=smallest)


def by_seed(arm: Row, key: str) -> dict[int, float]:
    """The values of an arm by seed; of one whose runs do not all have the measure, none."""
    if key not in arm:
        return {}
    values = arm.get(f"{key}_seeds", [arm[key]])
    return dict(zip(arm["seeds"], values, strict=True)) if len(values) == len(arm["seeds"]) else {}
