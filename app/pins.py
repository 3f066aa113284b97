"""The button that pins a chart to an experiment's notebook, from any page."""

from collections.abc import Sequence

import streamlit as st

from app import show, state
from app.words import plain
from mixcpt.compare import Row
from mixcpt.errors import MixcptError
from mixcpt.notebook import Notebook, experiments


def pin_button(experiment: str, chart: str, subjects: Sequence[str], *, key: str, caption: str = "") -> None:
    """Pins `chart` (a name in `mixcpt.charts.CHARTS`) of `subjects` (run ids or corpus names) to the notebook of
    `experiment`, once; then it says that it is there. An empty `experiment` asks which notebook."""
    if experiment:
        _button(experiment, chart, subjects, key, caption)
        return
    with st.popover("Pin", icon=":material/keep:", type="tertiary", key=f"{key}_ask"):
        names = [experiment.name for experiment in experiments(state.workspace())]
        if not names:
            st.markdown("There is no experiment yet: launch a run, and its notebook opens.")
            return
        chosen = st.selectbox("Notebook of", names, key=f"{key}_experiment")
        _button(chosen, chart, subjects, key, caption, label="Pin it")


def heading(words: str, chart: str, rows: Sequence[Row], help: str) -> None:
    """A subheading with the pin of its chart of several runs at the right; where they are of several experiments the
    notebook is asked for."""
    found = {row["experiment"] for row in rows}
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(words, anchor=False, help=help, width="content")
        where = next(iter(found)) if len(found) == 1 else ""
        pin_button(where, chart, [row["run"] for row in rows], key=f"compare_pin_{chart}", caption=words)


def _button(experiment: str, chart: str, subjects: Sequence[str], key: str, caption: str, label: str = "Pin") -> None:
    notebook = Notebook(state.workspace(), experiment)
    where = f"the notebook of {plain(experiment)}"
    try:
        pinned = notebook.is_pinned(chart, subjects, caption)
    except MixcptError as problem:  # a damaged notebook must not take the page that shows the chart with it
        st.button("Pin", icon=":material/keep_off:", type="tertiary", disabled=True, key=key, help=plain(problem))
        return
    if pinned:
        st.button(
            "Pinned", icon=":material/check:", type="tertiary", disabled=True, key=f"{key}_done", help=f"Is in {where}"
        )
        return
    st.button(
        label,
        icon=":material/keep:",
        type="tertiary",
        key=key,
        help=f"Pin to {where}",
        on_click=_pin,
        args=(notebook, chart, tuple(subjects), caption),
    )


def _pin(notebook: Notebook, chart: str, subjects: Sequence[str], caption: str) -> None:
    try:
        notebook.pin(chart, subjects, caption)
    except MixcptError as problem:  # a callback's error would not reach the page's own handling
        show.error(problem)
    else:
        st.toast(f"Pinned to the notebook of {plain(notebook.experiment)}", icon=":material/keep:")
