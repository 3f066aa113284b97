"""What a run learned and lost as charts: its largest changes, and the change by text and by kind of token."""

import plotly.graph_objects as go

from mixcpt.changes import Changes, Line, Span
from mixcpt.measured import DOMAIN, GENERAL_PART
from mixcpt.palette import DOMAIN as BLUE
from mixcpt.palette import GENERAL as ORANGE
from mixcpt.palette import NEUTRAL
from mixcpt.plotting import dotted, frame, label, nothing
from mixcpt.token_kinds import KINDS

TOP = 5
"""Sentences of each direction."""
_NOTHING = "Nothing is known of single tokens yet: measure the run."
_PARTS = {DOMAIN: "field", GENERAL_PART: "general"}
_LENGTH = 70


def largest(changes: Changes | None) -> go.Figure:
    """The sentences of all held-out text that became likelier (left) and less likely (right), in nats in all."""
    shown = [*changes.learned()[:TOP], *reversed(changes.lost()[:TOP])] if changes else []
    if not shown:
        return nothing("changes", _NOTHING)
    figure = go.Figure()
    figure.add_bar(
        y=list(range(len(shown))),
        x=[span.change for span in shown],
        orientation="h",
        width=0.62,
        marker={"color": [BLUE if span.change < 0 else ORANGE for span in shown]},
        hovertext=[_hover(span) for span in shown],
        hoverinfo="text",
        showlegend=False,
    )
    frame(
        figure,
        "changes",
        x="change of the whole sentence (nats, below zero it was learned)",
        height=90 + 36 * len(shown),
    )
    names = [f"{label(span.words, _LENGTH)} ({_PARTS.get(span.part, span.part)})" for span in shown]
    figure.update_yaxes(tickvals=list(range(len(shown))), ticktext=names, autorange="reversed", showgrid=False)
    dotted(figure, x=0)
    return figure


def _hover(span: Span) -> str:
    return (
        f"<b>{label(span.source, 60)}</b>, {label(span.document, 60)}<br>{span.tokens} tokens, {span.base:.1f} → "
        f"{span.run:.1f} nats ({span.change:+.1f})"
    )


def by_kind(changes: Changes | None) -> go.Figure:
    """The change in nats a token of each text and of each kind of token, with 95 % intervals over documents."""
    if changes is None or not changes.lines:
        return nothing("change_kinds", _NOTHING)
    lines = changes.lines
    places = list(range(len(lines)))
    figure = go.Figure()
    figure.add_scatter(
        y=places,
        x=[line.change for line in lines],
        mode="markers",
        marker={"size": 9, "color": [BLUE if line.part == DOMAIN else ORANGE if line.part == GENERAL_PART else NEUTRAL
                                     for line in lines]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [line.interval[1] - line.change for line in lines],
            "arrayminus": [line.change - line.interval[0] for line in lines],
            "color": NEUTRAL,
            "thickness": 1.4,
            "width": 4,
        },
        hovertext=[_line_hover(line) for line in lines],
        hoverinfo="text",
        showlegend=False,
    )  # fmt: skip
    frame(figure, "change_kinds", x="change (nats a token, below zero is better)", height=90 + 26 * len(lines))
    figure.update_yaxes(tickvals=places, ticktext=[_name(line) for line in lines], autorange="reversed", showgrid=False)
    dotted(figure, x=0)
    return figure


def _name(line: Line) -> str:
    part = _PARTS.get(line.part, line.part)
    return f"{part}: {label(KINDS[line.name])}" if line.name in KINDS else f"{label(line.name)} ({part})"


def _line_hover(line: Line) -> str:
    low, high = line.interval
    return (
        f"<b>{_name(line)}</b><br>{line.base:.3f} → {line.run:.3f} nats a token: {line.change:+.3f}, 95 &#37; from "
        f"{low:+.3f} to {high:+.3f}<br>{line.tokens:,} tokens of {line.documents} documents"
    )
