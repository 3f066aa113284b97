"""The forgetting plane of Compare: of the measures at the end of training or of those taken anew, with strengths, the
Pareto front, and the forgetting that is accepted."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from app import measures_view, show, state
from app.pins import heading
from app.words import plain
from mixcpt import charts, measured, strengths
from mixcpt.builtin import GENERAL
from mixcpt.compare import Row
from mixcpt.front import within_words
from mixcpt.runs import Run

RUNS = "../pages/runs.py"
_OF, _KIND, _FRONT, _TOLERANCE = "compare_plane_of", "compare_kind", "compare_front", "compare_tolerance"
_SIDES = {"training": "End of training", "anew": "Measured again"}
_EVERY = "all"


def plane(rows: Sequence[Row], runs: Sequence[Run]) -> None:
    with st.container(border=True):
        taken_anew = _sides(rows, runs)
        heading(
            "Gain against forgetting",
            "strength_plane" if taken_anew else "plane",
            rows,
            "The best place is above and left. Click a point to open it.",
        )
        shown = _choose(rows, runs, taken_anew)
        pareto, tolerance = _marks()
        event = show.chart(_figure(_what(shown), pareto, tolerance, shown), key="compare_plane", select=True)
        if taken_anew and shown:
            st.caption(_how_sure(shown))
            if not measured.alike(run for run in runs if run.id in {row["run"] for row in shown}):
                st.caption(_UNLIKE)
        if tolerance is not None and shown:
            found = within_words(shown, tolerance)
            st.markdown(f"**{plain(found.title)}** {plain(found.words)}.".replace("**** ", ""))
        _clicked(event, rows)


_UNLIKE = (
    ":orange[:material/warning:] These runs were not measured alike (the same general text, equally much of it, in one "
    "precision on one device), so their places differ by that too. *Measure all* gives them the same text."
)


def _sides(rows: Sequence[Row], runs: Sequence[Run]) -> bool:
    """Which measures are shown: those taken anew at first where every run has a curve of them."""
    if _OF not in st.session_state:
        found, without = strengths.anew(rows, runs)
        whole = bool(found) and not without and any(len(row["strengths"]) > 1 for row in found)
        st.session_state[_OF] = "anew" if whole else "training"
    return bool(st.session_state[_OF] == "anew")


def _choose(rows: Sequence[Row], runs: Sequence[Run], taken_anew: bool) -> list[Row]:
    """The rows that are drawn, below the choice of measures; what is missing can be measured from here."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.segmented_control(
            "Measures",
            list(_SIDES),
            key=_OF,
            required=True,
            format_func=_SIDES.__getitem__,
            label_visibility="collapsed",
            help="End of training: what was measured on the way, on little text. Measured again: more text of several "
            "kinds, document by document, also with the adapter counting less (its strength).",
        )
        if taken_anew:
            st.selectbox(
                "General text",
                [_EVERY, *GENERAL.values()],
                key=_KIND,
                width=165,
                label_visibility="collapsed",
                format_func=lambda kind: f"general: {kind}",
                help="Forgetting of which kind of general text; they are forgotten unequally.",
            )
    job = measures_view.under_way(runs)
    if job:
        measures_view.watch_measuring(job, key="compare_measuring")
    if not taken_anew:
        return list(rows)
    kind = st.session_state.get(_KIND, _EVERY)
    shown, without = strengths.anew(rows, runs, "" if kind == _EVERY else kind)
    if not job:
        _measure_all(rows, runs, without)
    return shown


def _how_sure(shown: Sequence[Row]) -> str:
    """On how many documents the points rest."""
    fields, general = ([row["strengths"][-1][f"{what}_documents"] for row in shown] for what in ("gain", "forgetting"))
    bars = "bars: 95 % over documents" if len(shown) > 1 else "with 95 % bars over them"
    return f"On {_span(fields)} documents of the field and {_span(general)} of general text; {bars}."


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _measure_all(rows: Sequence[Row], runs: Sequence[Run], without: Sequence[Row]) -> None:
    able = {run.id for run in measured.runs_of(state.workspace(), [run.id for run in runs])}
    lacking = [row for row in without if row["run"] in able]
    recorded = [row for row in without if row["run"] not in able]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            f"Measure all {len(able)}" if len(able) > 1 else "Measure it",
            key="compare_measure_all",
            icon=":material/straighten:",
            type="primary" if lacking else "secondary",
            disabled=not able,
            on_click=_submit,
            args=([run for run in runs if run.id in able],),
            help="Measures every shown run again, at five strengths of its adapter. Nothing is trained, and what is "
            "known already is not measured again.",
        )
        words = []
        if lacking:
            words.append(f"{len(lacking)} of {len(rows)} not measured again yet.")
        if recorded:
            words.append(f"{len(recorded)} cannot be: a run without its adapter.")
        if words:
            st.caption(" ".join(words), width="content")


@show.told
def _submit(runs: list[Run]) -> None:
    measured.submit_curves(state.workspace(), runs)
    st.toast("It is in the queue.", icon=":material/straighten:")


def _marks() -> tuple[bool, float | None]:
    """Whether the Pareto front is drawn, and the forgetting that is accepted."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        tolerance = st.number_input(
            "Forgetting I accept (bits per byte)",
            min_value=0.0,
            max_value=10.0,
            value=None,
            step=0.01,
            format="%.3f",
            placeholder="any",
            key=_TOLERANCE,
            width=230,
            help="Draws a line there, dims what forgets more, and names what gains most within it.",
        )
        pareto = st.toggle(
            "Pareto front",
            key=_FRONT,
            help="The line of what nothing else here beats: no other arm, by the mean of its seeds and at "
            "no strength, gains as much and forgets less.",
        )
    return bool(pareto), None if tolerance is None else float(tolerance)


def _what(rows: Sequence[Row]) -> tuple[Any, ...]:
    """All that the figure depends on."""
    return tuple(
        (
            *(
                row["run"],
                row["title"],
                row["tokens"],
                len(row.get("curve", ())),
                row["forgetting"],
                row["domain_gain"],
            ),
            *((point["strength"], point["forgetting"], point["gain"]) for point in row.get("strengths", ())),
        )
        for row in rows
        if "forgetting" in row and "domain_gain" in row
    )


@st.cache_resource(show_spinner=False, max_entries=64)
def _figure(what: tuple[Any, ...], pareto: bool, tolerance: float | None, _rows: Sequence[Row]) -> go.Figure:
    """Kept for all sessions: drawing takes longer than all the rest of the page."""
    return charts.plane(_rows, pareto=pareto, tolerance=tolerance)


def _clicked(event: Any, rows: Sequence[Row]) -> None:
    titles = {row["run"]: row["title"] for row in rows}
    clicked = next((id for point in event["selection"]["points"] if (id := _run_of(point)) in titles), None)
    if clicked:
        st.page_link(
            RUNS, label=f"Open {plain(titles[clicked])}", icon=":material/open_in_new:", query_params={"run": clicked}
        )


def _run_of(point: dict[str, Any]) -> str:
    """The run of a clicked point; the base has none."""
    data = point.get("customdata")
    return str(data[0] if isinstance(data, list) else data)
