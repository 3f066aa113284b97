"""What every chart shares: names made safe and short, one frame, smoothing and thinning, and the standalone page.

Charts are transparent and name no colour for text, so they take on the look of the page they stand in. What this gives
up: of a curve of thousands of points some hundreds are drawn.
"""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import plotly.graph_objects as go
import plotly.io
from plotly.offline import get_plotlyjs

from mixcpt.palette import NEUTRAL

Record = dict[str, Any]

POINTS = 400
"""Of a curve at most so many points are drawn."""
_TOGETHER = 12_000
SMOOTHED_FROM = 50
"""Points from which a noisy curve is drawn with its running mean."""
TOKENS = "tokens read"
SINCE_BASE = "tokens read since the base"
BITS = "bits per byte (lower is better)"
_NAME = 40
_UNSAFE = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;"}


def label(name: object, limit: int | None = _NAME) -> str:
    """A name as Plotly may show it: of at most `limit` characters (None: the whole), on one line, and with nothing in
    it that Plotly or MathJax would read as markup, formula or template."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(str(name).split()))
    if limit is not None and len(text) > limit:
        text = text[: limit - 1].rstrip() + "…"
    return "".join(_UNSAFE.get(c, c) for c in text)


def frame(
    figure: go.Figure, name: str, *, x: str = "", y: str = "", height: int = 340, unified: bool = False
) -> go.Figure:
    """The common frame of chart `name`: axis titles, a legend above, tight margins; zoom survives a live update."""
    figure.update_layout(
        height=height,
        margin={"l": 8, "r": 12, "t": 8, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "title": {"text": ""}},
        hovermode="x unified" if unified else "closest",
        hoverlabel={"align": "left", "namelength": -1},
        uirevision=name,
    )
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False, ticklabelstandoff=6)
    if x:
        figure.update_xaxes(title_text=x)
    if y:
        figure.update_yaxes(title_text=y)
    return figure


def token_axis(figure: go.Figure, **place: Any) -> None:
    """The x axis over tokens: from zero, with 12,000 written as 12k."""
    figure.update_xaxes(
        title_text=TOKENS,
        rangemode="tozero",
        tickformat="~s",
        unifiedhovertitle={"text": "%{x:,.0f} tokens read"},
        **place,
    )


def nothing(name: str, sentence: str) -> go.Figure:
    """The figure where there is nothing to draw: one plain sentence."""
    figure = frame(go.Figure(), name, height=160)
    figure.update_xaxes(visible=False, range=[0, 1])
    figure.update_yaxes(visible=False, range=[0, 1])
    figure.add_annotation(text=label(sentence, None), x=0.5, y=0.5, showarrow=False, font={"size": 14})
    return figure


def thinned(points: Sequence[Any], most: int = POINTS) -> list[Any]:
    """At most `most` of the points, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(place)] for place in np.linspace(0, len(points) - 1, most)]


def per_line(lines: int, most: int = POINTS) -> int:
    """How many points of each line are drawn where so many are overlaid: at most some ten thousand together."""
    return max(12, min(most, _TOGETHER // max(1, lines)))


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of the last `window` values (at first of as many as there are), so that no drawn point ever moves."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - window)
    return [float(mean) for mean in (sums[ends] - sums[starts]) / (ends - starts)]


def add_noisy(figure: go.Figure, records: Sequence[Record], key: str, name: str, colour: str, value: str) -> None:
    """One line over tokens of what the records hold under `key`; from 50 points on a thin one under its running mean.

    `value` is how the hover text shows a value: a Plotly template such as "%{y:.3f} nats per token".
    """
    points = [(record["tokens"], record[key]) for record in records if record.get(key) is not None]
    if not points:
        return
    line = {"color": colour, "width": 2}
    if len(points) <= SMOOTHED_FROM:
        mode, hover = "lines+markers" if len(points) < 20 else "lines", value
    else:
        window = max(5, len(points) // 25)
        raw = thinned(points)
        figure.add_scatter(
            x=[x for x, _ in raw], y=[y for _, y in raw], mode="lines", line={"color": colour, "width": 1},
            opacity=0.35, legendgroup=key, showlegend=False, hoverinfo="skip",
        )  # fmt: skip
        means = running_mean([y for _, y in points], window)
        points = list(zip([x for x, _ in points], means, strict=True))
        mode, hover = "lines", f"{value}, mean of the last {window} steps"
    points = thinned(points)
    figure.add_scatter(
        x=[x for x, _ in points], y=[y for _, y in points], mode=mode, line=line, marker={"size": 5},
        name=name, legendgroup=key, uid=key, hovertemplate=f"{name}: {hover}<extra></extra>",
    )  # fmt: skip


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Table:
    """Cells are text; `note` explains the figures."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True)
class Code:
    text: str


Part: TypeAlias = go.Figure | Heading | Table | Code | str

_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1B2733; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1.5rem }
h1 { font-size: 1.8rem; line-height: 1.25 } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #D8E0E8; vertical-align: top }
th { font-weight: 600; border-bottom-color: #1B2733 } .note { color: #55616D; font-size: .85rem }
pre { background: #F3F6F9; padding: .8rem 1rem; border-radius: .4rem; white-space: pre-wrap; overflow-wrap: anywhere }
@media print { body { margin: 0 } .wide { overflow: visible } }
"""
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def as_html(parts: Sequence[Part], title: str) -> str:
    """A page that stands alone: figures, tables and paragraphs in this order, plotly.js inlined once, no network.

    All text is escaped; a policy in the page forbids whatever could be fetched from elsewhere.
    """
    library = f"<script>{get_plotlyjs()}</script>" if any(isinstance(part, go.Figure) for part in parts) else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>{library}</head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n{body(parts)}\n</body></html>\n"
    )


def body(parts: Sequence[Part]) -> str:
    """The parts as HTML to be pasted into another page; figures need plotly.js there."""
    return "\n".join(_part(part, number) for number, part in enumerate(parts))


def _part(part: Part, number: int) -> str:
    if isinstance(part, go.Figure):
        return as_fragment(part, f"chart-{number}")
    if isinstance(part, Heading):
        return f"<h2>{html.escape(part.text)}</h2>"
    if isinstance(part, Code):
        return f"<pre>{html.escape(part.text)}</pre>"
    if isinstance(part, Table):
        return _table(part)
    return f"<p>{html.escape(part)}</p>"


def as_fragment(figure: go.Figure, id: str) -> str:
    """The figure as a <div> for a light page that has plotly.js already; `id` is that of the <div>."""
    light = go.Figure(figure).update_layout(template="plotly_white")
    config = {"displaylogo": False, "responsive": True}
    return str(
        plotly.io.to_html(
            light, config=config, include_plotlyjs=False, include_mathjax=False, full_html=False, div_id=id
        )
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows)
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}</tbody></table></div>{note}'


def dotted(
    figure: go.Figure, *, x: float | None = None, y: float | None = None, colour: str = NEUTRAL, **place: Any
) -> None:
    """A dotted line right through the plot, where the base stands."""
    line = {"color": colour, "width": 1.2, "dash": "dot"}
    if x is not None:
        figure.add_vline(x=x, line=line, layer="below", **place)
    if y is not None:
        figure.add_hline(y=y, line=line, layer="below", **place)
