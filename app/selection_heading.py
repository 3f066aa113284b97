"""The heading of opened scores or of an opened selection: what it is, the way back, and its deletion."""

from collections.abc import Callable
from functools import partial

import streamlit as st

from app import state
from app.selection_opened import Opened, close, run_of, template_words, under
from app.show import told
from app.words import count, moment, plain
from mixcpt.scores import delete_table, table_ids
from mixcpt.selection import delete_selection

RUNS = "../pages/runs.py"


def heading(now: Opened) -> None:
    info, name = now.info, now.choice.selection
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            st.button("All", key="selection_back", icon=":material/arrow_back:", on_click=close)
            title = f"Selection {plain(name)}" if name else f"{plain(info['source'])} under {plain(under(info))}"
            st.subheader(title, anchor=False, width="content")
        with st.popover("Delete", icon=":material/delete:", key="selection_delete"):
            _ask_to_delete(now)
    created = f", {moment(info['created']):%-d %b %Y}" if info.get("created") else ""
    st.caption(f"{_facts(now)}{created}")
    if info.get("run") and run_of(info) is None:
        st.info(
            f"The run {plain(info['run'])} was deleted. Its scores stay here and can be chosen from.",
            icon=":material/info:",
        )


def _facts(now: Opened) -> str:
    info = now.info
    source = f"{plain(info['source'])} under {plain(under(info))} · " if now.choice.selection else ""
    drawn = ", drawn from the source by chance" if info.get("limit") else ""
    precision = f" · {info['precision']} on {info['device']}" if info.get("precision") else ""
    return f"{source}{count(len(now.begun.samples))} samples{drawn} · {template_words(info)}{plain(precision)} · scored"


def _ask_to_delete(now: Opened) -> None:
    name = now.choice.selection
    if name:
        st.markdown("Delete this selection? Runs that were trained on it keep their samples.")
        _sure("Yes, delete it", partial(_delete_selection, name))
    else:
        st.markdown(
            "Delete these scores? Saved selections keep theirs. Scoring the same samples again takes little time."
        )
        _sure("Yes, delete them", partial(_delete_scores, str(now.choice.scores)))


def _sure(label: str, delete: Callable[[], None]) -> None:
    st.button(label, key="selection_delete_yes", type="primary", on_click=delete)


@told
def _delete_selection(name: str) -> None:
    delete_selection(state.workspace(), name)
    close()


@told
def _delete_scores(id: str) -> None:
    if id in table_ids(state.workspace()):
        delete_table(state.workspace(), id)
    close()
