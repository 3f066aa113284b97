"""What a run learned and what it lost: the largest changes in held-out text, as token strips, in lists, by kind."""

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app import answers_view, measures_view, show, state
from app.pins import pin_button
from app.strip import Chip, token_strip
from app.words import plain, printable
from mixcpt import changes, charts, evaluated, measured
from mixcpt.changes import Changes, Line, Span, Token
from mixcpt.errors import MixcptError
from mixcpt.measured import Order
from mixcpt.palette import DOMAIN, GENERAL, NEUTRAL
from mixcpt.runs import Run
from mixcpt.score_jobs import has_adapter
from mixcpt.token_kinds import KINDS

_FULL = 2.0
"""Nats of change from which a token has its full colour."""
_PAGE = 10
_PARTS = {"": "All", "field": "The field", "general": "General text", "other": "Other text"}
_WHERE = {"field": "the field", "general": "general text", "other": "other text"}
_HELP = (
    "Text that the run never trained on, read by the base and by the run. Every token is coloured by how its loss "
    "changed: blue the run expects it more than the base did, orange less. Chosen is the sentence whose tokens changed "
    "most together. The largest of many changes is partly luck: the tab *Learned and lost* counts all of them."
)


def opening(run: Run) -> None:
    """What a finished run opens with; the way to it where its tokens were not measured yet."""
    try:
        found = changes.changes(run)
    except MixcptError as problem:
        show.error(problem)
        return
    if found is None:
        if has_adapter(run):
            _empty(run)
        return
    learned, lost = st.columns(2, gap="medium")
    with learned, st.container(border=True, height="stretch", gap="small"):
        _one(run, found, found.one_learned(), "One thing it learned", "learned")
    with lost, st.container(border=True, height="stretch", gap="small"):
        _one(run, found, found.one_lost(), "One thing it lost", "lost")


def _empty(run: Run) -> None:
    with st.container(border=True, gap="small"):
        st.markdown("**What did it learn, and what did it lose?**", help=_HELP)
        if job := measures_view.under_way([run]):
            measures_view.watch_measuring(job, key="changes_watch")
            return
        job = measured.latest(state.workspace(), [run.id])
        if job and job.state == "failed":
            st.error(f"The last measuring failed: {plain(job.status.message)}", icon=":material/error:")
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Show me",
                key="changes_measure",
                type="primary",
                icon=":material/compare:",
                on_click=_submit,
                args=(run,),
                help="Reads held-out text of its field and general text with the base and with this run.",
            )
            st.caption("Reads some held-out text with the base and with the run. Nothing is trained.", width="stretch")


@show.told
def _submit(run: Run) -> None:
    measured.submit(state.workspace(), [run], Order())
    st.toast("It is in the queue.", icon=":material/compare:")


def _one(run: Run, found: Changes, span: Span | None, title: str, key: str) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.markdown(f"#### {title}", help=_HELP, width="content")
        pin_button(run.info.experiment, "changes", [run.id], key=f"changes_pin_{key}", caption="")
    if span is None:
        better = "likelier" if key == "learned" else "less likely"
        st.caption(f"No sentence of the held-out text that was read became {better}.")
        return
    _strip(found, span, f"changes_strip_{key}")


def _strip(found: Changes, span: Span, key: str) -> None:
    """A sentence in its context, where it stands, and how much it changed."""
    tokens = found.in_context(span)
    chosen = token_strip(
        [_chip(token) for token in tokens],
        key=key,
        legend=[("expected more", DOMAIN), ("expected less", GENERAL), ("around it", NEUTRAL)],
        masked="not predicted",
    )
    if chosen is not None:
        st.markdown(f"“{plain(tokens[chosen].text.strip())}”: {plain(_detail(tokens[chosen]))}")
    st.caption(f"{plain(changes.words_of(span))}.  \n{plain(_place(span))}")


def _place(span: Span) -> str:
    kind = f", {span.kind}" if span.kind != span.part else ""
    return f"From {_WHERE.get(span.part, span.part)}{kind}: {span.source}, document {span.document}"


def _chip(token: Token) -> Chip:
    if token.base is None or token.run is None:
        return Chip(token.text, group=2, value=0.0, detail=_detail(token), is_faint=True)
    moved = token.run - token.base
    strength = min(abs(moved) / _FULL, 1.0)
    if not token.is_inside:
        return Chip(token.text, group=2, value=0.0, detail=_detail(token), is_faint=True)
    return Chip(token.text, group=int(moved > 0), value=strength, detail=_detail(token))


def _detail(token: Token) -> str:
    """What hovering over a token tells."""
    if token.base is None or token.run is None:
        return "the first token: nothing before it could predict it"
    return (
        f"base {token.base:.2f} nats ({changes.percent(token.base)}), this run {token.run:.2f} nats "
        f"({changes.percent(token.run)}): {token.run - token.base:+.2f}"
    )


# ---- the tab ---------------------------------------------------------------------------------------------------------


