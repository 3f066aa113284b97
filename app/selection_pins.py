"""The heading of a chart of samples, with the pin that takes it into a notebook once the selection is saved."""

import streamlit as st

from app.pins import pin_button
from app.selection_opened import Opened, run_of, saved_as


def heading(now: Opened, words: str, *, chart: str, help: str) -> None:
    """What is pinned is drawn from the saved selection, so a choice that is not saved has no pin."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(words, anchor=False, help=help, width="content")
        if saved := saved_as(now):
            run = run_of(now.info)
            pin_button(run.experiment if run else "", chart, saved[:1], key=f"selection_pin_{chart}", caption=words)
