"""The chain of a run as a line of links: from the base to it and on, with the other runs at every branch."""

from collections.abc import Sequence

import streamlit as st

from app import state
from app.words import plain
from mixcpt.chains import Place, children, places
from mixcpt.overview import RunSummary, overview
from mixcpt.palette import STAGE_NAMES

RUNS = "../pages/runs.py"
_ARROW = ":gray[:material/arrow_forward:]"


def chain(now: RunSummary) -> None:
    """Draws nothing for a run that continues none and is continued by none."""
    runs = overview(state.workspace())
    found, after = places(runs, now.id), children(runs, now.id)
    if len(found) < 2 and not after:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="chain"):
        first = found[0].run
        st.markdown(f"**{STAGE_NAMES['base']}**" if not first.parent else ":gray[deleted]", width="content")
        for place in found:
            st.markdown(_ARROW, width="content")
            _place(place, now)
        if after:
            st.markdown(_ARROW, width="content")
            _after(after)


def _place(place: Place, now: RunSummary) -> None:
    run = place.run
    if run.id == now.id:  # its title stands above
        st.markdown(f"**{STAGE_NAMES.get(run.stage, plain(run.stage))}**", width="content")
    else:
        _link(run, _words(run))
    if place.others:
        number = len(place.others)
        with st.popover(f"+{number}", key=f"chain_others_{run.id}", type="tertiary", help="The others at this place"):
            st.caption(f"{number} more run{'s' if number > 1 else ''} of {STAGE_NAMES[run.stage]} after the same run")
            for other in place.others:
                _link(other, _words(other))


def _after(runs: Sequence[RunSummary]) -> None:
    if len(runs) == 1:
        return _link(runs[0], _words(runs[0]))
    with st.popover(f"{len(runs)} runs", key="chain_after", type="tertiary", help="The runs that continue this one"):
        for run in runs:
            _link(run, _words(run))


def _link(run: RunSummary, words: str) -> None:
    if st.button(words, key=f"chain_{run.id}", type="tertiary", help="Open this run"):
        st.switch_page(RUNS, query_params={"run": run.id})


def _words(run: RunSummary) -> str:
    return plain(f"{STAGE_NAMES.get(run.stage, run.stage)}: {run.title}")
