"""Ranks and rank correlation by hand and against scipy; the samples on which two scores disagree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from test_selection import sample

from mixcpt.ranks import contested, correlations, mean_ranks, of_one_order

few_values = st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0, 7.0]), min_size=3, max_size=40)


def test_equal_values_share_the_mean_of_their_ranks() -> None:
    assert mean_ranks(np.array([3.0, 1.0, 3.0, 2.0, 3.0])).tolist() == [4, 1, 4, 2, 4]
    assert mean_ranks(np.array([])).tolist() == []


@given(few_values)
def test_ranks_are_those_of_scipy(values: list[float]) -> None:
    assert mean_ranks(np.array(values)).tolist() == stats.rankdata(values).tolist()


@given(few_values, st.randoms(use_true_random=False))
def test_the_correlation_is_spearmans(values: list[float], chance: object) -> None:
    others = list(values)
    chance.shuffle(others)  # type: ignore[attr-defined]
    samples = [sample(f"s{n}", loss_plain=a, ifd=b) for n, (a, b) in enumerate(zip(values, others, strict=True))]
    ((one, both), (again, _)) = correlations(samples, ["loss_plain", "ifd"])
    if len(set(values)) == 1:
        assert one is both is again is None
        return
    assert one == pytest.approx(1.0) and both == again
    assert both == pytest.approx(stats.spearmanr(values, others).statistic)


def test_scores_that_run_in_opposite_ways_agree_on_what_is_easy() -> None:
    """Low is easy for the DPO loss, high is easy for the margin."""
    samples = [sample(f"s{n}", margin=float(n), dpo_loss=-(float(n) ** 3)) for n in range(5)]
    assert correlations(samples, ["margin", "dpo_loss"])[0][1] == pytest.approx(1.0)


def test_a_perplexity_orders_as_its_loss() -> None:
    names = ["perplexity_template", "perplexity_plain", "loss_plain", "ifd"]
    assert of_one_order(names) == ["perplexity_template", "loss_plain", "ifd"]
    assert of_one_order(["margin", "dpo_loss"]) == ["margin", "dpo_loss"]


def test_too_few_samples_tell_nothing() -> None:
    samples = [sample("a", ifd=1.0, loss_plain=1.0), sample("b", ifd=2.0, loss_plain=3.0), sample("c", ifd=3.0)]
    assert correlations(samples, ["ifd", "loss_plain"])[0][1] is None


def test_the_most_contested_come_first() -> None:
    """Of five, `b` is the easiest by one and the hardest by the other."""
    ifd = {"a": 1.0, "b": 0.0, "c": 2.0, "d": 3.0, "e": 4.0}
    loss = {"a": 0.5, "b": 9.0, "c": 2.0, "d": 3.0, "e": 4.0}
    samples = [sample(id, ifd=ifd[id], loss_plain=loss[id]) for id in ifd] + [sample("z", ifd=99.0)]
    found = contested(samples, "ifd", "loss_plain", most=3)
    assert [(row.sample.id, row.one, row.other, row.gap) for row in found] == [
        ("b", 0.0, 1.0, 1.0),
        ("a", 0.25, 0.0, -0.25),
        ("c", 0.5, 0.25, -0.25),
    ]
    assert contested([], "ifd", "loss_plain") == []
