"""The few statistics every score needs: an interval for a share, and one for a paired difference.

Intervals are 95 % throughout. Over items: Wilson's for a share, a paired bootstrap for a difference. Over seeds:
Student's t, never a bootstrap of three.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

Z = 1.959963984540054
"""The 97.5 % point of the standard normal distribution."""


def share_interval(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval for a share of `successes` in `total` (Wilson 1927)."""
    if total < 1:
        raise ValueError("an interval needs at least one item")
    share = successes / total
    centre = (share + Z**2 / (2 * total)) / (1 + Z**2 / total)
    half = Z * math.sqrt(share * (1 - share) / total + Z**2 / (4 * total**2)) / (1 + Z**2 / total)
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_interval(
    before: Sequence[float],
    after: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % interval of the mean of `after - before`, by bootstrap over the pairs (percentiles).

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
    drawn = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    low, high = np.percentile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [2.5, 97.5])
    return float(low), float(high)


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean over seeds by Student's t; None with fewer than two values."""
    count = len(values)
    if count < 2:
        return None
    half = float(stats.t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    mean = float(np.mean(values))
    return mean - half, mean + half
