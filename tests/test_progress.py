"""Speed and time left, by hand."""

import pytest
from made import stage_of

from mixcpt.metrics import Record
from mixcpt.progress import cached_share, peak_share, progress


def steps(count: int, seconds: float = 2.0) -> list[Record]:
    return [
        {
            "step": number,
            "tokens": 100 * number,
            "loss": float(number),
            "learning_rate": 1e-3,
            "seconds": seconds,
            "memory_bytes": number,
        }
        for number in range(1, count + 1)
    ]


def measure(step: int, seconds: float) -> Record:
    return {"step": step, "tokens": 100 * step, "seconds": seconds, "measure": {}}


def test_there_is_none_before_the_first_step() -> None:
    assert progress(stage_of(), None, [], [measure(0, 5.0)]) is None


def test_figures_are_of_the_recent_steps() -> None:
    """Forty steps of 100 tokens; the last twenty took 4 s each: 25 tokens/s, mean of the losses 21 to 40 is 30.5."""
    losses = steps(20) + steps(40, seconds=4.0)[20:]
    found = progress(stage_of(), 8000, losses, [])
    assert found and (found.tokens_per_second, found.loss, found.memory_bytes) == (25.0, 30.5, 40)
    assert (found.step, found.tokens, found.total_tokens, found.share) == (40, 4000, 8000, 0.5)
    assert found.seconds_left == pytest.approx(4000 / 25)


def test_measures_to_come_are_in_the_time_left() -> None:
    """At step 4 of 10, measures every 3 steps: 6 and 9, and the one at the end; 6 steps of 2 s, measures of 5 s."""
    stage = stage_of(mixture__budget_tokens=1000, measures__every_steps=3)
    found = progress(stage, stage.mixture.total_tokens(), steps(4), [measure(0, 4.0), measure(3, 6.0)])
    assert found and found.seconds_left == pytest.approx(6 * 2 + 3 * 5)


def test_a_measure_due_at_the_last_step_is_counted_once() -> None:
    stage = stage_of(mixture__budget_tokens=900, measures__every_steps=3)
    found = progress(stage, stage.mixture.total_tokens(), steps(4), [measure(0, 5.0)])
    assert found and found.seconds_left == pytest.approx(5 * 2 + 2 * 5)  # at 6, and at 9, which is the end


def test_nothing_is_left_at_the_end_even_beyond_the_budget() -> None:
    found = progress(stage_of(), 350, steps(4), [measure(0, 5.0)])
    assert found and (found.seconds_left, found.share) == (0.0, 1.0)


def test_the_share_of_the_peak_is_weighed_by_time() -> None:
    """A tenth for 1 s and four tenths for 3 s; unknown as soon as one step's is."""
    known: list[Record] = [
        {"seconds": 1.0, "peak_share": 0.1, "tokens": 100}, {"seconds": 3.0, "peak_share": 0.4, "tokens": 200},
    ]  # fmt: skip
    assert peak_share(known) == pytest.approx(0.325)
    assert peak_share([*known, {"seconds": 1.0, "tokens": 300}]) is None
    assert peak_share([]) is None


def test_the_cached_share_is_of_all_tokens() -> None:
    steps: list[Record] = [{"cached_tokens": 0, "tokens": 100}, {"cached_tokens": 60, "tokens": 200}]
    assert cached_share(steps) == 0.3
    assert cached_share([*steps, {"tokens": 300}]) is None
    assert cached_share([]) is None


def test_both_are_told_with_the_progress() -> None:
    """Of the peak that of the last twenty steps, of the cache that of all."""
    losses = [record | {"peak_share": record["step"] / 100, "cached_tokens": 50} for record in steps(40)]
    found = progress(stage_of(), 8000, losses, [])
    assert found and found.cached_share == 0.5
    assert found.peak_share == pytest.approx(sum(range(21, 41)) / 20 / 100)
    plain = progress(stage_of(), 8000, steps(40), [])
    assert plain and (plain.peak_share, plain.cached_share) == (None, None)