def page(run: Run) -> None:
    """All changes: sentence by sentence, by text and kind of token, and question by question."""
    found = changes.changes(run)
    if found is None:
        if has_adapter(run):
            st.caption("Nothing is known of single tokens yet: press *Show me* above.")
        else:
            st.caption("It can be shown once the run has its adapter: when it is done. A recorded run came without.")
    else:
        _lists(found)
        _summary(run, found)
    _questions(run)


def _lists(found: Changes) -> None:
    parts = [part for part in _PARTS if not part or any(text.part == part for text in found.texts)]
    part = st.segmented_control(
        "Text",
        parts,
        default="",
        required=True,
        format_func=_PARTS.__getitem__,
        key="changes_part",
        label_visibility="collapsed",
    )
    _list(found, found.learned(part or ""), "Became likelier", "learned")
    _list(found, found.lost(part or ""), "Became less likely", "lost")


def _list(found: Changes, spans: Sequence[Span], title: str, key: str) -> None:
    pages = max(1, -(-len(spans) // _PAGE))
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(f"{title}: {len(spans):,} sentences", anchor=False, width="content", help=_HELP)
        number = 1
        if pages > 1:
            number = st.number_input(f"Page of {pages:,}", 1, pages, 1, key=f"changes_page_{key}", width=130)
    if not spans:
        st.caption("None.")
        return
    shown = spans[(number - 1) * _PAGE : number * _PAGE]
    event = st.dataframe(
        {
            "Nats": [span.change for span in shown],
            "Sentence": [" ".join(printable(span.words).split()) for span in shown],
            "Text": [_WHERE.get(span.part, span.part) for span in shown],
            "Kind": [printable(span.kind) for span in shown],
            "Document": [printable(span.document) for span in shown],
            "Tokens": [span.tokens for span in shown],
            "Of all": [100 * span.share for span in shown],
        },
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"changes_{key}",
        column_config=_columns(key),
    )
    ticked = event["selection"]["rows"]
    if ticked and ticked[0] < len(shown):
        with st.container(border=True):
            _strip(found, shown[ticked[0]], f"changes_opened_{key}")


def _columns(key: str) -> dict[str, Any]:
    number, word = st.column_config.NumberColumn, "gained" if key == "learned" else "lost"
    return {
        "Nats": number(format="%+.2f", help="Change of the whole sentence, this run minus base."),
        "Sentence": st.column_config.TextColumn(width="large", help="Tick a row to read it token by token."),
        "Tokens": number(help="Tokens that were predicted in it."),
        "Of all": number(format="%.1f %%", help=f"Its share of all that the sentences of that text {word}."),
    }


def _summary(run: Run, found: Changes) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        st.subheader(
            "By text and by kind of token",
            anchor=False,
            width="content",
            help="Every token counts here, not only the largest changes. The field's own terms are single words that "
            "its corpus uses at least five times as often as general text does.",
        )
        pin_button(run.info.experiment, "change_kinds", [run.id], key="changes_pin_kinds")
    show.chart(charts.by_kind(found), key="changes_chart_kinds")
    number, lines = st.column_config.NumberColumn, found.lines
    interval = "95 % interval of the change, by drawing the documents again and again (paired bootstrap)."
    st.dataframe(
        {
            "Of": [_WHERE.get(line.part, line.part) for line in lines],
            "Tokens that are": [_line(line) for line in lines],
            "Base": [line.base for line in lines],
            "This run": [line.run for line in lines],
            "Change": [line.change for line in lines],
            "95 % from": [line.interval[0] for line in lines],
            "to": [line.interval[1] for line in lines],
            "So it": [line.verdict for line in lines],
            "Better": [100 * line.better for line in lines],
            "Worse": [100 * line.worse for line in lines],
            "Tokens": [line.tokens for line in lines],
            "Documents": [line.documents for line in lines],
        },
        hide_index=True,
        height="content",
        key="changes_lines",
        column_config={
            "Base": number(format="%.3f", help="Nats a token: how surprised the base is on average."),
            "This run": number(format="%.3f", help="Nats a token."),
            "Change": number(format="%+.3f", help="This run minus base: below zero is better."),
            "95 % from": number(format="%+.3f", help=interval),
            "to": number(format="%+.3f", help=interval),
            "Better": number(format="%.0f %%", help="Share of tokens whose loss fell by more than 0.1 nats."),
            "Worse": number(format="%.0f %%", help="Share of tokens whose loss rose by more than 0.1 nats."),
            "Tokens": number(format="localized"),
            "Documents": number(help="The interval rests on so many; of fewer than ten it is too narrow."),
        },
    )


def _line(line: Line) -> str:
    return KINDS.get(line.name) or f"all, {printable(line.name)}"


def _questions(run: Run) -> None:
    lines, formats = evaluated.lines(run, []), evaluated.format_lines(run)
    sets = answers_view.question_sets([line.task for line in lines], [one.template for one in formats])
    if sets:
        st.subheader("Questions gained, lost and kept", anchor=False)
        if answers_view.gained_and_lost(run, sets, key="changes_counts"):
            st.caption("Every question with both answers stands in the tab *Questions*.")
        else:
            st.caption("The answers to its questions were not kept with this run.")
