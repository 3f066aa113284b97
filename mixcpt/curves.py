"""Charts over tokens read: the losses and the speed of one run, and forgetting curves of one run, of several, and of
the chain that a run ends.

A run of stage two begins where its parent ended, so its curves do; the base's measure, which stands first in its
records, is only what they are compared with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixcpt import plotting
from mixcpt.chains import own
from mixcpt.compare import Arm, Row, arm_of
from mixcpt.palette import DISTANCE, DOMAIN, GENERAL, NEUTRAL, run_colour, run_dash
from mixcpt.plotting import Record, dotted, frame, label, nothing, thinned, token_axis
from mixcpt.ribbons import Point, add_band, ribbon

_NO_STEPS = "No step yet: the first one appears here after the base was measured."
_NO_PAIRS = "Only DPO compares pairs of answers: this run has no rewards."
_NO_MEASURES = "No measures yet: the first point is that of the base."


def losses(records: Sequence[Record]) -> go.Figure:
    """What is minimised: in nats per token, of the first stage with its two parts; of DPO in nats per pair, where
    log 2 is a model that prefers nothing. `records` are those of `Run.losses()`."""
    figure, value = go.Figure(), "%{y:.3f} nats per token"
    if any("margin" in record for record in records):
        plotting.add_noisy(figure, records, "loss", "preferring the chosen answers", NEUTRAL, "%{y:.3f} nats per pair")
        dotted(figure, y=math.log(2))
        return _over_tokens(figure, "losses", "loss (nats per pair)")
    if not any("ce" in record for record in records):
        plotting.add_noisy(figure, records, "loss", "cross-entropy of the answers", NEUTRAL, value)
    elif any(record.get("retention") is not None for record in records):
        plotting.add_noisy(figure, records, "loss", "total", NEUTRAL, value)
        plotting.add_noisy(figure, records, "ce", "cross-entropy: learning the text", DOMAIN, value)
        plotting.add_noisy(figure, records, "retention", "retention: staying near the base", DISTANCE, value)
    else:
        plotting.add_noisy(figure, records, "ce", "cross-entropy: learning the text", DOMAIN, value)
    return _over_tokens(figure, "losses", "loss (nats per token)")


def rewards(records: Sequence[Record]) -> go.Figure:
    """What DPO pushes apart: the rewards of chosen and rejected answers and the margin between them, in nats times
    beta: by how much likelier an answer became than it is under the reference."""
    figure, value = go.Figure(), "%{y:+.3f}"
    for key, name, colour in (
        ("margin", "margin", NEUTRAL),
        ("chosen_reward", "chosen answers", DOMAIN),
        ("rejected_reward", "rejected answers", GENERAL),
    ):
        plotting.add_noisy(figure, records, key, name, colour, value)
    if not figure.data:
        return nothing("rewards", _NO_PAIRS if records else _NO_STEPS)
    dotted(figure, y=0)
    return _over_tokens(figure, "rewards", "reward (nats × beta)")


def preferred(records: Sequence[Record]) -> go.Figure:
    """The share of a step's pairs whose chosen answer has the higher reward; dotted, a coin."""
    figure, shares = go.Figure(), []
    for record in records:
        if record.get("accuracy") is not None:
            shares.append({"tokens": record["tokens"], "accuracy": 100 * record["accuracy"]})
    plotting.add_noisy(figure, shares, "accuracy", "pairs in the right order", NEUTRAL, "%{y:.0f} %")
    if not figure.data:
        return nothing("preferred", _NO_PAIRS if records else _NO_STEPS)
    dotted(figure, y=50)
    return _over_tokens(figure, "preferred", "pairs in the right order (%)", range=[-2, 102])


def learning_rate(records: Sequence[Record]) -> go.Figure:
    """The schedule as it really was."""
    figure = go.Figure()
    points = thinned([record for record in records if record.get("learning_rate") is not None])
    if points:
        figure.add_scatter(
            x=[record["tokens"] for record in points],
            y=[record["learning_rate"] for record in points],
            line={"color": NEUTRAL, "width": 2},
            hovertemplate="learning rate %{y:.2e}<extra></extra>",
        )
    return _over_tokens(figure, "learning_rate", "learning rate", rangemode="tozero", tickformat="~g", nticks=5)


