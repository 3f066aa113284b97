"""Ribbons: of curves of one arm under several seeds, the band from the lowest to the highest, and the mean.

The band is the range of the seeds, not an interval: three of them show how far they lie apart and no more. What this
gives up: seeds are measured at other numbers of tokens, so between their points the curves are taken as straight.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go

Point = tuple[float, float]


@dataclass(frozen=True)
class Ribbon:
    """At each of `x` the lowest, the mean and the highest of the curves."""

    x: list[float]
    low: list[float]
    mean: list[float]
    high: list[float]


def ribbon(curves: Sequence[Sequence[Point]]) -> Ribbon | None:
    """Over the stretch of x that all curves have; None of fewer than two curves, or without such a stretch. `curves`
    are points (x, y), rising in x."""
    if len(curves) < 2:
        return None
    first, last = max(curve[0][0] for curve in curves), min(curve[-1][0] for curve in curves)
    if first >= last:
        return None
    x = np.unique([place for curve in curves for place, _ in curve if first <= place <= last] + [first, last])
    y = np.array([np.interp(x, [point[0] for point in curve], [point[1] for point in curve]) for curve in curves])
    return Ribbon(x.tolist(), y.min(axis=0).tolist(), y.mean(axis=0).tolist(), y.max(axis=0).tolist())


def add_band(figure: go.Figure, ribbon: Ribbon, colour: str, group: int) -> None:
    """The band of an arm whose lines have this colour ("#rrggbb") and this group in the legend."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    figure.add_scatter(
        x=[*ribbon.x, *reversed(ribbon.x)], y=[*ribbon.high, *reversed(ribbon.low)], mode="lines", line={"width": 0},
        fill="toself", fillcolor=f"rgba({red},{green},{blue},0.16)", legendgroup=group, showlegend=False,
        hoverinfo="skip", uid=f"band-{group}",
    )  # fmt: skip
