"""Intervals against worked cases, tables and scipy."""

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from mixcpt import statistics
from mixcpt.statistics import (
    detectable,
    grouped_share_interval,
    holm,
    leaves_out_zero,
    paired_deviation,
    paired_interval,
    paired_ratio_interval,
    seed_difference,
    seed_interval,
    share_interval,
)


def test_wilson_of_8_in_10_worked_by_hand() -> None:
    # z² = 3.8415; centre (0.8 + 3.8415/20) / (1 + 0.38415) = 0.99207/1.38415 = 0.71674
    # half 1.95996 * sqrt(0.16/10 + 3.8415/400) / 1.38415 = 1.95996 * 0.16002 / 1.38415 = 0.22659
    assert share_interval(8, 10) == pytest.approx((0.49016, 0.94332), abs=1e-5)


@pytest.mark.parametrize(("successes", "total"), [(0, 7), (1, 1), (7, 7), (1, 4), (150, 384), (3, 10_000)])
def test_a_share_interval_is_scipys_wilson(successes: int, total: int) -> None:
    wanted = stats.binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert share_interval(successes, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def test_a_share_interval_stays_within_0_and_1() -> None:
    assert share_interval(0, 5)[0] == 0.0
    assert share_interval(5, 5)[1] == 1.0


def test_no_items_give_no_interval() -> None:
    with pytest.raises(ValueError, match="at least one"):
        share_interval(0, 0)


def test_seed_interval_worked_by_hand() -> None:
    # mean 2, sample deviation 1, t(2 degrees of freedom) = 4.30265; 4.30265 / sqrt(3) = 2.48414
    assert seed_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    # t(1) = 12.70620; deviation sqrt(0.5), over sqrt(2) gives 0.5; 6.35310
    assert seed_interval([0.0, 1.0]) == pytest.approx((0.5 - 6.35310, 0.5 + 6.35310), abs=1e-5)


def test_seed_interval_is_scipys_t_interval() -> None:
    values = [0.311, 0.342, 0.295, 0.351, 0.330]
    wanted = stats.t.interval(0.95, 4, loc=sum(values) / 5, scale=stats.sem(values))
    assert seed_interval(values) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("values", [[], [0.3]])
def test_one_seed_has_no_interval(values: list[float]) -> None:
    assert seed_interval(values) is None


def test_equal_pairs_differ_by_exactly_nothing() -> None:
    """Paired, not independent: half of the answers are wrong, but the same half each time."""
    answers = [0, 1] * 50
    assert paired_interval(answers, answers) == (0.0, 0.0)


def test_a_constant_gain_has_an_interval_of_one_point_and_its_sign() -> None:
    assert paired_interval([0, 0, 0], [1, 1, 1]) == (1.0, 1.0)
    assert paired_interval([1, 1, 1], [0, 0, 0]) == (-1.0, -1.0)


def test_a_paired_interval_covers_what_the_normal_one_covers() -> None:
    """30 won, 10 lost, 60 unchanged: mean 0.2, deviation sqrt(0.4 - 0.04) = 0.6, error 0.06, so 0.2 ± 0.1176."""
    before = [0] * 30 + [1] * 10 + [1] * 60
    after = [1] * 30 + [0] * 10 + [1] * 60
    low, high = paired_interval(before, after)
    assert low == pytest.approx(0.2 - 0.1176, abs=0.015) and high == pytest.approx(0.2 + 0.1176, abs=0.015)
    assert paired_interval(before, after) == (low, high), "the same answers must give the same interval"


def test_many_items_are_drawn_in_blocks_that_do_not_move_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [number % 3 % 2 for number in range(10_000)]
    tracemalloc.start()
    whole = paired_interval([0] * 10_000, answers, draws=1000)  # 80 MB a matrix at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6
    monkeypatch.setattr(statistics, "_BLOCK", 70_000)  # blocks of seven draws, the last one shorter
    assert paired_interval([0] * 10_000, answers, draws=1000) == whole


def test_grouped_items_count_as_their_groups() -> None:
    """40 facts, half of them known, four questions each: as wide as 40 items, twice as wide as 160."""
    groups = [fact for fact in range(40) for _ in range(4)]
    correct = [float(fact % 2) for fact in groups]
    low, high = grouped_share_interval(correct, groups)
    few, many = share_interval(20, 40), share_interval(80, 160)
    assert high - low == pytest.approx(few[1] - few[0], rel=0.1)
    assert high - low > 1.8 * (many[1] - many[0])


def test_groups_without_any_spread_have_an_interval_all_the_same() -> None:
    """A bootstrap would be sure of 100 % after two facts."""
    assert grouped_share_interval([1.0] * 8, [0] * 4 + [1] * 4) == share_interval(2, 2)
    assert grouped_share_interval([0.0] * 6, [0, 0, 1, 1, 2, 2]) == share_interval(0, 3)


@pytest.mark.parametrize(("before", "after"), [([1, 0], [1]), ([], [])])
def test_pairs_that_do_not_pair_are_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="equally many"):
        paired_interval(before, after)


