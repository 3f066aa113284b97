"""The few statistics every score needs: an interval for a share, one for a paired difference, and what can be told.

Intervals are 95 % throughout. Over items: Wilson's for a share, a paired bootstrap for a difference, and over groups of
items a bootstrap for both. Over seeds: Student's t, never a bootstrap of three, paired where two arms are compared.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import integrate, optimize, special, stats

Z = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""
_BLOCK = 1 << 20
"""Numbers drawn at once: 8 MB, however many items there are."""


def leaves_out_zero(interval: Sequence[float]) -> bool:
    """Whether a difference with this interval is hardly chance."""
    low, high = interval
    return not low <= 0 <= high


def share_interval(successes: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of `successes` in `total` independent items (Wilson 1927).

    Where several items ask for the same thing it is too narrow: see `grouped_share_interval`.
    """
    if total < 1:
        raise ValueError("an interval needs at least one item")
    share = successes / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / (1 + Z**2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def grouped_share_interval(
    correct: Sequence[float], groups: Sequence[Hashable], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean of `correct` where the items of a group (questions about a fact) go together.

    A bootstrap over whole groups. Where all groups have the same share it would have no width (all right, all wrong);
    then it is Wilson's, with each group counted as one item.
    """
    shares: dict[Hashable, list[float]] = {}
    for group, value in zip(groups, correct, strict=True):
        shares.setdefault(group, []).append(value)
    if len({sum(values) / len(values) for values in shares.values()}) == 1:
        return share_interval(len(shares) * sum(correct) / len(correct), len(shares))
    return paired_interval([0.0] * len(correct), correct, groups, draws, seed)


def paired_interval(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of the mean of `after - before`, by bootstrap over the pairs (percentiles).

    When all differences are equal, for example no answer changed, every draw is the same and the interval has a width
    of 0: it says that these items show no spread, not that the difference is known exactly.

    Args:
        groups: per pair what it belongs to, where several ask the same thing: whole groups are drawn then, for a model
            that knows a fact answers all questions about it.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"a paired interval needs equally many values, got {len(before)} and {len(after)}")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    number = {group: index for index, group in enumerate(dict.fromkeys(groups or range(len(before))))}
    member = [number[group] for group in (groups or range(len(before)))]
    sums, sizes = np.bincount(member, weights=differences), np.bincount(member)
    return _ratio_percentiles(sums, sizes, draws, seed)


def paired_ratio_interval(
    before: Sequence[float], after: Sequence[float], sizes: Sequence[float], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of sum(after - before) / sum(sizes), by bootstrap over the pairs (percentiles).

    For bits per byte of the same documents under two models: `before` and `after` are bits per document, `sizes` their
    bytes. A document is drawn whole, with its bytes, so long ones count for more, as they do in the figure itself. Of a
    handful of documents percentiles are too narrow; how many there are must stand beside the interval.
    """
    if not len(before) == len(after) == len(sizes) or not len(sizes):
        raise ValueError(
            f"a paired interval needs equally many values, got {len(before)}, {len(after)} and {len(sizes)}"
        )
    if min(sizes) <= 0:
        raise ValueError("a ratio needs sizes above 0")
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    return _ratio_percentiles(differences, np.asarray(sizes, dtype=np.float64), draws, seed)


def mean_ratio_interval(
    parts: Sequence[tuple[Sequence[float], Sequence[float]]], draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the mean over parts of sum(values) / sum(sizes), by bootstrap within each part (percentiles).

    Args:
        parts: of each its values (differences of bits, say) and sizes (bytes), document by document. The parts
            themselves are not drawn: the interval is about these parts, not about others of their kind.
    """
    if not parts:
        raise ValueError("a mean needs at least one part")
    drawn = np.zeros(draws)
    for number, (values, sizes) in enumerate(parts):
        if len(values) != len(sizes) or not len(sizes) or sum(sizes) <= 0:
            raise ValueError(f"a part needs as many values as sizes above 0, got {len(values)} and {len(sizes)}")
        kept = np.asarray(sizes, dtype=np.float64) > 0
        sums = np.asarray(values, dtype=np.float64)[kept]
        drawn += _ratios(sums, np.asarray(sizes, dtype=np.float64)[kept], draws, seed + number)
    low, high = np.percentile(drawn / len(parts), [2.5, 97.5])
    return float(low), float(high)


def _ratio_percentiles(sums: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> tuple[float, float]:
    low, high = np.percentile(_ratios(sums, sizes, draws, seed), [2.5, 97.5])
    return float(low), float(high)


def _ratios(sums: np.ndarray, sizes: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """The sum of drawn `sums` over the sum of their `sizes`, [draws]."""
    random, at_once = np.random.default_rng(seed), max(1, _BLOCK // len(sums))
    ratios = np.empty(draws)
    for start in range(0, draws, at_once):
        block = ratios[start : start + at_once]
        drawn = random.integers(0, len(sums), (len(block), len(sums)))
        block[:] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return ratios


def seed_interval(values: Sequence[float], least: float = 0.0) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds by Student's t; None with fewer than two values. `least` is the standard
    deviation that the values are known to have at least."""
    count = len(values)
    if count < 2:
        return None
    half = float(stats.t.ppf(0.975, count - 1)) * max(float(np.std(values, ddof=1)), least) / math.sqrt(count)
    mean = float(np.mean(values))
    return mean - half, mean + half


@dataclass(frozen=True)
class SeedDifference:
    """One arm minus another over the seeds that both have, every point kept: `points` in the order of `seeds`.

    `interval` is the 95 % one of the mean and `p` that of the two-sided test that it is 0, both by the paired t.
    `deviation` is the standard deviation of the points, or what rounding alone gives them where that is more.
    """

    seeds: tuple[int, ...]
    points: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    p: float
    deviation: float


def seed_difference(one: Mapping[int, float], other: Mapping[int, float], step: float = 0.0) -> SeedDifference | None:
    """The paired t of `one - other`, both values by seed; None with fewer than two seeds in common.

    What both arms share by having the same seed, such as the order of the texts, falls out of a difference, which an
    interval for each arm alone would not know.

    Args:
        step: what values are multiples of, such as 1/48 where they are shares of 48 questions. Two such numbers differ
            by rounding alone with a standard deviation of step / sqrt(6) (each is uniform within a step, Sheppard), so
            that differences which happen to be equal do not look certain. With a step of 0 equal points have an
            interval of no width, and p is 1 for a mean of 0 and else 0.
    """
    seeds = tuple(sorted(one.keys() & other.keys()))
    points = tuple(float(one[seed]) - float(other[seed]) for seed in seeds)
    least = step / math.sqrt(6)
    interval = seed_interval(points, least)
    if interval is None:
        return None
    mean, deviation = float(np.mean(points)), max(float(np.std(points, ddof=1)), least)
    error = deviation / math.sqrt(len(points))
    t = abs(mean) / error if error else math.inf if mean else 0.0
    return SeedDifference(seeds, points, mean, interval, float(2 * stats.t.sf(t, len(points) - 1)), deviation)


def detectable(deviation: float, seeds: int, power: float = 0.8, level: float = 0.05) -> float | None:
    """The smallest true difference of two arms that the two-sided paired t finds with this power; None with fewer than
    two seeds.

    The noncentrality at which the noncentral t exceeds the test's limit so often (Cohen 1988, 2.5), times the standard
    error. `deviation` is that of the differences by seed; see `paired_deviation`.
    """
    return None if seeds < 2 else _effect(seeds, power, level) * deviation / math.sqrt(seeds)


@cache
def _effect(seeds: int, power: float, level: float) -> float:
    """The difference in standard errors."""
    freedom = seeds - 1
    limit = float(stats.t.ppf(1 - level / 2, freedom))

    def found(shift: float) -> float:
        # Given the deviation that is seen, s times the true one, t is normal; so no quantile of the noncentral t is
        # needed, whose usual series fail far out.
        def given(s: float) -> float:
            seen = special.ndtr(shift - limit * s) + special.ndtr(-shift - limit * s)
            return float(seen * stats.chi.pdf(s * math.sqrt(freedom), freedom) * math.sqrt(freedom))

        return float(integrate.quad(given, 0, 2 + 12 / math.sqrt(freedom), limit=200)[0])

    most = limit
    while found(most) < power:
        most *= 2
    return float(optimize.brentq(lambda shift: found(shift) - power, 0.0, most))


def paired_deviation(tables: Sequence[Sequence[Sequence[float]]]) -> float | None:
    """The standard deviation of a difference of two arms by seed, from whole experiments: per experiment a table of
    arms (rows) by seeds (columns).

    What is left when the means of arms and of seeds are taken out is noise; a difference has twice its variance. The
    experiments are pooled by their degrees of freedom. None where no table has two arms and two seeds.
    """
    squares, freedom = 0.0, 0
    for table in tables:
        values = np.asarray(table, dtype=np.float64)
        if values.ndim != 2 or min(values.shape) < 2:
            continue
        rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True) + values.mean()
        squares += float((rest**2).sum())
        freedom += (values.shape[0] - 1) * (values.shape[1] - 1)
    return math.sqrt(2 * squares / freedom) if freedom else None


def trend(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """How much a series changed from its first value to its last by its least-squares line, with the 95 % interval by
    Student's t. For losses by step; the steps are taken as independent, which batches of new text nearly are.

    Raises:
        ValueError: there are fewer than three values.
    """
    count = len(values)
    if count < 3:
        raise ValueError(f"a trend needs at least three values, got {count}")
    line = stats.linregress(np.arange(count), np.asarray(values, dtype=np.float64))
    change = float(line.slope) * (count - 1)
    half = float(stats.t.ppf(0.975, count - 2)) * float(line.stderr) * (count - 1)
    return change, (change - half, change + half)


def holm(values: Sequence[float]) -> list[float]:
    """p-values corrected for being several, in their order (Holm 1979): each may be held against the level as if it
    were the only one, and the chance of any false finding stays below it."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected, most = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        most = max(most, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = most
    return corrected
