"""The left-hand side of the Mixture page: what is mixed, and how much of each.

Every change goes to the session's draft on disk at once (`launch_view.change`); what does not fit together stays typed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import streamlit as st

from app import forms, state
from app.launch_view import change, typed
from app.words import plain
from mixcpt.builtin import KINDS, WORDS
from mixcpt.corpus import list_corpora
from mixcpt.drafts import Draft
from mixcpt.palette import KIND_WORDS

Entry = dict[str, Any]

FIELD = "field"
_GROUPS = {
    FIELD: (":blue[:material/target:]", "Your field", "What is to be learned: documents marked as your field."),
    "documents": (":material/article:", "General documents", "Prose that keeps general language fresh."),
    "instructions": (":green[:material/forum:]", "Instructions", "Questions with answers, read as plain text."),
    "preferences": (":orange[:material/thumbs_up_down:]", "Preference pairs", "Their chosen answers, as plain text."),
}
_PRESETS = {
    "Field only": {FIELD: 100, "documents": 0, "instructions": 0, "preferences": 0},
    "60 : 20 : 12 : 8": {FIELD: 60, "documents": 20, "instructions": 12, "preferences": 8},
    "Half and half": {FIELD: 50, "documents": 25, "instructions": 15, "preferences": 10},
}
_MOST = 1000.0


def kinds() -> dict[str, str]:
    """The kind of every source there is, the built-in ones first."""
    own = {one.name: one.kind for one in list_corpora(state.workspace()) if not one.name.startswith("builtin-")}
    trained = {name: kind for name, kind in KINDS.items() if name != "builtin/general"}
    return {**trained, **own}


def entries(draft: Draft) -> list[Entry]:
    """The sources as they stand in the form, also where they do not fit together yet."""
    typed_ones: list[Entry] | None = typed(draft).changes.get("mixture.sources")
    return typed_ones or [source.model_dump() for source in draft.stage.mixture.sources]


def form(draft: Draft) -> None:
    known, mixed = kinds(), entries(draft)
    with st.container(border=True):
        st.subheader("Shares", anchor=False, help="Relative parts of the tokens: 3 and 1 mean 75 % and 25 %.")
        _presets(draft, known, mixed)
        for group in _GROUPS:
            members = [entry for entry in mixed if _group(entry, known) == group]
            if members:
                _draw_group(draft, group, members, mixed)
        _add(draft, known, mixed)
        if problem := typed(draft).problem:
            st.error(f"{plain(problem)} Until then the last good mixture is kept.", icon=":material/error:")
    with st.container(border=True):
        forms.field(draft.stage, "mixture.budget_tokens", key="mixture", on_change=_setting(draft), typed=_typed(draft))
        with st.expander("More options", icon=":material/tune:"):
            forms.draw(
                draft.stage,
                key="mixture_more",
                on_change=_setting(draft),
                typed=_typed(draft),
                only="mixture",
                skip={"mixture.budget_tokens"},
            )


def _typed(draft: Draft) -> dict[str, Any]:
    return typed(draft).changes


def _setting(draft: Draft) -> forms.Change:
    return lambda path, value: change(draft.id, {path: value})


def _group(entry: Entry, known: dict[str, str]) -> str:
    return FIELD if entry["domain"] else known.get(entry["source"], "documents")


def _write(draft: Draft, mixed: Sequence[Entry]) -> None:
    change(draft.id, {"mixture.sources": [dict(entry) for entry in mixed]})


def _presets(draft: Draft, known: dict[str, str], mixed: list[Entry]) -> None:
    with st.container(horizontal=True):
        for name, shares in _PRESETS.items():
            st.button(
                plain(name),
                key=f"mixture_preset_{name}",
                on_click=partial(_apply, draft, known, mixed, shares),
                help="Field, general documents, instructions and preference pairs in these parts.",
            )


def _apply(draft: Draft, known: dict[str, str], mixed: list[Entry], shares: dict[str, int]) -> None:
    for group, share in shares.items():
        mixed = _scaled(mixed, [entry for entry in mixed if _group(entry, known) == group], share)
    _write(draft, mixed)


def _scaled(mixed: Sequence[Entry], members: Sequence[Entry], share: float) -> list[Entry]:
    """`mixed` with the shares of `members` summing to `share`, in the proportions they had."""
    total = sum(entry["share"] for entry in members)
    names = [entry["source"] for entry in members]

    def scaled(entry: Entry) -> float:
        return round(share * (entry["share"] / total if total else 1 / len(members)), 4)

    return [entry | {"share": scaled(entry)} if entry["source"] in names else entry for entry in mixed]


def _draw_group(draft: Draft, group: str, members: list[Entry], mixed: list[Entry]) -> None:
    icon, title, help = _GROUPS[group]
    words, number = st.columns([3, 2], vertical_alignment="center")
    words.markdown(f"{icon} **{title}**", help=help)
    with number:
        total = sum(entry["share"] for entry in members)
        _share(f"mixture_kind_{group}", f"Share of {title}", total, partial(_set_group, draft, members, mixed))
    for entry in members:
        _draw_source(draft, entry, mixed, alone=len(members) == 1)


def _share(key: str, label: str, value: float, store: Any) -> None:
    forms.show(key, float(value))
    st.number_input(
        plain(label),
        min_value=0.0,
        max_value=max(_MOST, float(value)),
        step=5.0,
        format="%g",
        key=key,
        on_change=lambda: store(st.session_state[key]),
        label_visibility="collapsed",
    )


def _set_group(draft: Draft, members: list[Entry], mixed: list[Entry], share: float) -> None:
    _write(draft, _scaled(mixed, members, share))


def _set_source(draft: Draft, mixed: list[Entry], name: str, share: float) -> None:
    _write(draft, [entry | {"share": share} if entry["source"] == name else entry for entry in mixed])


def _draw_source(draft: Draft, entry: Entry, mixed: list[Entry], alone: bool) -> None:
    """A source's line: its name, its own share where its group has several, and what can be done with it."""
    name = entry["source"]
    words, number, more = st.columns([5, 4, 2], vertical_alignment="center")
    words.markdown(plain(name), help=plain(WORDS[name]) if name in WORDS else None)
    if not alone:
        with number:
            _share(
                f"mixture_share_{name}", f"Share of {name}", entry["share"], partial(_set_source, draft, mixed, name)
            )
    with more, st.popover("", icon=":material/more_horiz:", type="tertiary", key=f"mixture_more_{name}"):
        key = f"mixture_domain_{name}"
        forms.show(key, entry["domain"])
        st.toggle(
            "This is my field",
            key=key,
            on_change=partial(_mark, draft, mixed, name, key),
            help="Its held-out part becomes the measure of what was learned.",
        )
        st.button(
            "Take it out",
            key=f"mixture_remove_{name}",
            icon=":material/remove:",
            disabled=len(mixed) == 1,
            on_click=partial(_write, draft, [other for other in mixed if other is not entry]),
        )


