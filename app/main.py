"""The studio: `streamlit run app/main.py`, or `mixcpt app`. Frame and navigation; every page is a file of pages/."""

import logging
from collections.abc import Callable
from pathlib import Path

# Whole before any page is drawn: plotly looks into it when it is there, and a chart drawn in one thread while another
# was still importing it broke the page.
import pandas as pd  # noqa: F401
import streamlit as st

from app import panels, show, state
from mixcpt.errors import MixcptError, Unavailable

log = logging.getLogger(__name__)
HERE = Path(__file__).parent

st.set_page_config(page_title="Mix-CPT Studio", page_icon=HERE / "mark.svg", layout="wide", initial_sidebar_state=240)
st.logo(HERE / "logo.svg", icon_image=HERE / "mark.svg", size="large")

PAGES = {
    "": [st.Page("../pages/home.py", title="Home", icon=":material/home:", default=True)],
    "Data": [
        st.Page("../pages/corpora.py", title="Corpora", icon=":material/library_books:"),
        st.Page("../pages/mixture.py", title="Mixture", icon=":material/blender:"),
    ],
    "Training": [
        st.Page("../pages/launch.py", title="Launch", icon=":material/rocket_launch:"),
        st.Page("../pages/runs.py", title="Runs", icon=":material/monitoring:"),
    ],
    "Stage two": [
        st.Page("../pages/selection.py", title="Selection", icon=":material/checklist:"),
        st.Page("../pages/align.py", title="Align", icon=":material/model_training:"),
    ],
    "Findings": [
        st.Page("../pages/compare.py", title="Compare", icon=":material/compare_arrows:"),
        st.Page("../pages/studies.py", title="Studies", icon=":material/experiment:"),
        st.Page("../pages/talk.py", title="Talk", icon=":material/forum:"),
        st.Page("../pages/notebook.py", title="Notebook", icon=":material/menu_book:"),
    ],
}

page = st.navigation(PAGES)


def answered(draw: Callable[[], None]) -> None:
    """Draw; whatever a page did not answer itself still ends in one clear sentence."""
    try:
        draw()
    except MixcptError as problem:
        show.error(problem)
    except OSError as problem:
        log.exception("The disk or a file failed a page.")
        remedy = "see that the disk has space and the studio's folder can be written, then load this page again."
        show.error(Unavailable(f"A file could not be read or written ({problem}): {remedy}"))


state.supervisor()
with st.sidebar:
    answered(panels.queue_panel)
answered(page.run)
