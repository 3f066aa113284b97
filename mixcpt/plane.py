"""The plane: gain in the field against forgetting of general text, a point a run, the base at the origin. The runs of a
chain are joined, each to the one that it continues; a run that was measured at several strengths is a dotted curve.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from mixcpt import front
from mixcpt.chains import own
from mixcpt.compare import Row
from mixcpt.curves import describe, numbered, title_of
from mixcpt.palette import GENERAL, NEUTRAL, RUNS, STAGES, run_colour
from mixcpt.plotting import dotted, frame, label, nothing, per_line, thinned
from mixcpt.statistics import seed_interval

_SHAPES = ("circle", "square", "triangle-up", "cross")
"""Of end points: the ninth arm has the first colour again, but another shape."""
_QUADRANTS = (
    (0.0, 1.0, "learned<br>and kept"),
    (1.0, 1.0, "learned,<br>but forgot"),
    (0.0, 0.0, "kept, but did<br>not learn"),
    (1.0, 0.0, "forgot, and<br>did not learn"),
)
_LABEL = 30
"""Characters of a name beside its point."""
_LETTER = 5.8
"""Pixels that a letter of it takes at most, on the whole."""
_WIDTH, _HEIGHT = 330, 380
"""Of the plane's plot in pixels, where it is smallest: only where a label finds room depends on it."""


_DIMMED = 0.25
"""Opacity of what forgets more than is accepted."""


def plane(rows: Sequence[Row], *, pareto: bool = False, tolerance: float | None = None) -> go.Figure:
    """Gain in the field (up is better) against forgetting of general text (right is worse), the base at the origin.

    `rows` are those of `compare` or `with_curves`; with their `curve`, the way of each run is drawn lightly, from where
    it began: the base, or the end of the run that it continues. Without it a thin line joins it to that run, where that
    one is shown too. With `strengths` (`strengths.anew`) a dotted line leads from the base through all strengths, and
    the end has error bars: 95 % over documents. An arm of several seeds has its mean, with 95 % over seeds (Student's
    t). Every end point has its run's id as customdata. Rows without either measure are left out.

    Args:
        pareto: draws the line of what nothing else here beats (`front.pareto`), strengths counted.
        tolerance: forgetting that is accepted, in bits per byte: a line there, and what lies beyond it is dimmed.
    """
    placed = [(number, row) for number, row in numbered(rows) if "forgetting" in row and "domain_gain" in row]
    if not placed:
        return nothing("plane", "Here runs would stand that measured both the field and general text.")
    means = _means(placed)
    wide, high = [bound for mean in means for bound in mean.across], [bound for mean in means for bound in mean.up]
    across = _span(
        [x for _, row in placed for x, _ in _places(row)] + ([tolerance] if tolerance else []),
        wide,
        left=0.42,
        right=0.35,
    )
    up = _span([y for _, row in placed for _, y in _places(row)], high, left=0.25, right=0.25)
    figure = go.Figure()
    if pareto:
        _add_front(figure, [row for _, row in placed], across[1], up[0])
    ends = {row["run"]: row for _, row in placed if "run" in row}
    for number, row in placed:
        if row.get("strengths"):
            _add_strengths(figure, row, run_colour(number), tolerance)
            _add_joint(figure, row, ends.get(row.get("parent") or ""))
        elif not _add_trail(figure, row, run_colour(number), per_line(len(placed) * 4, 60)):
            _add_joint(figure, row, ends.get(row.get("parent") or ""))
    figure.add_scatter(
        x=[0], y=[0], mode="markers", marker={"symbol": "diamond", "size": 12, "color": STAGES["base"]},
        showlegend=False, uid="base", hovertemplate="<b>base</b><br>the model before any training<extra></extra>",
    )  # fmt: skip
    first = {number: row["run"] for number, row in reversed(placed)}
    for number, row in placed:
        _add_end(figure, number, row, in_legend=first[number] == row["run"], tolerance=tolerance)
    _add_means(figure, means)
    frame(figure, "plane", height=474)
    labels, all_fit = _labels(placed, across, up)
    annotations = [*_quadrants(), *labels]  # at once: Plotly checks all of them again at every one that is added
    figure.update_layout(showlegend=not all_fit, legend={"maxheight": 0.3}, annotations=annotations)
    dotted(figure, x=0, y=0)
    if tolerance is not None:
        figure.add_vline(x=tolerance, line={"color": GENERAL, "width": 1.5, "dash": "dash"}, layer="below")
    figure.update_xaxes(title_text="forgetting of general text (bits per byte, right is worse)", range=across)
    figure.update_yaxes(title_text="gain in the field (bits per byte, up is better)", range=up)
    return figure


