"""The few statistics every score needs: an interval for a share, and one for a paired difference.

Intervals are 95 % throughout. Over items: Wilson's for a share, a paired bootstrap for a difference, and over groups of
items a bootstrap for both. Over seeds: Student's t, never a bootstrap of three.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

Z = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""
_BLOCK = 1 << 20
"""Numbers drawn at once: 8 MB, however many items there are."""


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
    random, at_once = np.random.default_rng(seed), max(1, _BLOCK // len(sums))
    means = np.empty(draws)
    for start in range(0, draws, at_once):
        block = means[start : start + at_once]
        drawn = random.integers(0, len(sums), (len(block), len(sums)))
        block[:] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds by Student's t; None with fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    half = float(stats.t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    return mean - half, mean + half
