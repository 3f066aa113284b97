"""What a comparison says: arms made by hand, so that every claim can be checked against its numbers."""

from typing import Any

import pytest

from mixcpt.findings import cautions, findings, leaders


def arm(title: str, gain: float, forgetting: float, seeds: int = 1, tokens: int = 1000, **more: Any) -> dict[str, Any]:
    return {
        "title": title,
        "seeds": list(range(seeds)),
        "domain_tokens": tokens,
        "domain_gain": gain,
        "forgetting": forgetting,
        "domain_bits_per_byte_base": 1.5,
        "general_bits_per_byte_base": 1.25,
        **more,
    }


@pytest.mark.parametrize(
    ("gain", "forgetting", "words"),
    [
        (0.6, 0.0, "gained 0.60 bits per byte in the field and forgot nothing that can be told (0.00)"),
        (0.35, 0.69, "gained 0.35 bits per byte in the field but forgot 0.69"),
        (-0.27, 0.14, "lost 0.27 bits per byte in the field and forgot 0.14"),
        (0.3, -0.05, "gained 0.30 bits per byte in the field and got 0.05 better at general text"),
        (0.02, -0.02, "gained nothing in the field that can be told (+0.02 bits per byte) "
         "and forgot nothing that can be told (\N{MINUS SIGN}0.02)"),
    ],
)  # fmt: skip
def test_an_arm_in_words(gain: float, forgetting: float, words: str) -> None:
    (finding,) = findings([arm("a", gain, forgetting)])
    assert (finding.title, finding.words) == ("a", words)


def test_an_interval_that_holds_zero_is_no_gain() -> None:
    (finding,) = findings([arm("a", 0.3, 0.2, 2, domain_gain_ci=(-0.1, 0.7), forgetting_ci=(0.1, 0.3))])
    assert finding.words == (
        "gained nothing in the field that can be told (+0.30 ± 0.40 bits per byte) and forgot 0.20 ± 0.10"
    )


def test_only_what_was_measured_is_said() -> None:
    half = arm("a", 0.5, 0.0)
    del half["forgetting"]
    assert findings([half])[0].words == "gained 0.50 bits per byte in the field"
    del half["domain_gain"]
    assert findings([half]) == []


def test_who_leads_by_more_than_noise_is_named() -> None:
    arms = [arm("a", 0.5, 0.3), arm("b", 0.4, 0.1), arm("c", 0.3, 0.115)]
    (most,) = leaders(arms)  # b forgot 0.015 less than c: nobody is said to have forgotten least
    assert (most.title, most.words) == ("a", "gained most in the field, by 0.10 bits per byte before the next")


def test_nobody_leads_within_noise_or_overlapping_intervals() -> None:
    assert leaders([arm("a", 0.5, 0.1), arm("b", 0.49, 0.11)]) == []
    assert leaders([arm("a", 0.5, 0.1)]) == []
    wide = arm("a", 0.5, 0.1, 2, domain_gain_ci=(0.3, 0.7))
    assert leaders([wide, arm("b", 0.4, 0.1, 2, domain_gain_ci=(0.35, 0.45))]) == []
    assert [found.title for found in leaders([wide, arm("b", 0.2, 0.1, 2, domain_gain_ci=(0.15, 0.25))])] == ["a"]


def test_other_bases_and_unequal_amounts_are_not_ranked() -> None:
    other_base = [arm("a", 0.5, 0.1), arm("b", 0.1, 0.5, domain_bits_per_byte_base=1.7)]
    assert leaders(other_base) == [] and any("The bases differ" in words for words in cautions(other_base))
    unequal = [arm("a", 0.5, 0.1), arm("b", 0.1, 0.5, tokens=1200)]
    assert leaders(unequal) == [] and any("from 1,000 to 1,200 tokens" in words for words in cautions(unequal))


def test_the_number_of_seeds_is_said() -> None:
    assert cautions([arm("a", 0.5, 0.1)])[0].startswith("One seed an arm: a hint, not a result.")
    assert cautions([arm("a", 0.5, 0.1, 3), arm("b", 0.5, 0.1)])[0].startswith("1 of 2 arms have one seed only")
    assert cautions([arm("a", 0.5, 0.1, 3)]) == ["Differences of up to 0.02 bits per byte are called nothing."]