def test_a_difference_over_seeds_worked_by_hand() -> None:
    # differences 1, 2, 3: mean 2, deviation 1, t = 2 * sqrt(3) = 3.4641 with 2 degrees of freedom; there the tail is
    # known in closed form: p = 1 - t / sqrt(2 + t²) = 1 - 3.4641 / 3.74166 = 0.07418
    found = seed_difference({0: 2.0, 1: 5.0, 2: 4.0, 7: 9.0}, {2: 1.0, 1: 3.0, 0: 1.0, 5: 0.0})
    assert found is not None
    assert (found.seeds, found.points, found.mean) == ((0, 1, 2), (1.0, 2.0, 3.0), 2.0)
    assert found.interval == pytest.approx((2 - 2.48414, 2 + 2.48414), abs=1e-5)
    assert (found.p, found.deviation) == pytest.approx((0.07418, 1.0), abs=1e-5)


def test_a_difference_over_seeds_is_scipys_paired_t() -> None:
    one, other = [0.31, 0.52, 0.47, 0.40], [0.29, 0.44, 0.48, 0.31]
    wanted = stats.ttest_rel(one, other)
    found = seed_difference(dict(enumerate(one)), dict(enumerate(other)))
    assert found is not None and found.p == pytest.approx(wanted.pvalue, rel=1e-12)
    low, high = wanted.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high), rel=1e-12)


def test_a_difference_needs_two_seeds_in_common_and_may_have_no_spread() -> None:
    assert seed_difference({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0}) is None
    same = seed_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert same is not None and (same.mean, same.interval, same.p) == (0.0, (0.0, 0.0), 1.0)
    apart = seed_difference({0: 1.5, 1: 2.5}, {0: 1.0, 1: 2.0})
    assert apart is not None and (apart.interval, apart.p) == ((0.5, 0.5), 0.0)


def test_shares_that_happen_to_differ_equally_are_not_certain() -> None:
    # 24, 25, 23 against 23, 24, 22 of 48 questions: always one more. Rounding has a deviation of 1 / (48 sqrt(6)), so
    # t = sqrt(3) * sqrt(6) = 4.2426 whatever the step, and with 2 degrees of freedom p = 1 - t / sqrt(2 + t²).
    one, other = ({seed: right / 48 for seed, right in enumerate(rights)} for rights in ((24, 25, 23), (23, 24, 22)))
    found = seed_difference(one, other, step=1 / 48)
    assert found is not None
    assert found.p == pytest.approx(1 - 4.242641 / (2 + 4.242641**2) ** 0.5, rel=1e-5) and found.p > 0.05
    assert found.interval[0] < 0 < found.mean == pytest.approx(1 / 48)
    wide = seed_difference({0: 0.5, 1: 0.9}, {0: 0.4, 1: 0.4}, step=1 / 48)
    plain = seed_difference({0: 0.5, 1: 0.9}, {0: 0.4, 1: 0.4})
    assert wide is not None and plain is not None and wide.p == plain.p, "where seeds differ more it plays no part"


