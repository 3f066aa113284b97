"""Claims: sentences, verdicts and corrections, each checked against numbers worked out by hand."""

from typing import Any

import pytest

from mixcpt.claims import asked_differently, by_seed, claims, measures, pairs_against
from mixcpt.compare import DIFFERENTLY
from mixcpt.errors import BadInput
from mixcpt.findings import cautions, leaders
from mixcpt.statistics import detectable


def arm(title: str, gain: list[float], forgetting: list[float], **more: Any) -> dict[str, Any]:
    """An arm as `summarise` gives it; seeds count from 0."""
    several = len(gain) > 1
    return {
        "title": title,
        "seeds": list(range(len(gain))),
        "domain_tokens": 1000,
        "domain_gain": sum(gain) / len(gain),
        "forgetting": sum(forgetting) / len(forgetting),
        **({"domain_gain_seeds": gain, "forgetting_seeds": forgetting} if several else {}),
        "domain_bits_per_byte_base": 1.5,
        "general_bits_per_byte_base": 1.25,
        **more,
    }


def told(*arms: dict[str, Any]) -> list[str]:
    return [claim.sentence() for own in claims(pairs_against(arms)) for claim in own]


def test_a_difference_that_is_real_is_told_with_interval_and_seeds() -> None:
    # forgetting: differences -0.2, -0.3, -0.4; mean -0.3, deviation 0.1, half the interval 4.30265 * 0.1 / sqrt(3) =
    # 0.248. gain: differences 0.1, 0.1, 0.4; mean 0.2, deviation 0.1732, half 0.430: nothing can be told. Three seeds
    # find 3.26404 * 0.1732 = 0.57.
    plain = arm("documents, CE", [0.1, 0.2, 0.3], [0.5, 0.6, 0.7])
    better = arm("mixture, LSSD", [0.2, 0.3, 0.7], [0.3, 0.3, 0.3])
    (own,) = claims(pairs_against([plain, better]))
    gain, forgetting = own
    assert forgetting.sentence() == (
        "mixture, LSSD forgets 0.30 bits per byte less than documents, CE (95 % 0.05 to 0.55, 3 seeds)"
    )
    assert gain.sentence() == (
        "mixture, LSSD and documents, CE gain the same in the field within noise (difference 0.20 bits per byte, "
        "95 % \N{MINUS SIGN}0.23 to 0.63, 3 seeds; 0.57 bits per byte are found in four of five tries)"
    )
    assert (forgetting.verdict, forgetting.good) == ("less", True)
    assert (gain.verdict, gain.good) == ("same", None)


def test_only_what_was_asked_alike_is_compared() -> None:
    def asked(name: str, how: str) -> dict[str, Any]:
        scores = {"general_accuracy": 0.8, "general_accuracy_seeds": [0.8, 0.8], "general_items": 48}
        return arm(name, [0.5, 0.5], [0.1, 0.1], **scores, general_how=how)

    alike, other, mixed = asked("a", "f1 bf16"), asked("b", "f2 bf16"), asked("c", DIFFERENTLY)
    keys = [measure.key for measure in measures([alike, asked("d", "f1 bf16")])]
    assert keys == ["domain_gain", "forgetting", "general_accuracy"]
    for unlike in (other, mixed):
        assert [measure.key for measure in measures([alike, unlike])] == keys[:2]
        assert asked_differently([alike, unlike]) == ["the general questions"]
    assert "general_accuracy" in [measure.key for measure in measures([alike, asked("old", "")])], "nobody knows"
    assert "were not all asked the general questions alike" in " ".join(cautions([alike, other]))


def test_equal_differences_of_few_questions_are_no_certainty() -> None:
    def of_eight(name: str, shares: list[float]) -> dict[str, Any]:
        mean = sum(shares) / len(shares)
        return arm(name, [0.5] * 2, [0.1] * 2, general_accuracy=mean, general_accuracy_seeds=shares, general_items=8)

    (own,) = claims(pairs_against([of_eight("a", [0.5, 0.5]), of_eight("b", [0.625, 0.625])]))
    assert own[-1].verdict == "same" and "2 seeds, 8 questions each" in own[-1].sentence()


def test_what_is_worse_is_said_as_plainly() -> None:
    (own,) = claims(pairs_against([arm("a", [0.5, 0.51], [0.1, 0.1]), arm("b", [0.1, 0.12], [0.4, 0.401])]))
    gain, forgetting = own
    assert gain.sentence().startswith("b gains 0.40 bits per byte less in the field than a (95 % 0.")
    assert forgetting.sentence().startswith("b forgets 0.30 bits per byte more than a (95 % ")
    assert (gain.good, forgetting.good) == (False, False)


