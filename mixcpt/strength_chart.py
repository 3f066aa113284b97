"""What a run gained and forgot over the strength of its adapter, of the measures taken anew."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from mixcpt.measured import Point
from mixcpt.palette import DOMAIN, GENERAL
from mixcpt.plotting import dotted, frame, nothing

_NOTHING = "No curve yet: it needs the field and general text measured at two strengths or more."


def strengths(points: Sequence[Point]) -> go.Figure:
    """Gain in the field and forgetting of general text over strength, bits per byte, with 95 % over documents; `points`
    are those of `measured.points`."""
    if len(points) < 2:
        return nothing("strengths", _NOTHING)
    figure = go.Figure()
    gained = [(point.gain, point.gain_interval) for point in points]
    forgotten = [(point.forgetting, point.forgetting_interval) for point in points]
    last = points[-1]
    _add(figure, points, gained, f"gain in the field ({last.gain_documents} documents)", DOMAIN, "solid")
    _add(figure, points, forgotten, f"forgetting ({last.forgetting_documents} documents)", GENERAL, "dash")
    frame(
        figure, "strengths", x="strength of the adapter", y="bits per byte, against the base", height=360, unified=True
    )
    figure.update_xaxes(range=[-0.03, 1.03], tickvals=[point.strength for point in points])
    figure.update_layout(showlegend=True)
    dotted(figure, y=0)
    return figure


def _add(
    figure: go.Figure,
    points: Sequence[Point],
    values: Sequence[tuple[float, tuple[float, float]]],
    name: str,
    colour: str,
    dash: str,
) -> None:
    bars: dict[str, Any] = {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in values],
        "arrayminus": [value - low for value, (low, _) in values],
        "color": colour,
        "thickness": 1.2,
        "width": 4,
    }
    figure.add_scatter(
        x=[point.strength for point in points],
        y=[value for value, _ in values],
        error_y=bars,
        customdata=[list(interval) for _, interval in values],
        mode="lines+markers",
        line={"color": colour, "width": 2, "dash": dash},
        marker={"size": 7},
        name=name,
        uid=name.split(" (")[0],
        hovertemplate=f"{name}: %{{y:+.3f}}, 95 &#37; from %{{customdata[0]:+.3f}} to %{{customdata[1]:+.3f}}"
        "<extra></extra>",
    )
