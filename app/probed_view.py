"""What a run's probes say: sentences it read beside sentences it never saw."""

import streamlit as st

from app.words import plain
from mixcpt.probed import Probed, Side, pairs
from mixcpt.runs import Run


def probed(run: Run) -> None:
    """A card for each corpus whose probes the run was asked."""
    for one in pairs(run):
        st.subheader("Learned by heart, or known beyond that?", anchor=False)
        with st.container(border=True):
            st.markdown(f"**{plain(one.corpus)}.** {plain(one.words())}")
            read, unseen = st.columns(2)
            with read:
                label = "Sentences of the training part" if one.read == 0 else "Sentences it read"
                _side(one.memorised, label, _read_words(one))
            with unseen:
                _side(
                    one.generalised,
                    "Sentences it never saw",
                    "The same terms, in sentences that were held out: what it knows of them beyond what it read.",
                )
            if one.more and one.read != 0:
                low, high = (100 * bound for bound in one.more[1])
                st.caption(
                    "The gain on sentences that it read, minus the gain on sentences that it never saw: "
                    f"{100 * one.more[0]:+.0f} percentage points (95 % interval {low:+.0f} to {high:+.0f}). "
                    f"Guessing scores {one.memorised.chance:.0%}."
                )


def _read_words(one: Probed) -> str:
    if one.read == 0:
        return "Terms in sentences of the corpus' training part, of which this run read none."
    if one.memorised.items == one.sentences:
        return "Terms in sentences of the training text."
    return (
        f"Terms in sentences of the training text: only the {one.memorised.items} of {one.sentences} that stand in "
        "what this run really read."
    )


def _side(side: Side, label: str, help: str) -> None:
    low, high = (100 * bound for bound in side.interval)
    st.metric(
        label,
        f"{side.base:.0%} → {side.final:.0%}",
        delta=f"{100 * side.gain:+.0f} points",
        delta_color="off" if side.change == 0 else "normal",
        help=help,
    )
    st.caption(f"{side.items} questions; the gain lies between {low:+.0f} and {high:+.0f} points (95 % interval).")
