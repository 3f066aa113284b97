"""The scores and the selections that are there: one table each, a click opens one."""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from app import show, state
from app.selection_opened import open_scores, open_selection
from app.words import moment, plain, printable
from mixcpt.overview import overview
from mixcpt.scores import list_tables, table_ids
from mixcpt.selection import Rule, list_selections, selection_names
from mixcpt.settings import validate

_KINDS = {"instructions": "instructions", "preferences": "pairs"}


def scores() -> None:
    """The finished scores, newest first."""
    st.subheader("Scored samples", anchor=False)
    infos = list_tables(state.workspace())
    _damaged("The scores", "table.json", {*table_ids(state.workspace())} - {info["id"] for info in infos})
    if not infos:
        show.empty(
            "Nothing is scored yet",
            "A score tells how easy a sample is for your model. Score a source above; then you choose by a slider and "
            "look at what you chose.",
        )
        return
    titles = {run.id: run.title for run in overview(state.workspace())}
    rows = [_scores_row(info, titles) for info in infos]
    _table("selection_scores_list", rows, lambda place: open_scores(infos[place]["id"]))


def _scores_row(info: dict[str, Any], titles: dict[str, str]) -> dict[str, Any]:
    run = info["run"]
    gone = "" if run is None or run in titles else " (deleted)"
    return {
        "Source": printable(info["source"]),
        "Kind": _KINDS.get(info["kind"], info["kind"]),
        "Under": printable(titles.get(run, run) if run else f"{info['model']} (base)") + gone,
        "Template": printable(info["template"]["name"]) if info["template"] else "none",
        "Samples": info.get("samples"),
        "Left out": info.get("left_out"),
        "Created": moment(info["created"]),
    }


def saved() -> None:
    """The saved selections, by name."""
    st.subheader("Saved selections", anchor=False)
    found = list_selections(state.workspace())
    _damaged("The selection", "selection.json", {*selection_names(state.workspace())} - {one["name"] for one in found})
    if not found:
        st.caption("None yet. Open scores, choose, and save what you chose: training then names it.")
        return
    rows = [_saved_row(one) for one in found]
    _table("selection_saved_list", rows, lambda place: open_selection(found[place]["name"]))


def _saved_row(one: dict[str, Any]) -> dict[str, Any]:
    info = one["scores"]
    return {
        "Name": one["name"],
        "Samples": one["chosen"],
        "Tokens": one["tokens"],
        "Kind": _KINDS.get(str(info.get("kind")), ""),
        "Source": printable(str(info.get("source", ""))),
        "Rule": validate(Rule, one["rule"], f"the selection {one['name']}").words(),
        "By hand": len(one["keep"]) + len(one["discard"]),
        "Created": moment(one["created"]),
    }


def _table(key: str, rows: Sequence[dict[str, Any]], opens: Callable[[int], None]) -> None:
    def choose() -> None:
        selection = st.session_state[key]["selection"]
        clicked = [row for row, _ in selection["cells"]] or selection["rows"]
        if clicked:
            opens(clicked[0])

    number = st.column_config.NumberColumn(format="localized", width=80)
    st.caption("Click a row to open it.")
    st.dataframe(
        list(rows),
        key=key,
        hide_index=True,
        placeholder="–",
        on_select=choose,
        selection_mode=["single-row", "single-cell"],
        column_config={
            "Samples": number,
            "Left out": st.column_config.NumberColumn(
                format="localized", width=80, help="Samples that cannot be trained on; open it to see why."
            ),
            "Tokens": number,
            "Rule": st.column_config.TextColumn(width=270),
            "By hand": st.column_config.NumberColumn(width=80, help="Samples kept or discarded by hand."),
            "Created": st.column_config.DatetimeColumn(format="D MMM YYYY, HH:mm"),
        },
    )


def _damaged(what: str, file: str, names: set[str]) -> None:
    for name in sorted(names):
        st.warning(
            f"{what} {plain(name)} cannot be read: its {plain(file)} is damaged.", icon=":material/broken_image:"
        )