def _places(row: Row) -> list[tuple[float, float]]:
    """(forgetting, gain) of a row and of its strengths."""
    points = [(point["forgetting"], point["gain"]) for point in row.get("strengths", ())]
    return [*points, (row["forgetting"], row["domain_gain"])]


def _opacity(forgetting: float, tolerance: float | None) -> float:
    return 1.0 if tolerance is None or forgetting <= tolerance else _DIMMED


def _add_strengths(figure: go.Figure, row: Row, colour: str, tolerance: float | None) -> None:
    """The curve of a run over the strengths of its adapter, from the base on; its end is drawn apart."""
    points = row["strengths"]
    line = [(0.0, 0.0), *((point["forgetting"], point["gain"]) for point in points)]
    figure.add_scatter(
        x=[x for x, _ in line],
        y=[y for _, y in line],
        mode="lines",
        line={"color": colour, "width": 1.2, "dash": "dot"},
        opacity=0.7 * _opacity(row["forgetting"], tolerance),
        showlegend=False,
        hoverinfo="skip",
        uid=f"{row['run']}-strengths",
    )
    between = points[:-1]
    figure.add_scatter(
        x=[point["forgetting"] for point in between],
        y=[point["gain"] for point in between],
        customdata=[[row["run"], f"{point['strength']:g}"] for point in between],
        mode="markers",
        marker={
            "size": 7,
            "color": colour,
            "symbol": "circle-open",
            "opacity": [_opacity(point["forgetting"], tolerance) for point in between],
        },
        showlegend=False,
        uid=f"{row['run']}-points",
        hovertemplate=f"{describe(row)}<br><b>at strength %{{customdata[1]}}</b>"
        "<br>gain in the field %{y:+.3f} bits per byte<br>forgetting %{x:+.3f} bits per byte<extra></extra>",
    )


def _add_front(figure: go.Figure, rows: Sequence[Row], right: float, bottom: float) -> None:
    """The stairs of what nothing beats, from `bottom` up to the place that forgets least, and on to the `right`: what
    lies below them is beaten."""
    best = front.pareto(front.choices(rows))
    names = [label(front.name(place)) for place in best]
    figure.add_scatter(
        x=[best[0].forgetting, *(place.forgetting for place in best), right],
        y=[bottom, *(place.gain for place in best), best[-1].gain],
        customdata=[names[0], *names, names[-1]],
        mode="lines",
        line={"color": NEUTRAL, "width": 2, "shape": "hv"},
        opacity=0.8,
        showlegend=False,
        uid="front",
        hovertemplate="<b>%{customdata}</b><br>no arm gains as much and forgets less (means over seeds)<extra></extra>",
    )


@dataclass(frozen=True)
class _Mean:
    """An arm of several seeds: the 95 % interval of the mean forgetting (`across`) and gain (`up`) over them."""

    number: int
    title: str
    seeds: int
    across: tuple[float, float]
    up: tuple[float, float]


def _means(placed: Sequence[tuple[int, Row]]) -> list[_Mean]:
    """Where an arm has several seeds."""
    arms: dict[int, dict[int, Row]] = defaultdict(dict)
    for number, row in placed:
        arms[number][row.get("seed", 0)] = row
    found = []
    for number, seeds in arms.items():
        gain, forgetting = ([row[key] for row in seeds.values()] for key in ("domain_gain", "forgetting"))
        up, across = seed_interval(gain), seed_interval(forgetting)
        if up and across:
            found.append(_Mean(number, title_of(next(iter(seeds.values()))), len(seeds), across, up))
    return found


