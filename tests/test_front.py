"""The Pareto front and the best gain within a tolerance, on places worked out by hand."""

from typing import Any

import pytest

from mixcpt.front import BASE, Place, best_within, choices, name, pareto, places, within_words
from mixcpt.plane import plane


def row(arm: str, gain: float, forgetting: float, seed: int = 0, **more: Any) -> dict[str, Any]:
    own = {"run": f"{arm}-{seed}", "experiment": "e", "arm": arm, "title": arm, "settings": arm, "seed": seed}
    return {**own, "model": "m", "tokens": 100, "domain_gain": gain, "forgetting": forgetting, **more}


def at(*points: tuple[float, float, float]) -> list[dict[str, Any]]:
    return [
        {
            "strength": s,
            "gain": gain,
            "gain_interval": (gain - 0.1, gain + 0.1),
            "forgetting": lost,
            "forgetting_interval": (lost - 0.1, lost + 0.1),
            "gain_documents": 12,
            "forgetting_documents": 12,
        }
        for s, gain, lost in points
    ]


def test_places_are_ends_or_all_strengths() -> None:
    found = places([row("a", 0.3, 0.1), row("b", 0.4, 0.2, strengths=at((0.5, 0.3, 0.05), (1, 0.4, 0.2)))])
    assert [(one.title, one.strength, one.gain, one.forgetting) for one in found] == [
        ("a", None, 0.3, 0.1),
        ("b", 0.5, 0.3, 0.05),
        ("b", 1, 0.4, 0.2),
    ]
    assert [name(one) for one in found] == ["a", "b at strength 0.5", "b"]
    assert not places([{"run": "x", "arm": "x", "domain_gain": 1.0}]), "without forgetting it has no place"


def test_the_front_holds_what_nothing_beats() -> None:
    some = [Place(title, title, None, gain, lost) for title, gain, lost in (
        ("beaten", 0.2, 0.1), ("cheap", 0.3, 0.05), ("dear", 0.5, 0.4), ("as good as cheap", 0.3, 0.06),
        ("worse than the base", -0.1, -0.0), ("twin of dear", 0.5, 0.4),
    )]  # fmt: skip
    assert [one.title for one in pareto(some)] == ["base", "cheap", "dear"]
    better = Place("better than the base", "x", None, 0.1, -0.02)
    assert [one.title for one in pareto([*some, better])] == ["better than the base", "cheap", "dear"]
    assert pareto([]) == [BASE]


def test_seeds_of_an_arm_are_one_choice_their_mean() -> None:
    lucky, unlucky = row("a", 0.6, 0.0, 0), row("a", 0.2, 0.2, 1)
    (mean,) = choices([lucky, unlucky])
    assert (mean.gain, mean.forgetting, mean.seeds) == pytest.approx((0.4, 0.1, 2))
    # deviation sqrt(0.02), over sqrt(2) gives 0.1; t(1) = 12.7062
    assert mean.interval == pytest.approx((0.1 - 1.27062, 0.1 + 1.27062), abs=1e-4)
    assert [one.title for one in choices([lucky, row("b", 0.5, 0.05)])] == ["a", "b"]


def test_the_front_that_is_drawn_is_of_means() -> None:
    lucky, unlucky, other = row("a", 0.6, 0.0, 0), row("a", 0.2, 0.2, 1), row("b", 0.5, 0.05)
    front = next(trace for trace in plane([lucky, unlucky, other], pareto=True).data if trace.uid == "front")
    assert list(front.customdata[1:-1]) == ["base", "b"], "the luckiest seed is nobody's choice"


def test_stages_are_joined_also_where_they_were_measured_again() -> None:
    first = row("cpt", 0.4, 0.2, strengths=at((1, 0.4, 0.2)))
    after = row("sft", 0.3, 0.1, strengths=at((1, 0.3, 0.1)), parent="cpt-0")
    lines = [(list(trace.x), list(trace.y)) for trace in plane([first, after]).data if trace.mode == "lines"]
    assert ([0.2, 0.1], [0.4, 0.3]) in lines


def test_a_strength_that_one_seed_lacks_is_no_choice() -> None:
    both = row("a", 0.4, 0.2, 0, strengths=at((0.5, 0.3, 0.1), (1, 0.4, 0.2)))
    end = row("a", 0.4, 0.2, 1, strengths=at((1, 0.4, 0.2)))
    assert [one.strength for one in choices([both, end])] == [1]


def test_the_best_gain_within_what_is_accepted() -> None:
    rows = [row("dear", 0.5, 0.3), row("soft", 0.4, 0.2, strengths=at((0.5, 0.3, 0.04), (1, 0.4, 0.2)))]
    best = best_within(rows, 0.05)
    assert best and (best.title, best.strength) == ("soft", 0.5)
    assert best_within(rows, 0.3) == choices(rows)[0]
    assert best_within(rows, 0.01) is None and best_within([row("lost", -0.1, -0.1)], 1.0) is None
    found = within_words(rows, 0.05)
    assert found.title == "Within 0.05 bits per byte of forgetting, soft at strength 0.5"
    assert found.words == (
        "gains most: +0.300 bits per byte in the field for +0.040 of forgetting. Its forgetting may be larger than you "
        "accept (95 % interval −0.060 to +0.140)"
    )
    assert "nothing here gains anything" in within_words(rows, 0.01).words


def test_a_lead_that_is_noise_names_those_that_are_as_good() -> None:
    rows = [row("one", 0.30, 0.0), row("two", 0.29, 0.0), row("three", 0.2, 0.0)]
    assert within_words(rows, 0.1).words.endswith("Within 0.02 of it: two")
    three = [row("one", 0.30, 0.0, seed) for seed in range(3)]
    assert "mean of 3 seeds" in within_words(three, 0.1).words