def speed(records: Sequence[Record]) -> go.Figure:
    """Tokens per second, step by step; time spent on measures does not count."""
    figure = go.Figure()
    plotting.add_noisy(figure, records, "tokens_per_second", "speed", NEUTRAL, "%{y:,.0f} tokens per second")
    return _over_tokens(figure, "speed", "tokens per second", rangemode="tozero")


def memory(records: Sequence[Record]) -> go.Figure:
    """The most memory that was used up to each step, in GB."""
    points = [record for record in records if record.get("memory_bytes") is not None]
    gigabytes = [{"tokens": record["tokens"], "memory": record["memory_bytes"] / 1e9} for record in thinned(points)]
    figure = go.Figure()
    if gigabytes:
        figure.add_scatter(
            x=[point["tokens"] for point in gigabytes],
            y=[point["memory"] for point in gigabytes],
            line={"color": NEUTRAL, "width": 2},
            hovertemplate="at most %{y:.2f} GB so far<extra></extra>",
        )
    return _over_tokens(figure, "memory", "peak memory (GB)", rangemode="tozero")


def _over_tokens(figure: go.Figure, name: str, y: str, **axis: Any) -> go.Figure:
    if not figure.data:
        return nothing(name, _NO_STEPS)
    frame(figure, name, y=y, unified=True, height=300)
    figure.update_layout(showlegend=name in ("losses", "rewards") and any(trace.name for trace in figure.data))
    figure.update_yaxes(**axis)
    token_axis(figure)
    return figure


_LINES = (
    ("domain_bits_per_byte", "field", DOMAIN, "solid"),
    ("general_bits_per_byte", "general text", GENERAL, "dash"),
)


def forgetting_curve(curve: Sequence[Record]) -> go.Figure:
    """The two-sided curve of one run, of `Run.curve()`: bits per byte of the field and of general text over tokens,
    the base dotted; under it KL, the distance to the base on general prompts."""
    measured = [line for line in _LINES if any(line[0] in point["measure"] for point in own(curve))]
    distance = any("prompt_kl" in point["measure"] for point in own(curve))
    if not measured and not distance:
        return nothing("forgetting_curve", _NO_MEASURES)
    heights = [0.7, 0.3] if measured and distance else [1.0]
    figure = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    for key, name, colour, dash in measured:
        _add_measure(figure, curve, key, name, colour, dash)
    if distance:
        _add_distance(figure, curve, row=len(heights))
    frame(figure, "forgetting_curve", unified=True, height=430 if len(heights) == 2 else 320)
    figure.update_layout(hoversubplots="axis", showlegend=bool(measured))
    token_axis(figure)
    if len(heights) == 2:
        figure.update_xaxes(title_text="", row=1)
    if measured:
        figure.update_yaxes(title_text=plotting.BITS, row=1)
    return figure


def _points(curve: Sequence[Record], key: str) -> list[tuple[int, float]]:
    return thinned([(point["tokens"], point["measure"][key]) for point in curve if key in point["measure"]])


def _add_measure(figure: go.Figure, curve: Sequence[Record], key: str, name: str, colour: str, dash: str) -> None:
    points = _points(own(curve), key)
    base, last = curve[0]["measure"][key], points[-1][1]
    figure.add_scatter(
        x=[tokens for tokens, _ in points],
        y=[value for _, value in points],
        customdata=[value - base for _, value in points],
        mode="lines+markers" if len(points) < 60 else "lines",
        line={"color": colour, "width": 2.5, "dash": dash},
        marker={"size": 6},
        name=f"{name}: {base:.3f} → {last:.3f}" if len(curve) > 1 else f"{name}: {base:.3f}",
        uid=key,
        hovertemplate=f"{name}: %{{y:.3f}} bits per byte (%{{customdata:+.3f}} to the base)<extra></extra>",
        cliponaxis=False,
        row=1,
        col=1,
    )
    dotted(figure, y=base, colour=colour, row=1, col=1)


def _add_distance(figure: go.Figure, curve: Sequence[Record], row: int) -> None:
    points = _points(own(curve), "prompt_kl")
    figure.add_scatter(
        x=[tokens for tokens, _ in points],
        y=[value for _, value in points],
        mode="lines+markers" if len(points) < 60 else "lines",
        line={"color": DISTANCE, "width": 2},
        marker={"size": 5},
        showlegend=False,
        uid="prompt_kl",
        hovertemplate="KL to the base: %{y:.3f} nats per token<extra></extra>",
        cliponaxis=False,
        row=row,
        col=1,
    )
    title = "KL to the base<br>(nats per token)"
    figure.update_yaxes(title_text=title, rangemode="tozero", nticks=4, row=row)


