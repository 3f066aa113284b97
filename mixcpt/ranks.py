"""How two scores order the same samples: rank correlation, and the samples on which they disagree most.

Ranks go from the easy end to the hard one, whichever way a score runs, so scores that agree on what is easy correlate
positively. What it gives up: how far values lie apart; only their order counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mixcpt.scores import SCORES, ScoredSample

_FEWEST = 3


@dataclass(frozen=True)
class Contested:
    """A sample with its places under two scores, each a share from 0 (the easiest of all) to 1 (the hardest)."""

    sample: ScoredSample
    one: float
    other: float

    @property
    def gap(self) -> float:
        """How much harder it is by the other score than by the one, from -1 to 1."""
        return self.other - self.one


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, lowest value first; equal values share the mean of theirs (float64, as long as `values`)."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    means: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return means


def of_one_order(names: Sequence[str]) -> list[str]:
    """The scores whose orders can differ: without a perplexity whose loss is there, for it is exp of that."""
    return [name for name in names if name.replace("perplexity", "loss") not in set(names) - {name}]


def correlations(samples: Sequence[ScoredSample], names: Sequence[str]) -> list[list[float | None]]:
    """Spearman's rank correlation of each pair of scores: Pearson's, of the ranks of the samples that have both.

    None where fewer than three samples have both, or all of them have the same value.
    """
    return [[_correlation(*_both(samples, one, other)) for other in names] for one in names]


def contested(samples: Sequence[ScoredSample], one: str, other: str, most: int = 20) -> list[Contested]:
    """The samples whose places under two scores differ most, the widest gap first."""
    both = [sample for sample in samples if one in sample.scores and other in sample.scores]
    shares = [_shares(mean_ranks(_hardness(both, name))) for name in (one, other)]
    found = [Contested(*row) for row in zip(both, *(share.tolist() for share in shares), strict=True)]
    return sorted(found, key=lambda row: (-abs(row.gap), row.sample.id))[:most]


def _both(samples: Sequence[ScoredSample], one: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    both = [sample for sample in samples if one in sample.scores and other in sample.scores]
    return _hardness(both, one), _hardness(both, other)


def _hardness(samples: Sequence[ScoredSample], name: str) -> np.ndarray:
    values = np.array([sample.scores[name] for sample in samples], dtype=np.float64)
    return values if SCORES[name].easy == "low" else -values


def _correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    if len(one) < _FEWEST:
        return None
    ranks = [mean_ranks(values) for values in (one, other)]
    apart = [rank - rank.mean() for rank in ranks]
    spread = float(np.sqrt((apart[0] ** 2).sum() * (apart[1] ** 2).sum()))
    return float((apart[0] * apart[1]).sum()) / spread if spread else None


def _shares(ranks: np.ndarray) -> np.ndarray:
    return (ranks - 1) / max(len(ranks) - 1, 1)
