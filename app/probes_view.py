"""Probes on the Corpora page: the questions that can be made of a corpus, and what blind strategies score on them."""

import streamlit as st

from app import show, state
from app.prepared import prepared, start
from app.words import plain, printable
from mixcpt.corpus import Corpus
from mixcpt.errors import MixcptError
from mixcpt.launching import preparing
from mixcpt.probes import ITEMS, SIDES, Probe, Probes, is_made, make

_WORDS = {"memorised": "A sentence of the training text", "generalised": "A sentence of the held-out text"}
_HEIGHT = 320


def probes(corpus: Corpus) -> None:
    """Makes them when asked, for a large corpus takes minutes; afterwards they open at once."""
    st.markdown(
        "Questions made of this corpus' own sentences, without any model: which word comes next? Each term is "
        "asked twice, in a sentence that training may read and in one that is held out, so a run shows what it "
        "**learned by heart** and what it **knows beyond that**."
    )
    items, seed, _ = st.columns([1, 1, 3])
    with items:
        wanted = st.number_input(
            "Questions per set", min_value=1, value=ITEMS, key="probes_items", help="More tell more and take longer."
        )
    with seed:
        number = st.number_input("Seed", min_value=0, value=0, key="probes_seed", help="Another seed asks others.")
    payload = {"corpus": corpus.folder.name, "items": int(wanted), "seed": int(number)}
    if is_made(corpus, int(wanted), int(number)):
        try:
            _made(make(corpus, int(wanted), int(number)), corpus)
        except MixcptError as problem:
            show.error(problem)
    elif job := preparing(state.workspace(), "probes", **payload):
        prepared(job, "probes", "Making questions", "Try again", **payload)
    else:
        st.button(
            "Make them",
            key="probes_make",
            type="primary",
            icon=":material/quiz:",
            on_click=start,
            args=("probes",),
            kwargs=payload,
            help="Seconds for a small corpus, about a minute for one of 30 MB; of a larger one a part is read.",
        )


def _made(made: Probes, corpus: Corpus) -> None:
    asked = f"probes:{corpus.folder.name}"
    st.caption(
        f"{len(made.probes)} terms. To ask a run these questions, name **{plain(asked)}** among its question sets; "
        "**probes** alone means those of the run's own field."
    )
    _checks(made)
    st.subheader("The questions", anchor=False)
    event = st.dataframe(
        {
            "Term": [printable(one.term) for one in made.probes],
            "Held-out sentence": [printable(f"{one.generalised['question']} ____") for one in made.probes],
            "Other choices": [
                printable(", ".join(choice for choice in one.choices if choice != one.term)) for one in made.probes
            ],
        },
        hide_index=True,
        height=_HEIGHT,
        on_select="rerun",
        selection_mode="single-row",
        key="probes_table",
    )
    st.caption("Tick a row to read it whole.")
    ticked = event["selection"]["rows"]
    _opened(made.probes[ticked[0] if ticked and ticked[0] < len(made.probes) else 0])


def _checks(made: Probes) -> None:
    st.subheader("Can they be guessed?", anchor=False)
    off = [check.strategy for check in made.checks if not check.is_at_chance]
    if off:
        st.warning(f"Better or worse than chance: {plain(', '.join(off))}.", icon=":material/warning:")
    else:
        left_out = f" {made.refused} questions were left out for it." if made.refused else ""
        st.markdown(f"No: place, length and frequency alone score what guessing scores.{left_out}")
    percent = st.column_config.NumberColumn
    st.dataframe(
        {
            "Always": [check.strategy for check in made.checks],
            "Right": [100 * check.accuracy for check in made.checks],
            "95 % interval": [
                f"{100 * check.interval[0]:.0f} to {100 * check.interval[1]:.0f} %" for check in made.checks
            ],
            "Guessing": [100 * check.chance for check in made.checks],
        },
        hide_index=True,
        width="content",
        key="probes_checks",
        column_config={
            "Always": st.column_config.TextColumn(
                help="Which choice is always taken: that in a place, the longest or shortest, or that whose term is "
                "the most frequent or rarest in the training text."
            ),
            "Right": percent(format="%.1f %%"),
            "95 % interval": st.column_config.TextColumn(help="Where it would lie with other questions of the kind."),
            "Guessing": percent(format="%.0f %%", help="What choosing blindly would score."),
        },
    )


def _opened(one: Probe) -> None:
    with st.container(border=True):
        for side in SIDES:
            asked = getattr(one, side)
            st.caption(_WORDS[side])
            st.text(printable(f"{asked['question']} ____{asked['rest']}"))
        for choice, times in zip(one.choices, one.counts, strict=True):
            mark = ":material/check:" if choice == one.term else ":material/remove:"
            st.markdown(f"{mark} {plain(choice)} :gray[({times} times in the training text)]")