def _add_means(figure: go.Figure, means: Sequence[_Mean]) -> None:
    """Each mean as a cross, with bars in both directions."""
    for mean in means:
        number, up, across = mean.number, mean.up, mean.across
        figure.add_scatter(
            x=[sum(across) / 2],
            y=[sum(up) / 2],
            error_x=_bars(across, run_colour(number)),
            error_y=_bars(up, run_colour(number)),
            mode="markers",
            marker={"symbol": "x-thin", "size": 9, "line": {"color": run_colour(number), "width": 2}},
            showlegend=False,
            uid=f"mean-{number}",
            hovertemplate=f"<b>{label(mean.title)}</b><br>mean of {mean.seeds} seeds, 95 % by Student's t"
            f"<br>gain %{{y:+.3f}} ({up[0]:+.3f} to {up[1]:+.3f}) bits per byte"
            f"<br>forgetting %{{x:+.3f}} ({across[0]:+.3f} to {across[1]:+.3f}) bits per byte<extra></extra>",
        )


def _bars(interval: Sequence[float], colour: str, middle: float | None = None) -> dict[str, Any]:
    """Error bars from `middle` (the middle of the interval, when not given) to both bounds."""
    low, high = interval
    centre = (low + high) / 2 if middle is None else middle
    bounds = {"type": "data", "symmetric": False, "array": [high - centre], "arrayminus": [centre - low]}
    return {**bounds, "color": colour, "thickness": 1.2, "width": 4}


def _quadrants() -> list[dict[str, Any]]:
    """In every corner what it means to end there."""
    found = []
    for x, y, words in _QUADRANTS:
        side, edge = "left" if x == 0 else "right", "top" if y == 1 else "bottom"
        place = {"xref": "paper", "yref": "paper", "x": x, "y": y, "xanchor": side, "align": side, "yanchor": edge}
        found.append({"text": words, "showarrow": False, "font": {"size": 11, "color": NEUTRAL}, **place})
    return found


def _add_trail(figure: go.Figure, row: Row, colour: str, most: int) -> bool:
    """The way of a run; False where its curve does not tell it."""
    curve = row.get("curve", ())
    points = [point["measure"] for point in own(curve)]
    points = [point for point in points if {"domain_bits_per_byte", "general_bits_per_byte"} <= point.keys()]
    if len(points) < 2:
        return False
    base, points = curve[0]["measure"], thinned(points, most)
    figure.add_scatter(
        x=[point["general_bits_per_byte"] - base["general_bits_per_byte"] for point in points],
        y=[base["domain_bits_per_byte"] - point["domain_bits_per_byte"] for point in points],
        mode="lines",
        line={"color": colour, "width": 1.2},
        opacity=0.45,
        showlegend=False,
        hoverinfo="skip",
    )
    return True


def _add_joint(figure: go.Figure, row: Row, parent: Row | None) -> None:
    """A straight line from the end of the run that this one continues."""
    if parent is None or parent.get("field") != row.get("field"):  # gains in two fields are no one way
        return
    figure.add_scatter(
        x=[parent["forgetting"], row["forgetting"]], y=[parent["domain_gain"], row["domain_gain"]], mode="lines",
        line={"color": NEUTRAL, "width": 1.2}, opacity=0.6, showlegend=False, hoverinfo="skip",
    )  # fmt: skip


