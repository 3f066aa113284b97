"""The differences of arms, to one of them or pair by pair, a panel a measure: every seed as a point, the mean, and its
95 % interval by the paired t.

What this gives up: an arm that shares fewer than two seeds with the other shows its points, and no interval.
"""

from collections.abc import Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mixcpt.claims import Claim, by_seed, claims, pairs_against
from mixcpt.compare import Row, summarise
from mixcpt.curves import numbered, title_of
from mixcpt.palette import NEUTRAL, run_colour
from mixcpt.plotting import frame, label, nothing

_AXES = {
    "domain_gain": "gain, bits/byte<br>(right is better)",
    "forgetting": "forgetting, bits/byte<br>(left is better)",
    "prompt_kl": "KL, nats/token<br>(left is nearer)",
}


def seeds(rows: Sequence[Row], pairs: Sequence[tuple[str, str]] = ()) -> go.Figure:
    """Rows of `compare.with_curves`; `pairs` are titles of arms, each with that of the arm it is held against. Without
    any the arm that comes first is the one that the others are held against."""
    arms = summarise(rows)
    keys = [key for key in _AXES if arms and all(key in arm for arm in arms)]
    by_title = {title_of(arm): arm for arm in arms}
    named = [(by_title[one], by_title[other]) for one, other in pairs if one in by_title and other in by_title]
    held = named if pairs else pairs_against(arms) if arms else []
    if not held or not keys:
        return nothing("seeds", "Two arms that measured the same are needed: their differences are drawn seed by seed.")
    told = claims(held)
    colours = {title_of(arm): run_colour(number) for number, arm in numbered(rows_of(arms))}
    figure = make_subplots(rows=1, cols=len(keys), shared_yaxes=True, horizontal_spacing=0.04)
    for column, key in enumerate(keys, 1):
        for place, (arm, other) in enumerate(held):
            claim = next(claim for claim in told[place] if claim.measure.key == key)
            _add(figure, place, arm, other, claim, colours[title_of(arm)], column)
        figure.update_xaxes(title={"text": _AXES[key], "font": {"size": 11}}, nticks=3, tickangle=0, row=1, col=column)
    frame(figure, "seeds", height=150 + 46 * len(held))
    figure.update_layout(showlegend=False)
    figure.add_vline(x=0, line={"color": NEUTRAL, "width": 1.2, "dash": "dot"}, layer="below")
    one_reference = len({title_of(other) for _, other in held}) == 1
    names = [
        label(title_of(arm) if one_reference else f"{title_of(arm)} − {title_of(other)}", 48) for arm, other in held
    ]
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False
    )
    return figure


def rows_of(arms: Sequence[Row]) -> list[Row]:
    """The arms as rows that can be numbered: each as its first run."""
    return [{**arm, "run": arm["runs"][0], "seed": arm["seeds"][0]} for arm in arms]


def _add(figure: go.Figure, place: int, arm: Row, other: Row, claim: Claim, colour: str, column: int) -> None:
    mine, its = by_seed(arm, claim.measure.key), by_seed(other, claim.measure.key)
    shared = sorted(mine.keys() & its.keys())
    head = f"<b>{label(claim.one, 80)}</b><br>minus {label(claim.other, 80)}"
    figure.add_scatter(
        x=[mine[seed] - its[seed] for seed in shared], y=[place + 0.16] * len(shared), mode="markers",
        marker={"size": 7, "color": colour, "opacity": 0.55}, customdata=shared,
        hovertemplate=f"{head}<br>seed %{{customdata}}: %{{x:+.4f}}<extra></extra>", row=1, col=column,
    )  # fmt: skip
    if claim.found is None:
        return
    low, high = claim.found.interval
    mean = claim.found.mean
    figure.add_scatter(
        x=[mean], y=[place - 0.12], mode="markers",
        marker={"size": 11, "color": colour, "symbol": "line-ns-open", "line": {"width": 3}},
        error_x={"type": "data", "symmetric": False, "array": [high - mean], "arrayminus": [mean - low],
                 "color": colour, "thickness": 2, "width": 5},
        hovertemplate=f"{head}<br>mean %{{x:+.4f}}<br>95 % {low:+.4f} to {high:+.4f}, {claim.seeds} seeds"
        "<extra></extra>", row=1, col=column,
    )  # fmt: skip
