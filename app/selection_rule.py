"""How samples are chosen: the rule, the spread of the score with the chosen part coloured, and what it comes to."""

from functools import partial
from typing import Any

import streamlit as st

from app import forms, show
from app.selection_opened import Opened, change_rule, end_by
from app.selection_pins import heading
from app.words import count, plain
from mixcpt.choices import ending, reach
from mixcpt.errors import MixcptError
from mixcpt.palette import KIND_WORDS
from mixcpt.scores import SCORES
from mixcpt.selection import Counts, Histogram
from mixcpt.spread import score_histogram

_STRATEGIES = {"easiest": "Easiest", "hardest": "Hardest", "random": "Random", "all": "All", "by-hand": "By hand"}
_WORDS = {
    "easiest": "From the easy end of the score. What a model finds easy teaches it the format without new facts.",
    "hardest": "From the hard end of the score, to see the difference.",
    "random": "By chance: what any choice has to beat.",
    "all": "Every sample that can be trained on.",
    "by-hand": "Only what you keep yourself.",
}
_ENDS = {"count": "Samples", "tokens": "Tokens", "threshold": "Threshold", "": "No limit"}
_STEPS = 200
"""Places of the threshold slider."""


def rule(now: Opened) -> None:
    """The form of the rule. Every change goes to the choice on disk at once."""
    with st.container(border=True, height="stretch"):
        st.subheader("Choose", anchor=False)
        _strategy(now)
        _score(now)
        if now.choice.rule.strategy == "random":
            _number(now, "seed", "Seed", 0, "The same seed draws the same samples.")
        if now.choice.rule.strategy != "by-hand":
            _end(now)


def _strategy(now: Opened) -> None:
    present = now.choice.rule.strategy

    def choose(wanted: str) -> None:
        ends = {} if _by_score(wanted) else ending(now.selection, "count" if wanted == "random" else "")
        score = {} if now.choice.rule.score else {"score": now.score}
        change_rule(now.choice, strategy=wanted, **score, **ends)

    can = [name for name in _STRATEGIES if now.names or not _by_score(name)]
    st.segmented_control(
        "Which samples",
        [name for name in can if name != "by-hand" or present == "by-hand"],
        format_func=_STRATEGIES.__getitem__,
        **forms.bound("selection_strategy", present, choose),
        required=True,
        label_visibility="collapsed",
    )
    st.caption(_WORDS[present])


def _by_score(strategy: str) -> bool:
    return strategy in ("easiest", "hardest")


def _score(now: Opened) -> None:
    if not now.names:
        st.caption("These samples have no scores, so only chance can choose among them.")
        return

    def choose(score: str) -> None:
        threshold = {} if now.choice.rule.threshold is None else ending(now.selection, "count")
        change_rule(now.choice, score=score, **threshold)

    st.selectbox(
        "By this score" if _by_score(now.choice.rule.strategy) else "Score that is shown",
        now.names,
        format_func=lambda name: SCORES[name].label,
        **forms.bound("selection_score", now.score, choose),
        help=_scores_help(now),
    )
    score = SCORES[str(now.score)]
    st.caption(plain(f"{score.help} {score.easy.capitalize()} is easy."))


def _scores_help(now: Opened) -> str:
    lines = [f"**{plain(SCORES[name].label)}** {plain(SCORES[name].help)}" for name in now.names]
    nats = "A nat is 1.44 bits: a loss of 0.7 nats is a probability of one half."
    ours = "Our reading: the paper names this score, but its equation was not available to us."
    return "  \n".join([*lines, nats, *([ours] if any(SCORES[name].ours for name in now.names) else [])])


def _end(now: Opened) -> None:
    """What ends the rule, and how much of it."""
    rule = now.choice.rule
    present = next((name for name in ("count", "tokens", "threshold") if getattr(rule, name) is not None), "")
    can = [name for name in _ENDS if name != "threshold" or _by_score(rule.strategy)]
    st.segmented_control(
        "Up to",
        can,
        format_func=_ENDS.__getitem__,
        **forms.bound("selection_end", present, lambda end: end_by(now, end)),
        required=True,
        help="What ends the choice: so many samples, a budget of tokens that training will read, or a value of the "
        "score. A click on another one keeps what is chosen now.",
    )
    if present == "count":
        _number(now, "count", "Samples", 1, "Takes so many and no more.")
    elif present == "tokens":
        _number(now, "tokens", "Tokens", 1, "Takes samples in order until one does not fit.")
    elif present == "threshold":
        _exactly(now)


