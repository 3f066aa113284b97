"""Small pieces that several pages draw: charts, empty states, errors. Each takes plain values and draws them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import plotly.graph_objects as go
import streamlit as st

from app.words import plain
from mixcpt.errors import MixcptError

P = ParamSpec("P")

_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"]}


def chart(figure: go.Figure, *, key: str, select: bool = False) -> Any:
    """A Plotly figure in the page's theme; with `select`, returns what was clicked ({"selection": {"points": ...}})."""
    if select:
        return st.plotly_chart(figure, key=key, config=_CONFIG, on_select="rerun", selection_mode="points")
    return st.plotly_chart(figure, key=key, config=_CONFIG)


def empty(title: str, what_to_do: str, *, page: str | None = None, label: str = "", icon: str = "") -> None:
    """Where there is nothing yet: what would be here, and the way to it."""
    with st.container(border=True):
        st.markdown(f"#### {title}")
        st.markdown(what_to_do)
        if page:
            st.page_link(page, label=label, icon=icon or None)


def told(action: Callable[P, None]) -> Callable[P, None]:
    """A callback whose errors are told in a toast: they would not reach the page's own handling, for callbacks run
    before the page is drawn."""

    @functools.wraps(action)
    def answered(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            action(*arguments, **options)
        except (MixcptError, OSError) as problem:
            st.toast(plain(problem), icon=":material/error:")

    return answered


def error(problem: Exception) -> None:
    """The sentence of an error, as text."""
    st.error(plain(problem), icon=":material/error:")
