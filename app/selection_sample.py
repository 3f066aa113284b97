"""One sample to look at: as a conversation, its scores, and the buttons that keep or discard it and go on."""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from app.selection_losses import losses
from app.selection_opened import STATES, Opened, by_hand, state_of
from app.selection_table import filters, go, listed, opened_sample, table
from app.words import count, plain, printable
from mixcpt.records import Message, Record
from mixcpt.scores import SCORES, ScoredSample

_GO_ON = "selection_go_on"
_TALL, LONGEST = 400, 20_000
"""Pixels from which a conversation scrolls, and characters of a text that are shown."""
_AVATARS = {"user": "user", "assistant": "assistant"}
_HANDS = {
    "keep": ("Keep", ":material/check:", "K", "Chosen, whatever the rule says."),
    "discard": ("Discard", ":material/close:", "D", "Not chosen, whatever the rule says."),
    "leave": ("Undo", ":material/undo:", "U", "Leaves it to the rule again."),
}


def samples(now: Opened) -> None:
    """The samples as a table, and beside it the one that is open."""
    shown = listed(now, *filters())
    one, place = opened_sample(shown, now)
    left, right = st.columns([2, 3], gap="medium")
    with left:
        if shown:
            table(now, shown, place)
        else:
            st.info("No sample here fits: empty the search, or show all.", icon=":material/search_off:")
    with right:
        if one:
            _sample(now, shown, one, place)
    if one and not one.reason:
        losses(now.info, one.parsed)


def _sample(now: Opened, shown: Sequence[ScoredSample], one: ScoredSample, place: int | None) -> None:
    """The sample with its buttons; `place` is that in the list that is gone through, None where it is not in it."""
    with st.container(border=True):
        _steps(now, shown, one, place)
        _hands(now, shown, one, place)
        if one.reason:
            st.warning(f"It cannot be trained on: {plain(one.reason)}.", icon=":material/block:")
        with st.container(height=_TALL, border=False):
            conversation(one.parsed)
        _facts(now, one)


def _steps(now: Opened, shown: Sequence[ScoredSample], one: ScoredSample, place: int | None) -> None:
    stands = state_of(now, one)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        with st.container(horizontal=True, vertical_alignment="center", width="content"):
            where = f"Sample {count(place + 1)} of {count(len(shown))}" if place is not None else "Not in this list"
            st.markdown(f"**{where}**", width="content")
            st.badge(stands, color=STATES[stands])  # type: ignore[arg-type]
        with st.container(horizontal=True, width="content", gap="xsmall"):
            before, after = _neighbours(shown, place)
            _step("Previous", ":material/chevron_left:", "P", before)
            _step("Next", ":material/chevron_right:", "N", after)


def _neighbours(shown: Sequence[ScoredSample], place: int | None) -> tuple[str | None, str | None]:
    """Ids of the samples before and after; one that is not in the list is followed by its first."""
    if place is None:
        return None, shown[0].id if shown else None
    before = shown[place - 1].id if place > 0 else None
    return before, shown[place + 1].id if place + 1 < len(shown) else None


def _step(label: str, icon: str, shortcut: str, target: str | None) -> None:
    st.button(
        label,
        icon=icon,
        key=f"selection_{label.lower()}",
        shortcut=shortcut,
        disabled=target is None,
        on_click=partial(go, target or ""),
    )


def _hands(now: Opened, shown: Sequence[ScoredSample], one: ScoredSample, place: int | None) -> None:
    stands = state_of(now, one)
    used = {"kept": "keep", "discarded": "discard"}.get(stands, "leave")
    _, after = _neighbours(shown, place)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        with st.container(horizontal=True, gap="xsmall", width="content"):
            for hand, (label, icon, shortcut, help) in _HANDS.items():
                st.button(
                    label,
                    icon=icon,
                    key=f"selection_{hand}",
                    shortcut=shortcut,
                    help=help,
                    disabled=bool(one.reason) or hand == used,
                    on_click=partial(_decide, now, one.id, hand, after),
                )
        st.toggle(
            "Then go on",
            value=True,
            key=_GO_ON,
            persist_state="session",
            help="After Keep and Discard the next sample is opened.",
        )


def _decide(now: Opened, id: str, hand: str, after: str | None) -> None:
    by_hand(now, id, hand)
    if after and hand != "leave" and st.session_state.get(_GO_ON, True):
        go(after)
    else:
        go(id)  # a list that shows the first one would show another now


def _facts(now: Opened, one: ScoredSample) -> None:
    tokens = f"{count(one.tokens)} tokens, {count(one.answer_tokens)} of the answer · " if one.tokens else ""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(f"{tokens}id {plain(one.id)}", width="content")
        if one.scores:
            with st.popover("All scores", type="tertiary"):
                lines = [
                    f"{plain(SCORES[name].label)}: **{one.scores[name]:.4g}** {SCORES[name].unit}"
                    for name in now.names
                    if name in one.scores
                ]
                st.markdown("  \n".join(lines))


def conversation(record: Record) -> None:
    """The turns as text; of a pair both answers, side by side."""
    for message in record.messages:
        _turn(message)
    if record.kind != "preferences":
        return
    for place, word, colour, text in zip(
        st.columns(2), ("chosen", "rejected"), ("green", "red"), (record.chosen, record.rejected), strict=True
    ):
        with place:
            st.badge(f"{word} answer", color=colour)  # type: ignore[arg-type]
            _turn(Message("assistant", text))


def _turn(message: Message) -> None:
    with st.chat_message(message.role, avatar=_AVATARS.get(message.role, ":material/settings:")):
        if not message.content.strip():
            st.caption("(empty)")
        st.text(printable(message.content[:LONGEST]))
        if len(message.content) > LONGEST:
            st.caption(f"The first {count(LONGEST)} of {count(len(message.content))} characters.")
