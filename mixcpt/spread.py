"""How scores are spread over samples, and how well they agree: the charts of the second stage's samples.

As in `mixcpt.charts`: figures out, names made safe. What this gives up: of a cloud of thousands of points two thousand
are drawn, those that are chosen first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mixcpt.errors import BadInput
from mixcpt.palette import DOMAIN, GENERAL, KINDS, NEUTRAL
from mixcpt.plotting import frame, label, nothing, thinned
from mixcpt.ranks import contested, correlations, of_one_order
from mixcpt.scores import SCORES, ScoredSample, default_score, names_of
from mixcpt.selection import Selection

POINTS = 2000
_EXCERPT = 80
_CONTESTED = 8
_PAIRS = (
    ("loss_plain", "loss_template"),
    ("margin", "implicit_margin"),
    ("loss_plain", "ifd"),
    ("margin", "logp_chosen"),
)
_FAINT = "rgba(138,143,152,0.12)"


def score_histogram(selection: Selection, score: str) -> go.Figure:
    """How a score is spread over the candidates, the chosen ones coloured. Where a threshold ends the rule a line
    stands there. The last bar holds the highest hundredth, which may lie far away."""
    found = selection.histogram(score)
    if not found.counts:
        return nothing("score_histogram", "No sample has this score.")
    edges = np.array(found.edges)
    values = [row.scores[score] for row in selection.rows() if score in row.scores]
    chosen = np.histogram(values, edges)[0]
    widths = np.full(len(found.counts), edges[1] - edges[0])  # the last one may be wide, but is drawn like the others
    hover = [_bin_words(found.edges, place, last=place == len(chosen) - 1) for place in range(len(chosen))]
    figure = go.Figure()
    for name, counts, colour in (
        ("chosen", chosen, KINDS[selection.kind]),
        ("not chosen", np.array(found.counts) - chosen, NEUTRAL),
    ):
        figure.add_bar(
            x=edges[:-1] + widths / 2,
            y=counts,
            width=widths,
            name=name,
            uid=name,
            marker={"color": colour, "line": {"width": 0}},
            opacity=1.0 if name == "chosen" else 0.45,
            customdata=hover,
            hovertemplate=f"%{{y:,}} {name}<br>%{{customdata}}<extra></extra>",
        )
    easy = "left is easier" if SCORES[score].easy == "low" else "right is easier"
    frame(figure, "score_histogram", x=f"{SCORES[score].title}, {easy}", y="samples", height=260)
    figure.update_layout(barmode="stack", bargap=0.05)
    figure.update_xaxes(range=[edges[0] - 0.01 * widths.sum(), edges[0] + 1.01 * widths.sum()])
    _mark_threshold(figure, selection, score, float(edges[0]), float(edges[0] + widths.sum()))
    return figure


def pair_of(names: Sequence[str]) -> tuple[str, str]:
    """The two of these scores that are drawn against each other when nobody says which.

    Raises:
        BadInput: there are not two.
    """
    if len(names) < 2:
        raise BadInput("These samples have fewer than two scores: score the source again with all forms.")
    return next((pair for pair in _PAIRS if set(pair) <= set(names)), (names[0], names[1]))


def of_selection(selection: Selection) -> go.Figure:
    """`score_histogram` by the score of its rule, else by the usual one."""
    return score_histogram(selection, _score_of(selection))


def _score_of(selection: Selection) -> str:
    return selection.rule.score or default_score(names_of(selection.samples)) or ""


def disagreement_of(selection: Selection) -> go.Figure:
    """`score_scatter` of the usual two scores."""
    return score_scatter(selection, *pair_of(names_of(selection.samples)))


def agreement_of(selection: Selection) -> go.Figure:
    """`agreement` of all scores that differ in their order."""
    names = of_one_order(names_of(selection.samples))
    return agreement(names, correlations(selection.samples, names))


def _bin_words(edges: Sequence[float], place: int, last: bool) -> str:
    low, high = edges[place], edges[place + 1]
    return f"from {low:.4g} on" if last else f"{low:.4g} to {high:.4g}"


def _mark_threshold(figure: go.Figure, selection: Selection, score: str, low: float, high: float) -> None:
    threshold = selection.rule.threshold
    if threshold is None or selection.rule.score != score:
        return
    figure.add_vline(
        x=min(max(threshold, low), high),
        line={"width": 2, "dash": "dash", "color": GENERAL},
        annotation={"text": f"{threshold:.4g}", "font": {"color": GENERAL}, "yanchor": "bottom", "y": 1},
    )


def score_scatter(selection: Selection, x: str, y: str, ratio: float | None = None) -> go.Figure:
    """Every sample by two of its scores, the chosen ones coloured, its id as customdata; a dotted line where both are
    equal if they have the same unit, and a dashed one where y / x is `ratio`."""
    there = [sample for sample in selection.samples if x in sample.scores and y in sample.scores]
    if not there:
        return nothing("score_scatter", "No sample has both scores: score again with all forms.")
    chosen = set(selection.ids)
    figure = go.Figure()
    inside = [sample for sample in there if sample.id in chosen]
    outside = [sample for sample in there if sample.id not in chosen]
    room = max(POINTS - len(inside), POINTS // 2)
    _add_points(figure, "not chosen", thinned(outside, room), x, y, NEUTRAL, "circle-open")
    _add_points(figure, "chosen", thinned(inside, POINTS), x, y, KINDS[selection.kind], "circle")
    across = _usual_range([sample.scores[x] for sample in there])
    up = _usual_range([sample.scores[y] for sample in there])
    if SCORES[x].unit == SCORES[y].unit and SCORES[x].unit:
        _add_ray(figure, 1.0, across, "dot", NEUTRAL, "the same")
    if ratio is not None:
        _add_ray(figure, ratio, across, "dash", GENERAL, f"ratio {ratio:.4g}")
    frame(figure, "score_scatter", x=SCORES[x].title, y=SCORES[y].title, height=420)
    figure.update_xaxes(range=across)
    figure.update_yaxes(range=up)
    return figure


def _add_points(
    figure: go.Figure, name: str, samples: Sequence[ScoredSample], x: str, y: str, colour: str, symbol: str
) -> None:
    figure.add_scatter(
        x=[sample.scores[x] for sample in samples],
        y=[sample.scores[y] for sample in samples],
        mode="markers",
        marker={"color": colour, "size": 7, "symbol": symbol, "opacity": 0.75},
        name=name,
        uid=name,
        customdata=[sample.id for sample in samples],
        hovertext=[label(sample.question, _EXCERPT) for sample in samples],
        hovertemplate="%{hovertext}<br>%{x:.4g}, %{y:.4g}<extra></extra>",
    )


def _usual_range(values: Sequence[float]) -> tuple[float, float]:
    """From the lowest value to a little beyond all but the highest hundredth."""
    low, high = float(min(values)), float(np.quantile(values, 0.99))
    room = 0.05 * max(high - low, 1e-9)
    return low - room, high + room


def _add_ray(figure: go.Figure, slope: float, across: tuple[float, float], dash: str, colour: str, name: str) -> None:
    figure.add_scatter(
        x=list(across), y=[slope * end for end in across], mode="lines", name=name, uid=name, hoverinfo="skip",
        line={"color": colour, "width": 1.5, "dash": dash},
    )  # fmt: skip


def agreement(names: Sequence[str], matrix: Sequence[Sequence[float | None]]) -> go.Figure:
    """The rank correlation of each pair of scores as a coloured table: 1 the same order, -1 the opposite. Scores are
    numbered, and named once."""
    if len(names) < 2:
        return nothing("agreement", "It takes two scores to agree or not.")
    places = list(range(len(names)))
    figure = go.Figure()
    figure.add_heatmap(
        z=[list(row) for row in matrix],
        x=places,
        y=places,
        zmin=-1,
        zmax=1,
        colorscale=[[0.0, GENERAL], [0.5, _FAINT], [1.0, DOMAIN]],
        showscale=False,
        xgap=2,
        ygap=2,
        text=[["–" if value is None else f"{value:.2f}" for value in row] for row in matrix],
        texttemplate="%{text}",
        textfont={"size": 12},
        customdata=_pairs(names),
        hovertemplate="%{customdata}<br>rank correlation %{text}<extra></extra>",
    )
    frame(figure, "agreement", height=60 + 40 * len(names))
    titles = [f"{label(SCORES[name].short, 36)}  {number}" for number, name in enumerate(names, 1)]
    numbers = [str(number) for number in range(1, len(names) + 1)]
    figure.update_xaxes(tickvals=places, ticktext=numbers, showgrid=False, side="top")
    figure.update_yaxes(tickvals=places, ticktext=titles, showgrid=False, autorange="reversed")
    return figure


def _pairs(names: Sequence[str]) -> list[list[Any]]:
    return [[label(f"{SCORES[one].short} and {SCORES[other].short}", None) for other in names] for one in names]


# The same as tables of text


def _selection_table(selection: Selection) -> list[tuple[str, ...]]:
    counts = selection.counts()
    return [
        ("rule", "samples", "candidates", "tokens", "kept by hand", "discarded by hand"),
        (
            selection.rule.words(),
            f"{counts.chosen:,}",
            f"{counts.candidates:,}",
            f"{counts.tokens:,}",
            f"{counts.kept_by_hand:,}",
            f"{counts.discarded_by_hand:,}",
        ),
    ]


def _contested_table(selection: Selection) -> list[tuple[str, ...]]:
    one, other = pair_of(names_of(selection.samples))
    head = ("sample", f"place by {SCORES[one].short} (%)", f"place by {SCORES[other].short} (%)")
    found = contested(selection.samples, one, other, _CONTESTED)
    return [head, *((row.sample.id, f"{100 * row.one:.0f}", f"{100 * row.other:.0f}") for row in found)]


def _agreement_table(selection: Selection) -> list[tuple[str, ...]]:
    names = of_one_order(names_of(selection.samples))
    titles = [SCORES[name].short for name in names]
    matrix = correlations(selection.samples, names)
    rows = [("–" if value is None else f"{value:.2f}" for value in row) for row in matrix]
    return [("rank correlation", *titles), *((title, *row) for title, row in zip(titles, rows, strict=True))]


TABLES = {"selection": _selection_table, "disagreement": _contested_table, "agreement": _agreement_table}
"""By the names of the charts: header and rows, as `mixcpt.tables` gives them."""
