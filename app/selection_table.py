"""The samples as a table: searched, filtered, in order; the open row is marked, and a click on another opens that."""

import zlib
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.selection_opened import SAMPLE, STATES, Opened, state_of
from app.words import count
from mixcpt.scores import SCORES, ScoredSample

_SHOWN = ["all", "chosen", "not chosen", "changed by hand", "left out"]
_ORDERS = ["easiest first", "hardest first", "longest first", "as in the source"]
_FIND, _SHOW, _ORDER = "find", "show", "order"
MOST = 5000
"""Rows that a browser is given at once."""
HEIGHT = 586


def filters() -> tuple[str, str, str]:
    """What is searched, which samples are shown, and in which order; all three stand in the address."""
    find, shown, order = st.columns([4, 4, 3], vertical_alignment="bottom")
    words = find.text_input(
        "Find in questions and answers",
        key=_FIND,
        bind="query-params",
        icon=":material/search:",
        type="search",
        help="Every word that you type must stand somewhere in the sample, large or small letters alike.",
    )
    which = shown.selectbox("Show", _SHOWN, key=_SHOW, bind="query-params")
    by = order.selectbox("Order", _ORDERS, key=_ORDER, bind="query-params")
    return words or "", which, by


def listed(now: Opened, words: str, which: str, order: str) -> list[ScoredSample]:
    """The samples that are searched and shown, in order."""
    wanted = words.casefold().split()
    found = [
        sample
        for sample, whole in zip(now.begun.samples, now.texts.whole, strict=True)
        if _is_shown(now, sample, which) and all(word in whole for word in wanted)
    ]
    return _ordered(now, found, order)


def _is_shown(now: Opened, sample: ScoredSample, which: str) -> bool:
    stands = state_of(now, sample)
    if which == "chosen":
        return stands in ("chosen", "kept")
    if which == "not chosen":
        return stands in ("not chosen", "discarded")
    if which == "changed by hand":
        return stands in ("kept", "discarded")
    return which == "all" or stands == which


def _ordered(now: Opened, found: list[ScoredSample], order: str) -> list[ScoredSample]:
    score = now.score
    if order == "longest first":
        return sorted(found, key=lambda sample: -sample.tokens)
    if order == "as in the source" or score is None:
        return found
    sign = 1 if (SCORES[score].easy == "low") == (order == "easiest first") else -1
    scored = sorted(
        (s for s in found if score in s.scores), key=lambda sample: (sign * sample.scores[score], sample.id)
    )
    return scored + [sample for sample in found if score not in sample.scores]


def opened_sample(shown: Sequence[ScoredSample], now: Opened) -> tuple[ScoredSample | None, int | None]:
    """The sample that the address names, else the first; and its place in the list, None where it is not in it."""
    named = now.sample(st.query_params.get(SAMPLE))
    if named is None:
        return (shown[0], 0) if shown else (None, None)
    return named, next((place for place, sample in enumerate(shown) if sample.id == named.id), None)


def go(id: str) -> None:
    st.query_params[SAMPLE] = id


def table(now: Opened, shown: Sequence[ScoredSample], place: int | None) -> None:
    """Draws the table with the row at `place` marked."""
    rows = shown[:MOST]
    # Another list is another table: the mark on row 3 must not pass to whatever sample comes to stand there.
    key = f"selection_table_{zlib.crc32(' '.join(sample.id for sample in rows).encode())}"
    mark = [place] if place is not None and place < len(rows) else []
    _mark(key, mark)

    def choose() -> None:
        selection = st.session_state[key]["selection"]
        clicked = [row for row, _ in selection["cells"]] or selection["rows"]
        if clicked:
            go(rows[clicked[0]].id)

    st.dataframe(
        _columns(now, rows),
        key=key,
        hide_index=True,
        height=HEIGHT,
        on_select=choose,
        selection_mode=["single-row", "single-cell"],
        column_config=_config(now),
    )
    if len(shown) > MOST:
        st.caption(f"The first {count(MOST)} of {count(len(shown))} are listed: search, or show fewer.")


def _mark(key: str, rows: list[int]) -> None:
    kept = st.session_state.get(key)
    if kept is None or (list(kept["selection"]["rows"]), list(kept["selection"]["cells"])) != (rows, []):
        st.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": []}}


def _columns(now: Opened, rows: Sequence[ScoredSample]) -> dict[str, list[Any]]:
    places = {sample.id: place for place, sample in enumerate(now.begun.samples)}
    texts = [places[sample.id] for sample in rows]
    return {
        "State": [[state_of(now, sample)] for sample in rows],
        "Score": [sample.scores.get(now.score or "") for sample in rows],
        "Question": [now.texts.questions[place] for place in texts],
        "Tokens": [sample.tokens or None for sample in rows],
        "Answer": [now.texts.answers[place] for place in texts],
    }


def _config(now: Opened) -> dict[str, Any]:
    column = st.column_config
    title = SCORES[now.score].title if now.score else "Score"
    return {
        "State": column.MultiselectColumn(width=105, options=list(STATES), color=list(STATES.values())),
        "Score": column.NumberColumn(format="%.3f", width=70, help=title),
        "Question": column.TextColumn(width=260),
        "Tokens": column.NumberColumn(format="localized", width=70, help="What training would read of it."),
        "Answer": column.TextColumn(width=260, help="Of a pair the chosen one."),
    }
