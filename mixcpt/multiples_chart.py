"""Small multiples: each arm's forgetting curve in a panel of its own, all on the same axes, so that shapes are compared
where an overlay would be a tangle. Of many arms the first `MOST` are drawn."""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixcpt import plotting
from mixcpt.chains import own
from mixcpt.compare import Row
from mixcpt.curves import MEASURES, describe, numbered, title_of
from mixcpt.palette import DOMAIN, GENERAL, NEUTRAL
from mixcpt.plotting import frame, label, nothing, thinned

MOST = 24
_COLUMNS = 4
_HIGH = 190
_LINES = (("domain", "gain in the field", DOMAIN, "solid"), ("general", "forgetting", GENERAL, "dash"))


def multiples(rows: Sequence[Row]) -> go.Figure:
    """Gain in the field and forgetting of general text over tokens, bits per byte against the base, a panel an arm and
    a line a seed; `rows` are those of `compare.with_curves`."""
    arms: dict[int, list[Row]] = {}
    for number, row in numbered(rows):
        if any(len(_points(row, name)) > 1 for name, *_ in _LINES):
            arms.setdefault(number, []).append(row)
    shown = list(arms.values())[:MOST]
    if not shown:
        return nothing("multiples", "None of these runs was measured twice, so there is no curve to draw.")
    columns = min(_COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    figure = make_subplots(
        rows=lines,
        cols=columns,
        shared_xaxes="all",
        shared_yaxes="all",
        horizontal_spacing=0.025,
        vertical_spacing=0.3 / max(lines, 2),
        subplot_titles=[label(title_of(seeds[0]), 25) for seeds in shown],
    )
    for place, seeds in enumerate(shown):
        _add_panel(figure, seeds, place // columns + 1, place % columns + 1, first=place == 0)
    frame(figure, "multiples", height=90 + _HIGH * lines)
    figure.update_layout(margin={"t": 56}, legend={"y": 1 + 30 / (90 + _HIGH * lines)}, showlegend=True)
    figure.update_annotations(font={"size": 13})
    plotting.token_axis(figure)
    figure.update_xaxes(title_text="", nticks=5)
    title = plotting.SINCE_BASE if any(row.get("tokens_before") for row in rows) else plotting.TOKENS
    figure.update_xaxes(title_text=title, row=lines)
    figure.update_yaxes(title_text="bits per byte", nticks=5, col=1)
    figure.add_hline(y=0, line={"color": NEUTRAL, "width": 1, "dash": "dot"}, layer="below")
    return figure


def _points(row: Row, name: str) -> list[tuple[int, float]]:
    """Tokens read, and the difference to the base."""
    measure = MEASURES[name]
    curve = [point for point in own(row["curve"]) if measure.key in point["measure"]]
    first = row["curve"][0]["measure"].get(measure.key) if row["curve"] else None
    if first is None:
        return []
    before = row.get("tokens_before", 0)
    return [(before + one["tokens"], measure.sign * (one["measure"][measure.key] - first)) for one in curve]


def _add_panel(figure: go.Figure, seeds: Sequence[Row], row: int, col: int, *, first: bool) -> None:
    for name, words, colour, dash in _LINES:
        for number, seed in enumerate(seeds):
            points = thinned(_points(seed, name), plotting.per_line(2 * len(seeds)))
            figure.add_scatter(
                x=[tokens for tokens, _ in points],
                y=[value for _, value in points],
                mode="lines",
                line={"color": colour, "dash": dash, "width": 2},
                opacity=1.0 if len(seeds) == 1 else 0.65,
                name=words,
                legendgroup=name,
                showlegend=first and number == 0,
                uid=f"{seed['run']}-{name}",
                hovertemplate=f"{describe(seed)}<br>%{{x:,.0f}} tokens read: {words} %{{y:+.3f}}<extra></extra>",
                row=row,
                col=col,
            )