def _number(now: Opened, part: str, label: str, least: int, help: str) -> None:
    present = getattr(now.choice.rule, part)
    st.number_input(
        label,
        min_value=least,
        step=1,
        **forms.bound(f"selection_{part}", present, lambda number: change_rule(now.choice, **{part: number})),
        help=help,
    )


def _exactly(now: Opened) -> None:
    """The threshold as a number, for those who know it."""
    present = float(now.choice.rule.threshold or 0.0)
    st.number_input(
        "Last value that is taken",
        format="%.6g",
        step=None,
        **forms.bound("selection_threshold", present, lambda end: change_rule(now.choice, threshold=float(end))),
        help="The slider under the chart moves it.",
    )


# ---- the spread ------------------------------------------------------------------------------------------------------


def spread(now: Opened) -> None:
    """The histogram of the score, and under it the slider of the threshold."""
    with st.container(border=True, height="stretch"):
        heading(
            now,
            "How the score is spread",
            chart="selection",
            help="Each bar is a range of the score, as high as samples fall into it. The coloured part is chosen. The "
            "last bar holds the highest hundredth, which may lie far to the right.",
        )
        if now.score is None:
            st.caption("There is no score to show.")
            return
        show.chart(score_histogram(now.selection, now.score), key="selection_histogram")
        _slider(now, now.selection.histogram(now.score))


def _slider(now: Opened, found: Histogram) -> None:
    """It stands where the rule ends, however that is told; moving it makes it a threshold."""
    score = now.choice.rule.score
    if not _by_score(now.choice.rule.strategy) or score is None or now.score != score or not found.counts:
        return
    low, width = found.edges[0], found.edges[1] - found.edges[0]
    high = low + width * len(found.counts)
    if found.edges[-1] == low:
        st.caption("All samples have the same value, so no threshold parts them.")
        return
    present = min(max(float(reach(now.selection) or low), low), high)

    def move(place: float) -> None:
        threshold = found.edges[-1] if place >= high - width / _STEPS else place
        change_rule(now.choice, **dict.fromkeys(("count", "tokens")), threshold=float(threshold))

    st.slider(
        f"Threshold: {plain(SCORES[score].title)}",
        min_value=low,
        max_value=high,
        step=(high - low) / _STEPS,
        format="%.3f" if high < 100 else "%.1f",
        **forms.bound(f"selection_slider~{low:g}~{high:g}", present, move),
        help="Takes samples up to here, from the easy end (or, for the hardest, from the other end).",
    )


# ---- what it comes to ------------------------------------------------------------------------------------------------


def figures(now: Opened) -> None:
    """What the choice comes to, live."""
    try:
        counts = now.selection.counts()
    except MixcptError as problem:  # the score is not among these any more
        show.error(problem)
        return
    with st.container(border=True):
        for place, (label, value, help) in zip(st.columns([3, 2, 2, 2, 2, 2]), _tiles(now, counts), strict=True):
            place.metric(label, value, help=help)
        _excluded(counts)


def _tiles(now: Opened, counts: Counts) -> list[tuple[str, str, str]]:
    kind = KIND_WORDS[now.selection.kind]
    left_out = sum(counts.excluded.values()) + counts.unscored
    return [
        ("Chosen", f"{count(counts.chosen)} of {count(counts.candidates)}", f"Of the {kind} that can be trained on."),
        ("Tokens", count(counts.tokens), "What one pass of training over the chosen samples reads."),
        ("In answers", count(counts.answer_tokens), "Those of them that are learned: of pairs, of the chosen answers."),
        ("Kept", count(counts.kept_by_hand), "By hand, whatever the rule says."),
        ("Discarded", count(counts.discarded_by_hand), "By hand, whatever the rule says."),
        ("Left out", count(left_out), "Samples that cannot be trained on, or do not have this score."),
    ]


def _excluded(counts: Counts) -> None:
    if counts.unscored:
        st.caption(f"{count(counts.unscored)} without this score.")
    if not counts.excluded:
        return
    reasons = sorted(counts.excluded.items(), key=lambda item: -item[1])
    with st.expander(f"Why {count(sum(counts.excluded.values()))} are left out"):
        rows: list[dict[str, Any]] = [{"Samples": number, "Reason": reason} for reason, number in reasons]
        st.dataframe(rows, hide_index=True, key="selection_reasons", column_config={"Samples": _narrow()})


_narrow = partial(st.column_config.NumberColumn, width=90, format="localized")
