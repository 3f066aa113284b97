"""Where two scores disagree: a cloud of samples by two scores, how alike the scores order them, and the most contested.

For teaching as much as for choosing: the answers that are hard only under the template stand far from the line.
"""

from typing import Any

import streamlit as st

from app import show
from app.selection_opened import SAMPLE, Opened
from app.selection_pins import heading
from app.words import plain
from mixcpt.ranks import contested, correlations, of_one_order
from mixcpt.scores import SCORES
from mixcpt.spread import agreement, pair_of, score_scatter

VIEW = "view"
SAMPLES, SCORES_VIEW = "Samples", "Where scores disagree"
_MOST = 30


def view() -> str:
    """Samples, or where scores disagree; stands in the address."""
    chosen = st.segmented_control(
        "View",
        [SAMPLES, SCORES_VIEW],
        default=SAMPLES,
        required=True,
        key=VIEW,
        bind="query-params",
        label_visibility="collapsed",
    )
    return chosen or SAMPLES


def disagreement(now: Opened) -> None:
    if len(now.names) < 2:
        show.empty(
            "There are not two scores to compare",
            "Score the source again with a chat template and with all three readings: then each sample has several.",
        )
        return
    one, other = _two(now)
    left, right = st.columns(2, gap="medium")
    with left, st.container(border=True, height="stretch"):
        _cloud(now, one, other)
    with right, st.container(border=True, height="stretch"):
        _agreement(now)
    _contested(now, one, other)


def _two(now: Opened) -> tuple[str, str]:
    first, second = pair_of(now.names)
    left, right = st.columns(2)
    one = left.selectbox(
        "Across",
        now.names,
        index=now.names.index(first),
        format_func=lambda name: SCORES[name].label,
        key="selection_across",
        persist_state="session",
    )
    other = right.selectbox(
        "Up",
        now.names,
        index=now.names.index(second),
        format_func=lambda name: SCORES[name].label,
        key="selection_up",
        persist_state="session",
    )
    return one, other


def _cloud(now: Opened, one: str, other: str) -> None:
    heading(
        now,
        "Each sample by two scores",
        chart="disagreement",
        help="Coloured are the chosen ones. Of losses in the same unit the dotted line is where both are the same; of "
        "loss with and without template a dashed line is the threshold of the format alignment score: its slope.",
    )
    event = show.chart(
        score_scatter(now.selection, one, other, _ratio(now, one, other)), key="selection_cloud", select=True
    )
    st.caption("Click a point to open its sample.")
    _open_clicked(now, event)


def _ratio(now: Opened, one: str, other: str) -> float | None:
    """The threshold of the format alignment score is a slope in this plane."""
    rule = now.choice.rule
    here = (one, other) == ("loss_plain", "loss_template") and rule.score == "alignment_response"
    return rule.threshold if here else None


def _open_clicked(now: Opened, event: Any) -> None:
    for point in event["selection"]["points"]:
        data = point.get("customdata")
        sample = now.sample(str(data[0] if isinstance(data, list) else data))
        if sample:
            st.button(
                f"Open: {plain(sample.question[:60])}",
                key="selection_cloud_open",
                icon=":material/open_in_new:",
                on_click=_open,
                args=(sample.id,),
            )
            return


def _open(id: str) -> None:
    st.query_params[SAMPLE] = id
    st.session_state[VIEW] = SAMPLES


def _agreement(now: Opened) -> None:
    heading(
        now,
        "How alike they order the samples",
        chart="agreement",
        help="Spearman's rank correlation, from the easy end to the hard one: 1 is the same order, 0 no relation, −1 "
        "the opposite order.",
    )
    names = of_one_order(now.names)
    show.chart(agreement(names, correlations(now.begun.samples, names)), key="selection_agreement")
    notes = ["A perplexity orders as its loss does."] if len(names) < len(now.names) else []
    notes += ["\\* our reading of the paper."] if any(SCORES[name].ours for name in names) else []
    if notes:
        st.caption(" ".join(notes))


def _contested(now: Opened, one: str, other: str) -> None:
    st.subheader(
        "Most contested",
        anchor=False,
        help="The samples whose places in the two orders lie farthest apart; 0 % is the easiest of all, 100 % the "
        "hardest.",
    )
    if one == other:
        st.caption("A score agrees with itself: choose two.")
        return
    found = contested(now.begun.samples, one, other, _MOST)
    places = {sample.id: place for place, sample in enumerate(now.begun.samples)}
    names = [SCORES[name].short for name in (one, other)]
    rows = [
        {
            "Question": now.texts.questions[places[row.sample.id]],
            "one": 100 * row.one,
            "other": 100 * row.other,
            "Apart": 100 * row.gap,
            "Answer": now.texts.answers[places[row.sample.id]],
        }
        for row in found
    ]
    column = st.column_config

    def choose() -> None:
        selection = st.session_state["selection_contested"]["selection"]
        clicked = [row for row, _ in selection["cells"]] or selection["rows"]
        if clicked:
            _open(found[clicked[0]].sample.id)

    st.dataframe(
        rows,
        key="selection_contested",
        hide_index=True,
        on_select=choose,
        selection_mode=["single-row", "single-cell"],
        column_config={
            "Question": column.TextColumn(width=300, help="Click a row to open the sample."),
            "one": column.NumberColumn(f"by {names[0]}", format="%.0f %%", width=165),
            "other": column.NumberColumn(f"by {names[1]}", format="%.0f %%", width=165),
            "Apart": column.NumberColumn(format="%+.0f", width=70, help="In percent of the samples."),
            "Answer": column.TextColumn(width=300),
        },
    )