def _mark(draft: Draft, mixed: list[Entry], name: str, key: str) -> None:
    marked = st.session_state[key]
    _write(draft, [entry | {"domain": marked} if entry["source"] == name else entry for entry in mixed])


def _add(draft: Draft, known: dict[str, str], mixed: list[Entry]) -> None:
    there = {entry["source"] for entry in mixed}
    left = [name for name in known if name not in there]
    if not left:
        return
    st.selectbox(
        "Add a source",
        left,
        index=None,
        key="mixture_add",
        placeholder="a corpus of yours, or a built-in source",
        format_func=lambda name: f"{name} ({KIND_WORDS[known[name]]})",
        on_change=partial(_append, draft, mixed, known),
        help="Your corpora are made on the page Corpora.",
    )


def _append(draft: Draft, mixed: list[Entry], known: dict[str, str]) -> None:
    """A corpus of documents that somebody adds is most likely the field; it takes the atlas' place as such."""
    name = st.session_state["mixture_add"]
    st.session_state["mixture_add"] = None
    if name is None:
        return
    is_field = known[name] == "documents" and not name.startswith("builtin/")
    if is_field:
        share = sum(entry["share"] for entry in mixed if entry["domain"])
        mixed = [entry for entry in mixed if entry["source"] != "builtin/atlas"]
    else:
        share = 10
    _write(draft, [*mixed, {"source": name, "share": share or 10, "domain": is_field}])
