"""The left-hand side of the Mixture page: what is mixed, and how much of each.

Every change goes to the session's draft on disk at once (`app.drafting`); what does not fit together stays typed.
A change is made to the sources as they are when it arrives, so two that are made in quick succession both count.
"""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import streamlit as st

from app import forms, state
from app.drafting import change, change_one, typed
from app.words import plain
from mixcpt.builtin import KINDS, WORDS
from mixcpt.config import SourceShare
from mixcpt.corpus import list_corpora
from mixcpt.drafts import AnyDraft, Draft
from mixcpt.palette import KIND_WORDS

Entry = dict[str, Any]
Edit = Callable[[list[Entry]], list[Entry]]
"""Makes new sources of those that there are."""

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
_COLUMNS = [12, 8, 3]


def kinds() -> dict[str, str]:
    """The kind of every source there is, the built-in ones first."""
    own = {one.name: one.kind for one in list_corpora(state.workspace()) if not one.name.startswith("builtin-")}
    trained = {name: kind for name, kind in KINDS.items() if name != "builtin/general"}
    return {**trained, **own}


def entries(draft: AnyDraft) -> list[Entry]:
    """The sources as they stand in the form, also where they do not fit together yet."""
    typed_ones: list[Entry] | None = typed(draft).changes.get("mixture.sources")
    return typed_ones or [source.model_dump() for source in draft.stage.mixture.sources]


