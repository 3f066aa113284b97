"""The colours are told apart by everybody: simulated colour vision, and contrast on both backgrounds."""

from itertools import combinations

import pytest

from mixcpt.palette import DOMAIN, GENERAL, KINDS, NEUTRAL, RUNS, STAGES, run_colour, run_dash, source_colour

# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
DEFICIENCIES = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def linear(colour: str) -> list[float]:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def seen(colour: str, deficiency: str) -> tuple[float, float, float]:
    """CIE Lab (D65) of the colour as it is seen."""
    rgb = linear(colour)
    r, g, b = (
        min(1.0, max(0.0, sum(factor * part for factor, part in zip(row, rgb, strict=True))))
        for row in DEFICIENCIES[deficiency]
    )
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


def distance(one: str, other: str, deficiency: str) -> float:
    pairs = zip(seen(one, deficiency), seen(other, deficiency), strict=True)
    return float(sum((a - b) ** 2 for a, b in pairs) ** 0.5)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio."""
    dark, light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (linear(one), linear(other)))
    return (light + 0.05) / (dark + 0.05)


SETS = {
    "sources": [DOMAIN, *KINDS.values()],
    "measures": [DOMAIN, GENERAL],
    "stages": list(STAGES.values()),
}


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("name", SETS)
def test_colours_of_a_set_are_told_apart_by_everybody(name: str, deficiency: str) -> None:
    """A difference of 10 in Lab is seen at a glance."""
    for one, other in combinations(SETS[name], 2):
        assert distance(one, other, deficiency) > 10, (one, other)


@pytest.mark.parametrize("background", ["#FFFFFF", "#10161D"])
def test_every_colour_is_seen_on_both_backgrounds(background: str) -> None:
    for colour in {DOMAIN, GENERAL, NEUTRAL, *KINDS.values(), *STAGES.values(), *RUNS}:
        assert contrast(colour, background) > 1.6, colour


def test_the_ninth_run_has_the_first_colour_with_another_dash() -> None:
    assert run_colour(8) == run_colour(0)
    assert run_dash(8) != run_dash(0)
    assert len({(run_colour(n), run_dash(n)) for n in range(32)}) == 32


def test_documents_of_the_field_have_a_colour_of_their_own() -> None:
    assert source_colour("documents", True) == DOMAIN != source_colour("documents", False)