def test_a_tiny_difference_is_nothing_however_sure() -> None:
    (own,) = claims(pairs_against([arm("a", [0.5, 0.6], [0.1, 0.2]), arm("b", [0.51, 0.61], [0.1, 0.2])]))
    assert own[0].verdict == "same" and (own[0].p or 0) < 0.05
    assert own[0].sentence().endswith("2 seeds; up to 0.02 bits per byte are called nothing)")


def test_one_seed_is_a_hint_and_seeds_that_are_not_shared_are_not_paired() -> None:
    assert told(arm("a", [0.5], [0.1]), arm("b", [0.3], [0.11])) == [
        "b gains 0.20 bits per byte less in the field than a (one seed: a hint, not a result)",
        "b and a forget the same within noise (difference 0.010 bits per byte, one seed: a hint, not a result)",
    ]
    elsewhere = arm("b", [0.3], [0.3], seeds=[7])
    assert told(arm("a", [0.5], [0.1]), elsewhere)[0].endswith("(no seed in common: a hint, not a result)")


def test_several_pairs_are_corrected_together() -> None:
    first = arm("a", [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    # t = 3.5 / (0.5 / sqrt(3)) = 12.1244 with 2 degrees of freedom: p = 1 - t / sqrt(2 + t²) = 0.006735; twice 0.01347
    # t = 2 / (1 / sqrt(3)) = 3.4641: p = 0.07418, the larger, times 1
    sure, unsure = arm("b", [3.0, 3.5, 4.0], [0.0] * 3), arm("c", [1.0, 2.0, 3.0], [0.0] * 3)
    (b, _), (c, _) = claims(pairs_against([first, sure, unsure]))
    assert (b.p, c.p) == pytest.approx((0.013468, 0.07418), abs=1e-5) and b.pairs == 2
    assert b.sentence() == (
        "b gains 3.50 bits per byte more in the field than a (95 % 2.26 to 4.74, 3 seeds, p 0.013, corrected for 2 "
        "comparisons)"
    )
    # So is what can be detected: the level is halved.
    assert c.detectable == pytest.approx(detectable(1.0, 3, level=0.025))
    assert (c.detectable or 0) > (detectable(1.0, 3) or 0)
    (alone, _) = claims(pairs_against([first, sure]))[0]
    assert alone.p == pytest.approx(0.006735, abs=1e-5)


def test_questions_are_told_in_points() -> None:
    one = arm("a", [0.5, 0.5], [0.1, 0.1], general_accuracy=0.9, general_accuracy_seeds=[0.88, 0.92])
    other = arm("b", [0.5, 0.5], [0.1, 0.1], general_accuracy=0.7, general_accuracy_seeds=[0.68, 0.72])
    assert told(one, other)[-1] == (
        "b answers 20 points fewer of the general questions right than a (95 % 20 to 20, 2 seeds)"
    )
    odd = [{**one, "q{0}_accuracy": 0.5}, {**other, "q{0}_accuracy": 0.5}]
    assert any("of the q{0} questions right" in sentence for sentence in told(*odd))


def test_only_what_both_measured_is_claimed() -> None:
    half = arm("b", [0.5], [0.1])
    del half["forgetting"]
    assert len(told(arm("a", [0.1], [0.1]), half)) == 1
    assert claims([]) == []


def test_the_arm_to_hold_against_is_chosen_by_its_title() -> None:
    arms = [arm("a", [0.5], [0.1]), arm("b", [0.4], [0.1]), arm("c", [0.3], [0.1])]
    assert [(one["title"], other["title"]) for one, other in pairs_against(arms, "b")] == [("a", "b"), ("c", "b")]
    with pytest.raises(BadInput, match="No arm is called 'd': take one of 'a', 'b', 'c'"):
        pairs_against(arms, "d")


def test_values_by_seed_need_every_run_of_an_arm() -> None:
    assert by_seed(arm("a", [0.5, 0.6], [0.1, 0.1]), "domain_gain") == {0: 0.5, 1: 0.6}
    assert by_seed({"seeds": [0, 1], "domain_gain": 0.5, "domain_gain_runs": 1}, "domain_gain") == {}
    assert by_seed({"seeds": [0]}, "domain_gain") == {}


def test_who_leads_is_told_by_the_same_paired_test() -> None:
    # The arms' own spreads overlap widely, but b gains 0.10 more under every seed.
    a, b = arm("a", [0.1, 0.5, 0.9], [0.1] * 3), arm("b", [0.2, 0.61, 1.0], [0.1] * 3)
    assert [found.title for found in leaders([a, b])] == ["b"]
    shuffled = arm("b", [1.0, 0.2, 0.61], [0.1] * 3)
    assert leaders([a, shuffled]) == []
