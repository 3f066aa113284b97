"""What the trainer of stage two will read first, token by token, and what of it is learned: the label mask.

The samples are those of the run itself, rendered by the same code; only where a score chooses them, and the scoring is
still to be done, others of the same source stand in for them, and the page says so.
"""

from collections.abc import Sequence
from functools import partial

import streamlit as st

from app import state
from app.strip import Chip, token_strip
from app.words import plain, printable
from mixcpt import label_mask
from mixcpt.builtin import find_source
from mixcpt.drafts import AlignDraft
from mixcpt.errors import MixcptError, NotFound
from mixcpt.label_mask import MaskedToken, masked
from mixcpt.modelstore import find_folder
from mixcpt.palette import KINDS, NEUTRAL
from mixcpt.runs import Run
from mixcpt.samples import Batch, Sample, preview_batch
from mixcpt.settings import to_yaml
from mixcpt.stage_words import template_of_chain, template_words
from mixcpt.stages import Sft
from mixcpt.stamps import stamp
from mixcpt.tokens import TextTokenizer

AT_ONCE = 2_000
"""Samples that are rendered without being asked; a larger source is read at a click."""
_STRIP_PIXELS = 460
_ANSWERS = {"sft": ("learned",), "dpo": ("chosen, compared", "rejected, compared")}
_COLOURS = {"sft": (KINDS["instructions"],), "dpo": (KINDS["instructions"], KINDS["preferences"])}


def first_batch(draft: AlignDraft, parent: Run | None) -> None:
    st.subheader(
        "What the trainer reads first",
        anchor=False,
        help="The first step of this run as it will be: every token that the model reads, and the label mask, which "
        "says what it is asked to predict.",
    )
    if find_folder(state.workspace(), draft.stage.model.name) is None:
        st.caption("It is shown once the model, whose tokenizer cuts the text, is here.")
        return
    if not _is_small(draft) and not st.session_state.get(_asked(draft)):
        st.caption("This source is large, so its samples are cut into tokens only when you ask for it.")
        st.button(
            "Show the first samples",
            key="align_show",
            icon=":material/visibility:",
            on_click=partial(st.session_state.__setitem__, _asked(draft), True),
        )
        return
    try:
        batch = _batch(draft, parent)
    except MixcptError as problem:
        st.info(plain(problem), icon=":material/info:")
        return
    _show(draft, batch)


def _asked(draft: AlignDraft) -> str:
    return f"align_asked_{draft.stage.samples.source}"


def _is_small(draft: AlignDraft) -> bool:
    samples = draft.stage.samples
    if samples.selection is not None or (samples.candidates or AT_ONCE + 1) <= AT_ONCE:
        return True
    if samples.rule.strategy in ("easiest", "hardest"):
        return True  # a few candidates stand in for them
    try:
        found = find_source(state.workspace(), samples.source)
    except NotFound:
        return True  # said below
    return found is None or found.manifest.split.train.documents <= AT_ONCE


def _batch(draft: AlignDraft, parent: Run | None) -> Batch:
    """Kept for all sessions by all that it depends on. A parent in training has saved no template yet; it will be that
    of its chain."""
    workspace, stage = state.workspace(), draft.stage
    adapter = parent.adapter / "chat_template.jinja" if parent else None
    if parent and stage.template == "auto" and not (adapter and adapter.is_file()):
        stage = stage.model_copy(update={"template": template_of_chain(parent)})
    samples = stage.samples
    where = (
        workspace.root / "selections" / samples.selection / "selection.json"
        if samples.selection
        else workspace.corpora / samples.source.replace("/", "-") / "manifest.json"
    )
    stamps = (stamp(str(where)), stamp(str(adapter)) if adapter else None)
    return _read(str(workspace.root), to_yaml(stage), parent.id if parent else "", stamps, stage, parent)


@st.cache_resource(show_spinner="Cutting samples into tokens …", max_entries=32)
def _read(root: str, settings: str, parent: str, stamps: object, _stage: Sft, _parent: Run | None) -> Batch:
    return preview_batch(state.workspace(), _stage, _parent)


def _show(draft: AlignDraft, batch: Batch) -> None:
    st.markdown(f"{_what(batch)} {plain(label_mask.words(batch))}")
    if batch.left_out:
        st.caption(
            f"{len(batch.left_out):,} of the samples cannot be trained on and are left out, the first because "
            f"{plain(next(iter(batch.left_out.values())))}."
        )
    number = 0
    if len(batch.samples) > 1:
        number = st.segmented_control(
            "Sample",
            list(range(len(batch.samples))),
            default=0,
            format_func=lambda place: f"Sample {place + 1}",
            required=True,
            key=f"align_sample_{len(batch.samples)}",
            label_visibility="collapsed",
        )
    _sample(draft.stage.stage, batch.samples[number], batch.template.tokenizer)


def _what(batch: Batch) -> str:
    many = "one sample" if len(batch.samples) == 1 else f"{len(batch.samples)} samples"
    under = f"under the template **{plain(template_words(batch.template.name))}**"
    if batch.certain:
        all_of_them = f" of {batch.epoch_samples:,}" if batch.epoch_samples else ""
        return f"The first step: {many}{all_of_them}, {under}."
    return (
        f"The score chooses when the run starts, so {many} of the source stand in for those of the first step, {under}."
    )


def _sample(stage: str, sample: Sample, tokenizer: TextTokenizer) -> None:
    """One sample as chips, a block for each of its answers with what comes before it."""
    answers = [masked(sample, number, tokenizer) for number in range(len(sample.answers))]
    tokens = [(number, token) for number, answer in enumerate(answers) for token in answer]
    names, rest = _ANSWERS[stage], len(answers)
    chips = [
        Chip(
            text=token.text,
            group=number if token.is_learned else rest,
            block=number,
            detail=f"token {token.id}: {_role(token)}",
            is_end=token.is_end,
            is_masked=not token.is_learned,
        )
        for number, token in tokens
    ]
    legend = [*zip(names, _COLOURS[stage], strict=True), ("question and turn marks", NEUTRAL)]
    strip, detail = st.columns([7, 3], gap="medium")
    with strip:
        chosen = token_strip(
            chips,
            key=f"align_strip_{sample.id}_{hash(tuple(token.id for _, token in tokens))}",
            legend=legend,
            headings=[_heading(names[number], answer) for number, answer in enumerate(answers)],
            height=_STRIP_PIXELS,
        )
    with detail, st.container(border=True):
        _detail(None if chosen is None else tokens[chosen][1])
    with st.expander("As text, under the template", icon=":material/article:"):
        for number, answer in enumerate(sample.answers):
            if len(sample.answers) > 1:
                st.caption(names[number].partition(",")[0].capitalize())
            st.code(printable(tokenizer.decode(answer.ids.tolist())), language=None, wrap_lines=True)


def _heading(name: str, answer: Sequence[MaskedToken]) -> str:
    return f"{name}: {sum(token.is_learned for token in answer):,} of {len(answer):,} tokens"


def _detail(token: MaskedToken | None) -> None:
    if token is None:
        st.markdown(
            "**Click a token** to see what the model is asked to do with it. The arrow keys move on from there."
        )
        return
    st.text(repr(printable(token.text)))
    st.markdown(f"**Token**  {token.id}")
    st.caption(f"{_role(token)[:1].upper()}{_role(token)[1:]}.")


def _role(token: MaskedToken) -> str:
    if token.is_end:
        return "the end of the answer, learned too: so the model learns when to stop"
    if token.is_learned:
        return "learned: the model is asked to predict it from all that stands before it"
    return "read, not learned: its label is -100, so nothing is asked about it"
