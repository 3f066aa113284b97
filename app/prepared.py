"""Work that a page waits for (measuring the machine, fetching a model, tokenising): its progress, or another try."""

from functools import partial

import streamlit as st

from app import show, state
from app.words import plain
from mixcpt.jobs import MOVING, Job
from mixcpt.launching import prepare


def prepared(job: Job, kind: str, doing: str, again: str, **payload: object) -> None:
    """How a job stands that the page waits for; why it ended otherwise, and the way to try `again`."""
    status = job.status
    if status.state in MOVING:
        return _watch(job, doing)
    if status.state == "failed":
        st.error(plain(status.message), icon=":material/error:")
    st.button(
        again,
        key=f"prepared_{kind}_again",
        icon=":material/refresh:",
        on_click=partial(start, kind, **payload),
        width="stretch",
    )


@show.told
def start(kind: str, **payload: object) -> None:
    prepare(state.workspace(), kind, **payload)


@st.fragment(run_every=1.0)
def _watch(job: Job, doing: str) -> None:
    """Redraws itself; once the job ends the whole page is drawn anew."""
    status = job.status
    if status.state not in MOVING:
        st.rerun()
    st.progress(status.progress or 0.0, text=plain(f"{doing} …"))
    st.caption(plain(status.message or "Waiting for its turn."))
