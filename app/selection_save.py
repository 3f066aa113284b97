"""Keeping a choice: save it under a name, take it along as JSON lines or bring such a file in, and train on it."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import show, state
from app.selection_opened import Opened, run_of, saved_as, take
from app.words import count, plain
from mixcpt.errors import MixcptError
from mixcpt.interchange import import_selection
from mixcpt.scores import ScoreTable
from mixcpt.selection import Selection, selection_names
from mixcpt.shelf import suggest_name
from mixcpt.uploads import safe_name

ALIGN = "../pages/align.py"
_REPLACE, _PROBLEM, _FILE = "selection_replace", "selection_problem", "selection_file"
_LONGEST_NAME = 64


def keep(now: Opened) -> None:
    """One row: name, save, train, and the way in and out as a file."""
    saved = saved_as(now)
    with st.container(border=True):
        name, save, train, files = st.columns([4, 2, 3, 2], vertical_alignment="bottom")
        with name:
            _name(now)
        with save:
            st.button(
                "Save selection",
                key="selection_save",
                icon=":material/save:",
                type="secondary" if saved else "primary",
                on_click=partial(_save, now),
                width="stretch",
                help="Keeps the chosen samples, their scores and your hands on them under this name.",
            )
        with train:
            _train(now, saved)
        with files, st.popover("As a file", icon=":material/attach_file:", width="stretch"):
            _export(now)
            _import(now)
        typed = _typed(now)
        if typed in selection_names(state.workspace()) and typed not in saved:
            st.checkbox(f"Replace the selection {plain(typed)} that is there", key=_REPLACE)
        if problem := _problem(now):
            show.error(problem)
        elif saved:
            st.caption(f":green[:material/check_circle:] Saved as {', '.join(f'**{plain(one)}**' for one in saved)}.")
        else:
            st.caption("Not saved yet. What you choose here is kept until then, also over a reload.")


def _name(now: Opened) -> None:
    st.session_state.setdefault(_name_key(now), now.choice.selection or _suggested(now))
    st.text_input(
        "Name of the selection",
        key=_name_key(now),
        max_chars=_LONGEST_NAME,
        persist_state="session",
        help="Training and commands call it so: small letters, digits, dots, _ and -.",
    )


def _name_key(now: Opened) -> str:
    return f"selection_name_{now.choice.id}"


def _typed(now: Opened) -> str:
    return str(state.peek(_name_key(now)) or "").strip()


def _suggested(now: Opened) -> str:
    source = str(now.info.get("source", "samples")).replace("/", "-")
    return suggest_name(f"{source}-{now.choice.rule.strategy}", selection_names(state.workspace()))


def _save(now: Opened) -> None:
    name = _typed(now)
    replace = bool(state.peek(_REPLACE)) or name in saved_as(now)
    try:
        now.selection.save(state.workspace(), name, replace=replace)
    except (MixcptError, OSError) as problem:
        st.session_state[_PROBLEM] = problem, _asked(now)
        return
    st.session_state.pop(_PROBLEM, None)
    st.session_state.pop(_REPLACE, None)
    st.toast(f"{plain(name)} is saved: {count(len(now.selection.ids))} samples.", icon=":material/save:")


def _problem(now: Opened) -> Exception | None:
    """Why saving failed, as long as all is as it was then."""
    problem, asked = st.session_state.get(_PROBLEM) or (None, None)
    return problem if asked == _asked(now) else None


def _asked(now: Opened) -> tuple[Any, ...]:
    return now.choice, _typed(now), st.session_state.get(_REPLACE)


def _train(now: Opened, saved: list[str]) -> None:
    kind = "SFT" if now.selection.kind == "instructions" else "DPO"
    pressed = st.button(
        f"Train on this selection ({kind})",
        key="selection_train",
        icon=":material/rocket_launch:",
        type="primary" if saved else "secondary",
        disabled=not saved,
        width="stretch",
        help="Opens the form of the second stage with this selection filled in."
        if saved
        else "Save the selection first; then it can be trained on.",
    )
    if pressed:
        run = run_of(now.info)
        st.switch_page(ALIGN, query_params={"selection": saved[0]} | ({"parent": run.id} if run else {}))


def _export(now: Opened) -> None:
    st.markdown("**Take the chosen samples along**")
    if not now.selection.ids:
        st.caption("Nothing is chosen.")
        return
    st.download_button(
        f"Download {count(len(now.selection.ids))} samples",
        data=lambda: now.selection.as_jsonl(),
        file_name=f"{_typed(now) or 'selection'}.jsonl",
        mime="application/jsonl",
        key="selection_export",
        icon=":material/download:",
        on_click="ignore",
        help="JSON lines with id, texts and scores; other tools for training read it too.",
    )


def _import(now: Opened) -> None:
    st.markdown("**Choose by a file**")
    number = int(st.session_state.setdefault(_FILE, 0))
    file = st.file_uploader(
        "JSON lines",
        type=["jsonl", "json", "txt"],
        key=f"{_FILE}_{number}",
        max_upload_size=200,
        help=plain('A file that was downloaded here, or a line {"id": …} for each sample. ')
        + "It takes the place of what is chosen now.",
    )
    if file is None:
        return
    try:
        found = _read(now, file.name, file.getvalue())
    except MixcptError as problem:
        show.error(problem)
        return
    st.button(
        f"Choose these {count(len(found.ids))} samples",
        key="selection_import",
        icon=":material/checklist:",
        on_click=partial(_take, now, found),
    )


def _read(now: Opened, name: str, content: bytes) -> Selection:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / safe_name(name)
        path.write_bytes(content)
        return import_selection(ScoreTable(now.info, now.begun.samples), path)


def _take(now: Opened, found: Selection) -> None:
    take(now.choice, found)
    st.session_state[_FILE] = int(st.session_state.get(_FILE, 0)) + 1
