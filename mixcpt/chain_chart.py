"""The forgetting curve over a whole chain: from the base through every stage, in tokens read since the base. A chain of
several corpora has a line for each of its fields, where that is what is learned."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixcpt import plotting
from mixcpt.chains import Link, own
from mixcpt.figures import listed
from mixcpt.palette import DISTANCE, DOMAIN, FIELDS, GENERAL, STAGE_NAMES, STAGES
from mixcpt.plotting import dotted, frame, label, nothing, thinned, token_axis

NAME = "chain"
_LINES = (
    ("domain_bits_per_byte", "field", DOMAIN, "solid", "bits per byte"),
    ("general_bits_per_byte", "general text", GENERAL, "dash", "bits per byte"),
    ("prompt_kl", "KL to the base", DISTANCE, "solid", "nats per token"),
)
_NARROW = 0.12
"""Share of the width below which the name of a stage goes one line higher, so as not to run into its neighbour."""


def chain(links: Sequence[Link]) -> go.Figure:
    """Bits per byte of the field and of general text, and below them KL, over tokens read since the base. Every stage
    is a band with its name; what is dotted is the base. `links` are those of `chains.links`."""
    shown = [link for link in links if own(link.curve)]
    keys = {key for link in shown for point in own(link.curve) for key in point["measure"]}
    above, below = (keys & {"domain_bits_per_byte", "general_bits_per_byte"}), "prompt_kl" in keys
    if not above and not below:
        return nothing(NAME, "No measures yet: the first point is that of the base.")
    heights = [0.7, 0.3] if above and below else [1.0]
    figure = make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.06)
    for key, name, colour, dash, unit in _LINES:
        if key not in keys:
            continue
        row = len(heights) if key == "prompt_kl" else 1
        if key == "domain_bits_per_byte" and len(fields := _by_field(shown)) > 1:
            for number, (field, links_of_field) in enumerate(fields.items()):
                line = {"color": FIELDS[number % len(FIELDS)], "dash": dash}
                _add_line(figure, links_of_field, key, label(listed(field) or "no field"), unit, row, line)
        else:
            _add_line(figure, shown, key, name, unit, row, {"color": colour, "dash": dash})
    frame(figure, NAME, height=450 if len(heights) == 2 else 340)
    figure.update_layout(showlegend=bool(above), legend={"y": 1.12})
    token_axis(figure)
    figure.update_xaxes(title_text="", row=1)
    figure.update_xaxes(title_text=plotting.SINCE_BASE, row=len(heights))
    if above:
        figure.update_yaxes(title_text=plotting.BITS, row=1)
    if below:
        title = "KL to the base<br>(nats per token)"
        figure.update_yaxes(title_text=title, rangemode="tozero", nticks=4, row=len(heights))
    _add_stages(figure, shown, len(heights))
    return figure


def _by_field(links: Sequence[Link]) -> dict[tuple[str, ...], list[Link]]:
    """The runs that measure the same field, in the order of their first; those that measured none are left out."""
    found: dict[tuple[str, ...], list[Link]] = {}
    for link in links:
        if any("domain_bits_per_byte" in point["measure"] for point in own(link.curve)):
            found.setdefault(link.field, []).append(link)
    return found


def _add_line(
    figure: go.Figure, links: Sequence[Link], key: str, name: str, unit: str, row: int, line: dict[str, Any]
) -> None:
    """One measure through all stages, a trace a stage: between two there is no training, so nothing is joined."""
    measured = [link for link in links if any(key in point["measure"] for point in own(link.curve))]
    base = next(point["measure"][key] for point in measured[0].curve if key in point["measure"])
    last = [point["measure"][key] for point in own(measured[-1].curve) if key in point["measure"]][-1]
    for number, link in enumerate(measured):
        points = thinned([point for point in own(link.curve) if key in point["measure"]])
        figure.add_scatter(
            x=[link.before + point["tokens"] for point in points],
            y=[point["measure"][key] for point in points],
            customdata=[point["measure"][key] - base for point in points],
            mode="lines+markers" if len(points) < 60 else "lines",
            line={"width": 2.5, **line},
            marker={"size": 6},
            name=f"{name}: {base:.3f} → {last:.3f}",
            legendgroup=f"{key} {name}",
            showlegend=row == 1 and number == 0 and key != "prompt_kl",
            uid=f"{key}-{link.run}",
            hovertemplate=f"<b>{_stage(link)}</b> · {label(link.title)}<br>{name} %{{y:.3f}} {unit} "
            "(%{customdata:+.3f} to the base)<br>%{x:,.0f} tokens read since the base<extra></extra>",
            cliponaxis=False,
            row=row,
            col=1,
        )
    if key != "prompt_kl":
        dotted(figure, y=base, colour=line["color"], row=row, col=1)


def _stage(link: Link) -> str:
    return STAGE_NAMES.get(link.stage, label(link.stage))


def _add_stages(figure: go.Figure, links: Sequence[Link], rows: int) -> None:
    """A band a stage with its name above it, and a line where the next one begins."""
    end = max(1, max(link.after for link in links))
    higher = False
    for link in links:
        after = max(link.after, link.before + 0.01 * end)  # one that has only begun is seen too
        for row in range(1, rows + 1):
            figure.add_vrect(x0=link.before, x1=after, fillcolor=STAGES[link.stage], opacity=0.09, line_width=0,
                             layer="below", row=row, col=1)  # fmt: skip
            if link.before:
                line = {"color": STAGES[link.stage], "width": 1.5}
                figure.add_vline(x=link.before, line=line, layer="below", row=row, col=1)
        narrow = after - link.before < _NARROW * end
        higher = narrow and not higher
        figure.add_annotation(
            text=f"<b>{_stage(link)}</b>", x=(link.before + after) / 2, y=1, xref="x", yref="y domain",
            yanchor="bottom", yshift=14 if higher else 0, showarrow=False, font={"size": 12},
        )  # fmt: skip
