"""The right-hand side of the Mixture page: what the shares come to, and the rows as the model will read them."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import streamlit as st

from app import show, state
from app.prepared import prepared
from app.strip import Chip, token_strip
from app.words import count, plain, printable
from mixcpt import charts, mixture
from mixcpt.builtin import fingerprint
from mixcpt.config import MixtureConfig
from mixcpt.drafts import Draft
from mixcpt.errors import MixcptError
from mixcpt.launching import prepare, preparing
from mixcpt.mixture import Mixture, SourceReport
from mixcpt.modelstore import BUILTIN_MODELS, find_folder
from mixcpt.palette import source_colour
from mixcpt.preview import PreviewSegment, PreviewToken, RowPreview, excerpt, origin, preview, readings
from mixcpt.settings import to_yaml
from mixcpt.tokens import TextTokenizer

_ROW = "mixture_row"
_STRIP_PIXELS = 460
LAUNCH = "../pages/launch.py"


@st.cache_resource(show_spinner=False, max_entries=4)
def _tokenizer(folder: str) -> TextTokenizer:
    return TextTokenizer.from_folder(Path(folder))


@st.cache_resource(show_spinner=False, max_entries=12)
def _realised(
    root: str, config: str, validation: bool, texts: tuple[str, ...], _mixture: MixtureConfig, _by: TextTokenizer
) -> Mixture:
    """Kept by the settings, the texts and the tokenizer, for all sessions."""
    return mixture.realise(state.workspace(), _mixture, _by, validation=validation)


def realised(draft: Draft) -> tuple[Mixture, TextTokenizer] | None:
    """The draft's mixture, as the trainer will realise it; None, with the reason on the page, while its sources are
    being tokenised or where it cannot be had."""
    try:
        return _found(draft)
    except MixcptError as problem:  # a source was deleted, or has nothing to draw from
        show.error(problem)
        return None


def _found(draft: Draft) -> tuple[Mixture, TextTokenizer] | None:
    workspace, config, model = state.workspace(), draft.stage.mixture, draft.stage.model.name
    texts = tuple(fingerprint(workspace, name) for name in sorted(config.target_tokens()))
    folder = find_folder(workspace, model)
    tokenizer = _tokenizer(str(folder)) if folder else None
    if tokenizer is None or not mixture.is_ready(workspace, config, tokenizer):
        _wait(config, model, texts, fetched=folder is not None)
        return None
    validation = draft.stage.measures.on == "validation"
    key = (str(workspace.root), to_yaml(config), validation, (*texts, tokenizer.fingerprint))
    return _realised(*key, config, tokenizer), tokenizer


def _wait(config: MixtureConfig, model: str, texts: Sequence[str], fetched: bool) -> None:
    """Submits one job for these texts, however often the page is drawn; whether to try again is left to the reader."""
    payload = {"model": model, **mixture.needs(config), "texts": list(texts)}
    job = preparing(state.workspace(), "prepare", **payload) or prepare(state.workspace(), "prepare", **payload)
    patience = f"; {BUILTIN_MODELS[model].patience}, once" if model in BUILTIN_MODELS and not fetched else ""
    doing = "Cutting the sources into tokens" if fetched else f"Fetching the tokenizer of {model}{patience}"
    with st.container(border=True):
        st.subheader("Preparing the preview", anchor=False)
        prepared(job, "prepare", doing, "Try again", **payload)


def outcome(found: Mixture) -> None:
    """What the shares come to: tokens, rows, and how often each source is read."""
    reports = found.report()
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.subheader("What it comes to", anchor=False, width="content")
            st.page_link(LAUNCH, label="**Go on to launch**", icon=":material/rocket_launch:", width="content")
        tokens, rows, full = st.columns(3)
        tokens.metric("Tokens", count(found.tokens), help="What the model reads in all, repetitions counted.")
        rows.metric("Rows", count(len(found)), help=f"Of up to {found.config.row_tokens} tokens each.")
        full.metric(
            "Filled", f"{100 * found.fullness:.1f} %", help="The rest of the rows is padding, which is not read."
        )
        show.chart(charts.shares(reports), key="mixture_shares")
        st.markdown("  \n".join(f":small[{_sentence(report)}]" for report in reports))


def _sentence(report: SourceReport) -> str:
    return (
        f"**{plain(report.source)}** {readings(report.epochs)}: {count(report.tokens)} of "
        f"{count(report.available_tokens)} tokens, {count(report.documents)} of "
        f"{count(report.available_documents)} documents"
    )


@st.fragment
def rows(found: Mixture, tokenizer: TextTokenizer) -> None:
    """The rows, one at a time, token by token. Turning the pages redraws nothing else."""
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="bottom"):
        st.subheader("What the model reads", anchor=False, width="content")
        number = _choose_row(len(found))
    seen = preview(found, tokenizer, number)
    st.markdown(
        f"This is exactly row {count(number + 1)} of {count(len(found))}, in the order of training: "
        f"{count(len(seen.tokens))} tokens from {len(seen.segments)} "
        f"{'piece of a document' if len(seen.segments) == 1 else 'pieces of documents'}.",
        help="Pieces are packed into one row to waste no room. They do not see each other: attention and positions "
        "begin anew with each. The token 'end' tells the model that a document is over. The first token of a piece is "
        "read but not learned, for nothing before it could predict it.",
    )
    strip, detail = st.columns([7, 3], gap="medium")
    with strip:
        chosen = _strip(found, seen)
    with detail:
        _detail(seen, chosen)
    _origins(found, seen, seen.tokens[chosen].segment if chosen is not None else 0)


def _choose_row(total: int) -> int:
    """The number of the row, from 0; kept in the session while the page is left and found again."""
    current: int = min(st.session_state.get(_ROW, 1), total)
    st.session_state[_ROW] = current
    with st.container(horizontal=True, vertical_alignment="bottom", gap="xsmall", width="content"):
        st.number_input(
            "Row", 1, total, key=_ROW, width=140, persist_state="session", help="Rows are read in this order."
        )
        for label, icon, target in (
            ("Previous", "chevron_left", max(1, current - 1)),
            ("Next", "chevron_right", min(total, current + 1)),
            ("Random", "shuffle", random.randint(1, total)),
        ):
            st.button(
                label,
                key=f"mixture_{label.lower()}",
                icon=f":material/{icon}:",
                disabled=target == current and label != "Random",
                on_click=partial(_go, target),
            )
    return current - 1


def _go(row: int) -> None:
    st.session_state[_ROW] = row


def _strip(found: Mixture, seen: RowPreview) -> int | None:
    legend = list(dict.fromkeys((one.source, source_colour(one.kind, one.domain)) for one in seen.segments))
    group = {name: number for number, (name, _) in enumerate(legend)}
    chips = [
        Chip(
            text=token.text,
            group=group[seen.segments[token.segment].source],
            block=token.segment,
            detail=f"token {token.id}, position {token.position}",
            is_end=token.is_end,
            is_begin=token.is_begin,
            is_masked=token.is_masked,
        )
        for token in seen.tokens
    ]
    headings = [_heading(segment) for segment in seen.segments]
    key = f"mixture_strip_{seen.number}_{seen.fingerprint}"
    return token_strip(chips, key=key, legend=legend, headings=headings, height=_STRIP_PIXELS)


def _heading(segment: PreviewSegment) -> str:
    part = f", from token {segment.start:,}" if segment.start else ""
    again = f", reading {segment.reading}" if segment.reading > 1 else ""
    return f"{segment.source} · document {segment.document + 1:,}{part}{again} · {segment.tokens:,} tokens"


def _detail(seen: RowPreview, chosen: int | None) -> None:
    with st.container(border=True):
        if chosen is None:
            st.markdown("**Click a token** to see where it comes from. The arrow keys move on from there.")
            if seen.room:
                places = "place of this row stays" if seen.room == 1 else "places of this row stay"
                st.caption(f"{count(seen.room)} {places} empty: no piece was left that fits.")
            return
        token = seen.tokens[chosen]
        segment = seen.segments[token.segment]
        st.text(repr(printable(token.text)))
        facts = {
            "Token": f"{token.id}, number {chosen + 1} of the row",
            "Position": f"{token.position} in its piece",
            "Source": segment.source,
            "Document": f"{segment.document + 1}, {segment.name}",
            "Reading": f"number {segment.reading} of this document",
        }
        st.markdown("  \n".join(f"**{name}**  {plain(value)}" for name, value in facts.items()))
        st.caption(_role(token))


def _role(token: PreviewToken) -> str:
    if token.is_begin:
        return "The model's own mark that a text begins. It is read, but not learned."
    if token.is_masked:
        return (
            "Read, but not learned: it is the first of its piece, so nothing before it could predict it (label -100)."
        )
    if token.is_end:
        return "The end of the document. The model learns to predict it: so it learns when to stop."
    return "Learned: the model is asked to predict it from the tokens of its piece before it."


def _origins(found: Mixture, seen: RowPreview, number: int) -> None:
    """The document of the chosen piece, as it came and as it is read."""
    segment = seen.segments[number]
    whole = origin(found, segment)
    name = f"{segment.source}, document {segment.document + 1:,}: {segment.name}"
    st.markdown(f"**Where it comes from:** {plain(name)}")
    raw, unified = st.columns(2, gap="medium")
    with raw, st.container(border=True, height=320):
        st.caption("The record as it came")
        for role, text in whole.turns:
            st.markdown(f"**{plain(role)}**")
            _text(text, whole.place)
    with unified, st.container(border=True, height=320):
        st.caption("The plain text that is trained on")
        _text(whole.unified, whole.place)


def _text(text: str, place: float) -> None:
    """A document as text; of a long one the part around the piece."""
    part = excerpt(text, place)
    if len(part.text) < part.total:
        end = part.start + len(part.text)
        st.caption(f"Characters {count(part.start + 1)} to {count(end)} of {count(part.total)}, around this piece.")
    st.text(printable(part.text))
