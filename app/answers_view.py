"""Question by question: what the base said, what the run says, and which answers flipped."""

from collections.abc import Sequence

import streamlit as st

from app import show
from app.words import plain, printable
from mixcpt import answers as kept
from mixcpt.answers import Answered
from mixcpt.errors import MixcptError
from mixcpt.runs import Run

_FLIPS = {"gained": "wrong → right", "lost": "right → wrong", "same": "unchanged"}
_FORMAT = "format."
_HEIGHT = 380


def answers(run: Run, tasks: Sequence[str], templates: Sequence[str]) -> None:
    """A set is chosen, its answers are filtered, one is opened."""
    sets = [task for task in tasks if not task.endswith(" (exact)")] + [_FORMAT + name for name in templates]
    st.subheader("Question by question", anchor=False)
    chosen = st.selectbox("Question set", sets, format_func=_words, key="asked_set", width=320)
    try:
        rows = kept.read(run, chosen)
    except MixcptError as problem:
        show.error(problem)
        return
    if not rows:
        st.caption("The answers to these questions were not kept with this run. Ask once more to see them here.")
        return
    found = _filtered(rows)
    if not found:
        st.caption(f"None of the {len(rows)} answers fits. Empty the search to see them all.")
        return
    _table(rows, found, chosen)


def _words(name: str) -> str:
    return f"format, template {name.removeprefix(_FORMAT)}" if name.startswith(_FORMAT) else printable(name)


def _filtered(rows: Sequence[Answered]) -> list[int]:
    find, flips = st.columns([2, 3], vertical_alignment="bottom")
    with find:
        text = st.text_input(
            "Find", key="asked_find", placeholder="words of question or answer", icon=":material/search:"
        )
    counts = {flip: sum(one.flip == flip for one in rows) for flip in _FLIPS}
    with flips:
        wanted = st.pills(
            "Only",
            list(_FLIPS),
            selection_mode="multi",
            format_func=lambda flip: f"{_FLIPS[flip]} ({counts[flip]})",
            key="asked_flips",
            help="How the run's answer differs from the base's. Nothing chosen shows all.",
        )
    return kept.matching(rows, text, wanted)


def _table(rows: Sequence[Answered], found: Sequence[int], name: str) -> None:
    shown = [rows[index] for index in found]
    event = st.dataframe(
        {
            "Change": [_FLIPS[one.flip] for one in shown],
            **_found_in(rows, shown),
            "Question": [printable(one.question) for one in shown],
            "Right": [printable(" / ".join(one.right)) for one in shown],
            "Base": [f"{_mark(one.base_right)} {printable(one.base)}" for one in shown],
            "This run": [f"{_mark(one.final_right)} {printable(one.final)}" for one in shown],
        },
        hide_index=True,
        height=_HEIGHT,
        on_select="rerun",
        selection_mode="single-row",
        key=f"asked_answers_{name}",
    )
    st.caption(f"{len(found)} of {len(rows)} questions. Tick a row to read it whole.")
    ticked = event["selection"]["rows"]
    if ticked and ticked[0] < len(shown):
        _opened(shown[ticked[0]])


def _found_in(rows: Sequence[Answered], shown: Sequence[Answered]) -> dict[str, list[str]]:
    """A column with the source in whose training text a question stands, where any does."""
    return {"In training text": [printable(one.found_in) for one in shown]} if any(one.found_in for one in rows) else {}


def _mark(right: float) -> str:
    return "✓" if right == 1 else "✗" if right == 0 else f"{right:.0%}"


def _opened(one: Answered) -> None:
    with st.container(border=True):
        st.text(printable(one.question))
        if one.found:
            st.caption(
                f":material/content_copy: Stands in the training text ({plain(one.found_in)}): “{plain(one.found)}”"
            )
        for choice in one.choices:
            said = [who for who, answer in (("base", one.base), ("this run", one.final)) if answer == choice]
            note = f" — *{' and '.join(said)}*" if said else ""
            st.markdown(f"{':material/check:' if choice in one.right else ':material/remove:'} {plain(choice)}{note}")
        if not one.choices:
            left, middle, right = st.columns(3)
            for place, head, text in (
                (left, "Accepted" if len(one.right) > 1 else "Right", " / ".join(one.right)),
                (middle, f"Base {_mark(one.base_right)}", one.base),
                (right, f"This run {_mark(one.final_right)}", one.final),
            ):
                place.caption(head)
                place.text(printable(text) or "(nothing)")