@pytest.mark.parametrize("seeds", [3, 4, 5, 12])
def test_what_can_be_detected_is_found_so_often_by_the_noncentral_t(seeds: int) -> None:
    smallest = detectable(0.05, seeds)
    assert smallest is not None
    shift, limit = smallest / 0.05 * seeds**0.5, stats.t.ppf(0.975, seeds - 1)
    power = stats.nct.sf(limit, seeds - 1, shift) + stats.nct.cdf(-limit, seeds - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_what_can_be_detected_in_known_cases() -> None:
    # The usual tables: 34 pairs find a half of a deviation with 80 % power (33 do not), 15 pairs 0.78.
    assert detectable(1.0, 34) == pytest.approx(0.495, abs=1e-3)
    assert (detectable(1.0, 33) or 0) > 0.5
    assert detectable(1.0, 15) == pytest.approx(0.778, abs=1e-3)
    assert detectable(1.0, 1) is None
    two = detectable(1.0, 2)  # by chance: the t of two pairs has the heaviest tail
    assert two is not None
    differences = np.random.default_rng(0).normal(two, 1.0, (200_000, 2))
    t = differences.mean(axis=1) / (differences.std(axis=1, ddof=1) / 2**0.5)
    assert float((abs(t) > stats.t.ppf(0.975, 1)).mean()) == pytest.approx(0.8, abs=0.005)


def test_the_deviation_of_a_difference_worked_by_hand() -> None:
    # two arms: what is left is half of how far each difference (1 and 3) lies from their mean: 0.5 four times, one
    # degree of freedom, twice that: sqrt(2 * 4 * 0.25) = sqrt(2), which is the deviation of 1 and 3
    table = [[5.0, 9.0], [4.0, 6.0]]
    assert paired_deviation([table]) == pytest.approx(2**0.5)
    # pooled with one of no spread and one degree of freedom, half of the variance is left; a lone seed says nothing
    assert paired_deviation([table, [[1.0, 2.0], [2.0, 3.0]], [[1.0], [2.0]]]) == pytest.approx(1.0)
    assert paired_deviation([[[1.0], [2.0]], [[1.0, 2.0]]]) is None


def test_holm_worked_by_hand() -> None:
    # 0.01 * 4 = 0.04; 0.02 * 3 = 0.06; 0.03 * 2 = 0.06; 0.9 * 1
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    # a later one is never below an earlier one, and none is above 1
    assert holm([0.04, 0.03]) == pytest.approx([0.06, 0.06])
    assert holm([0.7, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_ratio_over_two_documents_by_hand() -> None:
    """Documents of 10 and 30 bytes that need 10 more and 10 fewer bits: drawn are twice the first (+1 bit per byte, one
    draw in four), both (0, one in two), or twice the second (-1/3, one in four)."""
    low, high = paired_ratio_interval([20.0, 90.0], [30.0, 80.0], [10, 30])
    assert (low, high) == pytest.approx((-1 / 3, 1.0))


def test_a_ratio_is_scipys_percentile_bootstrap() -> None:
    random = np.random.default_rng(3)
    sizes = random.integers(200, 2000, 40)
    before = sizes * random.normal(1.2, 0.2, 40)
    after = before + sizes * random.normal(0.03, 0.05, 40)
    wanted = stats.bootstrap(
        (before, after, sizes),
        lambda b, a, n, axis: (a - b).sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    found = paired_ratio_interval(list(before), list(after), list(sizes), draws=20_000)
    assert found == pytest.approx((wanted.low, wanted.high), abs=0.02 * (wanted.high - wanted.low))


def test_a_ratio_of_equal_sizes_is_the_paired_interval_of_the_mean() -> None:
    before, after = [0.3, 0.9, 0.4, 0.7, 0.2], [0.5, 0.8, 0.9, 0.7, 0.6]
    assert paired_ratio_interval(before, after, [1.0] * 5) == paired_interval(before, after)


@pytest.mark.parametrize(
    ("before", "after", "sizes", "said"),
    [
        ([1.0], [1.0, 2.0], [1], "equally many"),
        ([1.0], [1.0], [1, 2], "equally many"),
        ([], [], [], "equally many"),
        ([1.0, 2.0], [1.0, 2.0], [1, 0], "above 0"),
    ],
)
def test_ratios_that_are_none_are_refused(
    before: list[float], after: list[float], sizes: list[float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        paired_ratio_interval(before, after, sizes)


@pytest.mark.parametrize(
    ("interval", "sure"), [((0.1, 0.2), True), ((-0.2, -0.1), True), ((0.0, 0.1), False), ((-0.1, 0.1), False)]
)
def test_a_difference_is_sure_where_its_interval_leaves_out_zero(interval: tuple[float, float], sure: bool) -> None:
    assert leaves_out_zero(interval) is sure