def form(draft: Draft) -> None:
    known, mixed = kinds(), entries(draft)
    with st.container(border=True, gap="small"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(
                "Shares",
                anchor=False,
                help="Relative parts of the tokens: 3 and 1 mean 75 % and 25 %.",
                width="content",
            )
        _presets(draft, known, mixed)
        for group in _GROUPS:
            members = [entry for entry in mixed if _group(entry, known) == group]
            if members:
                with st.container(gap="xxsmall"):
                    _draw_group(draft, group, members, known, alone=len(mixed) == 1)
        _add(draft, known, mixed)
        _settings(draft)
        if problem := typed(draft).problem:
            st.error(f"{plain(problem)} Until then the last good mixture is kept.", icon=":material/error:")


def _settings(draft: Draft) -> None:
    store = partial(change_one, draft.id)
    budget, more = st.columns([10, 11], vertical_alignment="bottom")
    with budget:
        forms.field(draft.stage, "mixture.budget_tokens", key="mixture", on_change=store, typed=typed(draft).changes)
    with more, st.popover("More options", icon=":material/tune:", width="stretch"):
        forms.draw(
            draft.stage,
            key="mixture_more",
            on_change=store,
            typed=typed(draft).changes,
            only="mixture",
            skip={"mixture.budget_tokens"},
        )


def _group(entry: Entry, known: dict[str, str]) -> str:
    return FIELD if entry["domain"] else known.get(entry["source"], "documents")


def _edit(draft_id: str, edit: Edit) -> None:
    change(draft_id, lambda draft: {"mixture.sources": [dict(entry) for entry in edit(entries(draft))]})


def _with(mixed: list[Entry], name: str, **parts: Any) -> list[Entry]:
    return [entry | parts if entry["source"] == name else entry for entry in mixed]


def _without(mixed: list[Entry], name: str) -> list[Entry]:
    return [entry for entry in mixed if entry["source"] != name]


def _scaled(mixed: list[Entry], names: Collection[str], share: float) -> list[Entry]:
    """`mixed` with the shares of the sources `names` summing to `share`, in the proportions they had."""
    members = [entry for entry in mixed if entry["source"] in names]
    total = sum(entry["share"] for entry in members)

    def scaled(entry: Entry) -> float:
        return round(share * (entry["share"] / total if total else 1 / len(members)), 4)

    return [entry | {"share": scaled(entry)} if entry in members else entry for entry in mixed]


def _presets(draft: Draft, known: dict[str, str], mixed: list[Entry]) -> None:
    there = {_group(entry, known) for entry in mixed}

    def apply(shares: dict[str, int], mixed: list[Entry]) -> list[Entry]:
        for group, share in shares.items():
            mixed = _scaled(mixed, [entry["source"] for entry in mixed if _group(entry, known) == group], share)
        return mixed

    with st.container(horizontal=True, gap="xsmall"):
        for name, shares in _PRESETS.items():
            st.button(
                plain(name),
                key=f"mixture_preset_{name}",
                on_click=partial(_edit, draft.id, partial(apply, shares)),
                disabled=not any(shares[group] for group in there),
                help=plain(", ".join(f"{_GROUPS[group][1]} {share}" for group, share in shares.items()) + "."),
            )


def _draw_group(draft: Draft, group: str, members: list[Entry], known: dict[str, str], alone: bool) -> None:
    """A line with the kind's name and share. Its source stands in the same line; several have a line each below."""
    icon, title, _ = _GROUPS[group]
    if len(members) == 1:
        _draw_source(draft, members[0], known, alone, f"{icon} **{title}**  \n")
        return
    words, number, _ = st.columns(_COLUMNS, vertical_alignment="center")
    words.markdown(f"{icon} **{title}**")
    names = [entry["source"] for entry in members]
    with number:
        _share(
            f"mixture_kind_{group}",
            f"Share of {title}",
            sum(entry["share"] for entry in members),
            lambda share: _edit(draft.id, lambda mixed: _scaled(mixed, names, share)),
        )
    for entry in members:
        _draw_source(draft, entry, known, alone)


def _share(key: str, label: str, value: float, store: Callable[[float], None]) -> None:
    st.number_input(
        plain(label),
        min_value=0.0,
        max_value=max(_MOST, float(value)),
        step=5.0,
        format="%g",
        **forms.bound(key, float(value), store),
        label_visibility="collapsed",
    )


def _draw_source(draft: Draft, entry: Entry, known: dict[str, str], alone: bool, title: str = "") -> None:
    """A source's line: its name, its share, and what can be done with it."""
    name = entry["source"]
    words, number, more = st.columns(_COLUMNS, vertical_alignment="center")
    weighed = SourceShare.model_construct(**(entry | {"domain": False})).marks
    words.markdown(f"{title}:small[:gray[{plain(', '.join([name, *weighed]))}]]")
    with number:
        _share(
            f"mixture_share_{name}",
            f"Share of {name}",
            entry["share"],
            lambda share: _edit(draft.id, lambda mixed: _with(mixed, name, share=share)),
        )
    with more:
        if name in known or name in KINDS:
            _more(draft, entry, known, alone)
        else:
            _take_out(draft, name, alone, label="")
    if name not in known and name not in KINDS:
        st.caption(":red[This corpus is not there any more: take it out.]")


def _more(draft: Draft, entry: Entry, known: dict[str, str], alone: bool) -> None:
    name = entry["source"]

    def mark(marked: bool) -> None:
        _edit(draft.id, lambda mixed: _with(mixed, name, domain=marked))

    with st.popover("", icon=":material/more_horiz:", type="tertiary", key=f"mixture_more_{name}"):
        st.markdown(f"**{plain(name)}**")
        st.caption(plain(WORDS[name]) if name in WORDS else _GROUPS[_group(entry, known)][2])
        st.toggle(
            "This is my field",
            **forms.bound(f"mixture_domain_{name}", entry["domain"], mark),
            help="Its held-out part becomes the measure of what was learned.",
        )
        for part in ("weight", "retention_weight"):
            _weight(draft, entry, part)
        _take_out(draft, name, alone)


def _weight(draft: Draft, entry: Entry, part: str) -> None:
    """A setting of one source as the form draws all settings, in words of `SourceShare`."""
    name = entry["source"]
    one = next(one for one in forms.fields(SourceShare) if one.path == part)

    def weigh(weight: float) -> None:
        _edit(draft.id, lambda mixed: _with(mixed, name, **{part: weight}))

    st.number_input(
        plain(one.title),
        step=0.5,
        format="%g",
        **forms.bound(f"mixture_{part}_{name}", float(entry[part]), weigh),
        help=plain(one.help),
    )


def _take_out(draft: Draft, name: str, alone: bool, label: str = "Take it out") -> None:
    st.button(
        label,
        key=f"mixture_remove_{name}",
        icon=":material/delete:",
        disabled=alone,
        on_click=partial(_edit, draft.id, lambda mixed: _without(mixed, name)),
        help="A mixture has at least one source: add another first." if alone else f"Leave {plain(name)} out.",
    )


def _add(draft: Draft, known: dict[str, str], mixed: Sequence[Entry]) -> None:
    there = {entry["source"] for entry in mixed}
    left = [name for name in known if name not in there]
    if not left:
        return

    def add(name: str | None) -> None:
        if name is not None:
            _edit(draft.id, lambda mixed: _appended(mixed, name, known[name]))

    st.selectbox(
        "Add a source",
        left,
        index=None,
        **forms.bound("mixture_add", None, add),
        placeholder="Add a source: a corpus of yours, or a built-in one",
        format_func=lambda name: f"{name} ({KIND_WORDS[known[name]]})",
        label_visibility="collapsed",
    )


def _appended(mixed: list[Entry], name: str, kind: str) -> list[Entry]:
    """A corpus of documents that somebody adds is most likely the field. It takes the atlas' place as such, or an equal
    part of what the field has already. One that is there already stays as it is."""
    if _without(mixed, name) != mixed:
        return mixed
    is_field = kind == "documents" and not name.startswith("builtin/")
    share = 10.0
    if is_field and (atlas := [one for one in mixed if one["source"] == "builtin/atlas" and one["domain"]]):
        share = atlas[0]["share"] or share
        mixed = _without(mixed, "builtin/atlas")
    elif is_field and (field := [one for one in mixed if one["domain"]]):
        total = sum(one["share"] for one in field)
        if total:
            share = round(total / (len(field) + 1), 4)
            mixed = _scaled(mixed, [one["source"] for one in field], total - share)
    return [*mixed, SourceShare(source=name, share=share, domain=is_field).model_dump()]
