"""Intervals against worked cases, tables and scipy."""

import tracemalloc

import pytest
from scipy import stats

from mixcpt import statistics
from mixcpt.statistics import grouped_share_interval, paired_interval, seed_interval, share_interval


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