def _add_end(figure: go.Figure, number: int, row: Row, in_legend: bool, tolerance: float | None) -> None:
    kl = f"<br>KL to the base {row['prompt_kl']:.3f} nats per token" if "prompt_kl" in row else ""
    spread: dict[str, Any] = {}
    if "forgetting_interval" in row and "domain_gain_interval" in row:
        spread = {
            "error_x": _bars(row["forgetting_interval"], run_colour(number), row["forgetting"]),
            "error_y": _bars(row["domain_gain_interval"], run_colour(number), row["domain_gain"]),
        }
    figure.add_scatter(
        **spread,
        opacity=_opacity(row["forgetting"], tolerance),
        x=[row["forgetting"]],
        y=[row["domain_gain"]],
        customdata=[row["run"]],
        mode="markers",
        marker={"symbol": _SHAPES[number // len(RUNS) % len(_SHAPES)], "size": 11, "color": run_colour(number)},
        name=label(title_of(row)),
        legendgroup=number,
        showlegend=in_legend,
        uid=row["run"],
        hovertemplate=f"{describe(row)}<br>gain in the field %{{y:+.3f}} bits per byte"
        f"<br>forgetting %{{x:+.3f}} bits per byte{kl}{_sure(row)}<br>{_read(row)}<extra></extra>",
    )


def _sure(row: Row) -> str:
    """Intervals over documents, where the figures were taken anew."""
    if not row.get("strengths"):
        return ""
    end = row["strengths"][-1]
    (low, high), (less, more) = end["gain_interval"], end["forgetting_interval"]
    return (
        f"<br>95 % over {end['gain_documents']} documents of the field: {low:+.3f} to {high:+.3f}"
        f"<br>95 % over {end['forgetting_documents']} general documents: {less:+.3f} to {more:+.3f}"
    )


def _read(row: Row) -> str:
    before = row.get("tokens_before", 0)
    return f"{row['tokens']:,} tokens read" + (f", {before:,} before it in its chain" if before else "")


def _span(values: Sequence[float], bars: Sequence[float], left: float, right: float) -> tuple[float, float]:
    """A range that holds the base and all values, with room at both sides for words; and the bars, as far as they are
    no longer than all the rest is wide, for two seeds may have bars without end."""
    low, high = min(0.0, *values), max(0.0, *values)
    width = max(high - low, 0.02)
    low, high = max(min([low, *bars]), low - width), min(max([high, *bars]), high + width)
    width = max(high - low, 0.02)
    return min(low - 0.06 * width, -left * width), high + right * width


def _labels(
    placed: Sequence[tuple[int, Row]], across: tuple[float, float], up: tuple[float, float]
) -> tuple[list[dict[str, Any]], bool]:
    """Each arm's name beside its highest end point, where there is room; and whether there was room for all."""
    best: dict[int, Row] = {}
    for number, row in placed:
        if number not in best or row["domain_gain"] > best[number]["domain_gain"]:
            best[number] = row
    points = [_pixels(x, y, across, up) for _, row in placed for x, y in _places(row)]
    base_x, base_y = _pixels(0, 0, across, up)
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in [*points, (base_x, base_y)]]
    taken += [box for _, row in placed for box in _bar_boxes(row, across, up)]
    lines = [(base_x - 8, 0.0, base_x + 8, _HEIGHT), (0.0, base_y - 2, _WIDTH, base_y + 2)]
    found = []
    for row in best.values():
        x, y = _pixels(row["forgetting"], row["domain_gain"], across, up)
        width = _LETTER * min(_LABEL, len(title_of(row)))
        box = _free_box(x, y, width, [*taken, *lines]) or _free_box(x, y, width, taken)  # on a line only if it must be
        if box is None:
            continue
        taken.append(box)
        shift = {"xshift": box[0] - x, "yshift": (box[1] + box[3]) / 2 - y, "xanchor": "left", "yanchor": "middle"}
        place = {"x": row["forgetting"], "y": row["domain_gain"], "showarrow": False, **shift}
        found.append({"text": label(title_of(row), _LABEL), "font": {"size": 12}, **place})
    return found, len(found) == len(best)


_Box = tuple[float, float, float, float]


def _bar_boxes(row: Row, across: tuple[float, float], up: tuple[float, float]) -> list[_Box]:
    """Where the error bars of an end point lie."""
    if "forgetting_interval" not in row or "domain_gain_interval" not in row:
        return []
    (x, y), (less, more) = (row["forgetting"], row["domain_gain"]), row["forgetting_interval"]
    low, high = row["domain_gain_interval"]
    left, bottom, right, top = *_pixels(less, low, across, up), *_pixels(more, high, across, up)
    middle_x, middle_y = _pixels(x, y, across, up)
    return [(left, middle_y - 4, right, middle_y + 4), (middle_x - 4, bottom, middle_x + 4, top)]


def _pixels(x: float, y: float, across: tuple[float, float], up: tuple[float, float]) -> tuple[float, float]:
    return (
        (x - across[0]) / (across[1] - across[0]) * _WIDTH,
        (y - up[0]) / (up[1] - up[0]) * _HEIGHT,
    )


def _free_box(x: float, y: float, width: float, taken: Sequence[_Box]) -> _Box | None:
    """Where a label of this width fits beside the point: beside it, above or below; None where it fits nowhere."""
    right, left_of, centre = x + 10, x - 10 - width, x - width / 2
    level, above, below = y - 8, y + 9, y - 25
    corners = (right, level), (left_of, level), (centre, above), (centre, below)
    slanting = (right, below), (right, above), (left_of, below), (left_of, above)
    for left, bottom in corners + slanting:
        box = (left, bottom, left + width, bottom + 16)
        inside = left >= 0 and bottom >= 16 and box[2] <= _WIDTH and box[3] <= _HEIGHT - 16
        if inside and not any(_overlap(box, other) for other in taken):
            return box
    return None


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
