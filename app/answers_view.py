"""Question by question: what the base said, what the run says, and which were gained, lost and kept."""

from collections.abc import Sequence

import streamlit as st

from app import show
from app.words import plain, printable
from mixcpt import answers as kept
from mixcpt.answers import OUTCOMES, Answered
from mixcpt.errors import MixcptError
from mixcpt.runs import Run

_FORMAT = "format."
_HEIGHT = 380


def answers(run: Run, tasks: Sequence[str], templates: Sequence[str]) -> None:
    """A set is chosen, its answers are filtered, one is opened."""
    sets = question_sets(tasks, templates)
    st.subheader("Question by question", anchor=False)
    gained_and_lost(run, sets, key="asked_counts")
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


def question_sets(tasks: Sequence[str], templates: Sequence[str]) -> list[str]:
    """The sets whose answers are kept one by one, of lines of scores and of formats."""
    return [task for task in tasks if not task.endswith(" (exact)")] + [_FORMAT + name for name in templates]


def gained_and_lost(run: Run, sets: Sequence[str], key: str) -> bool:
    """How many questions of each set were gained, lost and kept, and whether that may be chance; False where no answer
    was kept."""
    found = {}
    for name in sets:
        try:
            if rows := kept.read(run, name):
                found[name] = kept.counts(rows)
        except MixcptError:
            continue  # whoever opens that set is told
    if not found:
        return False
    counted = list(found.values())
    number, p = st.column_config.NumberColumn, [one.p for one in counted]
    st.dataframe(
        {
            "Question set": [_words(name) for name in found],
            "Gained": [one.gained for one in counted],
            "Lost": [one.lost for one in counted],
            "Kept right": [one.kept_right for one in counted],
            "Kept wrong": [one.kept_wrong for one in counted],
            "By chance": [100 * value for value in p],
        },
        hide_index=True,
        key=key,
        column_config={
            "Gained": number(help="The base was wrong, this run is right."),
            "Lost": number(help="The base was right, this run is wrong."),
            "By chance": number(
                format="%.2g %%",
                help="McNemar's exact test: how often a split of gained and lost as uneven as this one comes up when "
                "every change is the toss of a coin. Below 5 % it is hardly chance.",
            ),
        },
    )
    st.caption("  \n".join(f"**{plain(_words(name))}**: {plain(one.words())}" for name, one in found.items()))
    return True


def _words(name: str) -> str:
    return f"format, template {name.removeprefix(_FORMAT)}" if name.startswith(_FORMAT) else printable(name)


def _filtered(rows: Sequence[Answered]) -> list[int]:
    find, flips = st.columns([2, 3], vertical_alignment="bottom")
    with find:
        text = st.text_input(
            "Find", key="asked_find", placeholder="words of question or answer", icon=":material/search:"
        )
    found = kept.counts(rows)
    counts = dict(zip(OUTCOMES, (found.gained, found.lost, found.kept_right, found.kept_wrong), strict=True))
    with flips:
        wanted = st.pills(
            "Only",
            list(OUTCOMES),
            selection_mode="multi",
            format_func=lambda outcome: f"{outcome} ({counts[outcome]})",
            key="asked_flips",
            help="How the run's answer differs from the base's. Nothing chosen shows all.",
        )
    return kept.matching(rows, text, wanted)


def _table(rows: Sequence[Answered], found: Sequence[int], name: str) -> None:
    shown = [rows[index] for index in found]
    event = st.dataframe(
        {
            "Change": [OUTCOMES[one.outcome] for one in shown],
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
