"""The reader: one document after another, found by number, by chance or by a text in it, shown as it is."""

import random
from itertools import pairwise

import streamlit as st

from app import state
from app.words import count, plain, printable, size
from mixcpt.corpus import Corpus, Document, Documents, Side
from mixcpt.records import Record
from mixcpt.search import Found, places, search
from mixcpt.stamps import Stamp, stamp

SIDES: dict[Side, str] = {"train": "Training", "heldout": "Held out"}
PART = 20_000  # characters shown at once: a browser is slow with more
MOST_FOUND = 10_000
_AROUND = 90  # characters shown before and after a place that was found
_MOST_PLACES = 3
_NUMBER = "corpora_document"


@st.cache_resource(max_entries=8, show_spinner=False)
def _documents(path: str, stamp: Stamp) -> Documents:
    return Documents(state.workspace().root / path)


@st.cache_data(max_entries=32, show_spinner=False)
def _found(path: str, stamp: Stamp, query: str) -> Found:
    return search(_documents(path, stamp), query, MOST_FOUND)


def reader(corpus: Corpus) -> None:
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    side: Side = (
        left.segmented_control(
            "Part",
            list(SIDES),
            default="train",
            required=True,
            format_func=SIDES.__getitem__,
            key="corpora_split",
            bind="query-params",
            help="The model learns from the training part. The held-out part is only measured.",
        )
        or "train"
    )
    query = right.text_input(
        "Find in the documents",
        key="corpora_find",
        bind="query-params",
        icon=":material/search:",
        help="Looks for these letters as they stand, large or small.",
    )
    path = str(corpus.folder / f"{side}.arrow")
    documents = _documents(path, stamp(path))
    if not len(documents):
        st.info("This part is empty.", icon=":material/info:")
        return
    found = _found(path, stamp(path), query) if query else None
    if found and not found.total:
        st.info(f"No document here holds “{plain(query)}”.", icon=":material/search_off:")
        return
    number = _steps(len(documents), found)
    if found:
        st.caption(_hits(found, number, len(documents)))
    _show(documents[number - 1], query or "")


def _steps(total: int, found: Found | None) -> int:
    """The row of buttons; returns the number of the document to show, from 1. With a search they step through hits."""
    allowed = [index + 1 for index in found.indices] if found else None
    now = min(max(int(st.session_state.get(_NUMBER) or 1), 1), total)
    if allowed and now not in allowed:
        now = next((hit for hit in allowed if hit >= now), allowed[0])
    st.session_state[_NUMBER] = now
    if allowed:
        place = allowed.index(now)
        before, after = allowed[place - 1], allowed[(place + 1) % len(allowed)]
    else:
        before, after = now - 1 or total, now % total + 1
    chance = random.choice(allowed or range(1, total + 1))
    back, forth, dice, field, _ = st.columns([1, 1, 1, 1.4, 2], vertical_alignment="bottom")
    back.button("Previous", key="corpora_previous", on_click=_go, args=(before,), width="stretch")
    forth.button("Next", key="corpora_next", on_click=_go, args=(after,), width="stretch")
    dice.button("Random", key="corpora_random", on_click=_go, args=(chance,), width="stretch")
    field.number_input(
        f"Document (1 to {count(total)})", min_value=1, max_value=total, step=1, key=_NUMBER, bind="query-params"
    )
    return now


def _go(number: int) -> None:
    st.session_state[_NUMBER] = number
    st.session_state.pop("corpora_part", None)


def _hits(found: Found, number: int, total: int) -> str:
    more = f" (the first {count(MOST_FOUND)} can be stepped through)" if found.total > len(found.indices) else ""
    hit = found.indices.index(number - 1) + 1
    return f"Hit {count(hit)} of {count(found.total)} documents{more}, of {count(total)} in all"


def _show(document: Document, query: str) -> None:
    line = f", line {count(document.line)}" if document.line else ""
    origin = f"{plain(document.file)}{line}"
    st.caption(f"{origin} · {count(document.tokens)} tokens · {size(document.bytes)} · id {plain(document.id)}")
    if query:
        _places(document.text, query)
    if not document.record:
        _text(document.text, query)
        return
    left, right = st.columns(2)
    with left:
        st.markdown("**The record**")
        _record(Record.from_json(document.record))
    with right:
        st.markdown("**As the model reads it** (unified text)")
        _text(document.text, query)


def _places(text: str, query: str) -> None:
    """The places that were found, marked, with what stands around them."""
    spans = places(text, query)
    apart = [span for before, span in pairwise([(0, -_AROUND), *spans]) if span[0] >= before[1] + _AROUND]
    with st.container(border=True, gap="xsmall"):
        for start, end in apart[:_MOST_PLACES] or spans[:1]:
            before, after = plain(text[max(0, start - _AROUND) : start]), plain(text[end : end + _AROUND])
            st.markdown(f"… {before}:orange-background[{plain(text[start:end])}]{after} …")
        st.caption(f"{count(len(spans))} time{'' if len(spans) == 1 else 's'} in this document")


def _text(text: str, query: str) -> None:
    """A text as it was typed; a long one in parts, first the one with the place that was found."""
    parts = -(-len(text) // PART)
    part = 1
    if parts > 1:
        spans = places(text, query)
        st.session_state.setdefault("corpora_part", spans[0][0] // PART + 1 if spans else 1)
        st.session_state["corpora_part"] = min(st.session_state["corpora_part"], parts)
        part = int(
            st.number_input(f"Part of this long text (1 to {count(parts)})", 1, parts, step=1, key="corpora_part")
        )
    with st.container(border=True):
        st.text(printable(text[(part - 1) * PART : part * PART]))


def _record(record: Record) -> None:
    for message in record.messages:
        _turn(message.role, "gray", message.content)
    if record.kind == "preferences":
        _turn("chosen", "green", record.chosen)
        _turn("rejected", "red", record.rejected)


def _turn(word: str, colour: str, text: str) -> None:
    with st.container(border=True):
        st.markdown(f":{colour}-badge[{plain(word)}]")
        st.text(printable(text[:PART]))
