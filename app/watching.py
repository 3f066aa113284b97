"""A job that a page waits for: how far it is and a way to stop it; the page is drawn anew once it has ended."""

from collections.abc import Sequence

import streamlit as st

from app import show, state
from app.words import plain
from mixcpt.jobs import MOVING, Job


@st.fragment(run_every=1.0)
def watch(jobs: Sequence[Job], key: str, stop: str, help: str | None = None) -> None:
    """Redraws itself by the first of the jobs. The button, labelled `stop`, has the key `key`_cancel and stops all."""
    job = jobs[0]
    status = job.status
    if status.state not in MOVING:
        st.rerun()
    stopping = job.requested() == "cancel"
    with st.container(border=True):
        st.progress(status.progress or 0.0, text=plain(status.message or "waiting for its turn"))
        st.button(
            "Stopping" if stopping else stop,
            key=f"{key}_cancel",
            icon=":material/stop_circle:",
            disabled=stopping,
            on_click=cancel,
            args=(tuple(jobs),),
            help=help,
        )


@show.told
def cancel(jobs: Sequence[Job]) -> None:
    for job in jobs:
        state.jobs().request_cancel(job)