@dataclass(frozen=True)
class Measure:
    """One measure of a curve as its difference to the base; `sign` makes a gain positive."""

    key: str
    sign: int
    axis: str
    hover: str


MEASURES = {
    "general": Measure("general_bits_per_byte", 1, "forgetting (bits per byte, lower is better)", "bits per byte"),
    "domain": Measure("domain_bits_per_byte", -1, "gain in the field (bits per byte)", "bits per byte"),
    "kl": Measure("prompt_kl", 1, "KL to the base (nats per token)", "nats per token"),
}


def forgetting_curves(runs: Sequence[Row], measure: str = "general") -> go.Figure:
    """Several runs over tokens, as differences to the base: `general` forgetting, `domain` gain, or `kl`.

    `runs` are rows of `compare.with_curves`: a run's figures, its `title` and its `curve`. Seeds of one arm share a
    colour and a dash; of several seeds the mean is drawn over the band from the lowest to the highest, each seed thin.
    Runs of stage two stand where their chain had come to.
    """
    shown, name = MEASURES[measure], f"forgetting_curves_{measure}"
    figure, most = go.Figure(), plotting.per_line(len(runs))
    arms: dict[int, list[tuple[Row, list[Point]]]] = {}
    for number, row in numbered(runs):
        points = thinned(_points(own(row["curve"]), shown.key), most)
        if len(points) > 1:
            base, before = row["curve"][0]["measure"][shown.key], row.get("tokens_before", 0)
            curve = [(before + tokens, shown.sign * (value - base)) for tokens, value in points]
            arms.setdefault(number, []).append((row, curve))
    for number, seeds in arms.items():
        _add_arm(figure, number, seeds, shown.hover)
    if not figure.data:
        return nothing(name, "None of these runs took this measure twice, so there is no curve to draw.")
    frame(figure, name, y=shown.axis, height=430)
    figure.update_layout(showlegend=True, legend={"maxheight": 0.3})
    dotted(figure, y=0)
    token_axis(figure)
    if any(row.get("tokens_before") for row in runs):
        figure.update_xaxes(title_text=plotting.SINCE_BASE)
    return figure


def _add_arm(figure: go.Figure, number: int, seeds: Sequence[tuple[Row, list[Point]]], hover: str) -> None:
    colour, title = run_colour(number), title_of(seeds[0][0])
    line = {"color": colour, "dash": run_dash(number), "width": 2}
    several = ribbon([curve for _, curve in seeds])
    if several:
        add_band(figure, several, colour, number)
    for place, (row, curve) in enumerate(seeds):
        x, y = zip(*curve, strict=True)
        figure.add_scatter(
            x=x, y=y, mode="lines", line=line | {"width": 1} if several else line, opacity=0.5 if several else 1,
            name=label(title), legendgroup=number, showlegend=place == 0 and not several, uid=row["run"],
            hovertemplate=f"{describe(row)}<br>%{{x:,.0f}} tokens read: %{{y:+.3f}} {hover}<extra></extra>",
        )  # fmt: skip
    if several:
        figure.add_scatter(
            x=several.x, y=several.mean, mode="lines", line=line | {"width": 2.5}, name=label(title),
            legendgroup=number, uid=f"mean-{number}",
            hovertemplate=f"<b>{label(title, 80)}</b> · mean of {len(seeds)} seeds<br>%{{x:,.0f}} tokens read: "
            f"%{{y:+.3f}} {hover}<extra></extra>",
        )  # fmt: skip


def title_of(row: Row) -> str:
    """What a run is called in charts: the title it was given among its rivals, or else its arm or its id."""
    return str(row.get("title") or row["arm"] or row.get("run") or row["runs"][0])


def numbered(rows: Sequence[Row]) -> list[tuple[int, Row]]:
    """Every row with the number of its colour: one for all seeds of an arm, in the order in which arms come."""
    numbers: dict[Arm, int] = {}
    return [(numbers.setdefault(arm_of(row), len(numbers)), row) for row in rows]


def describe(row: Row) -> str:
    """The first line of a hover text: which run it is, safely."""
    return f"<b>{label(title_of(row), 80)}</b> · seed {row['seed']}"
