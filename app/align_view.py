"""The form of the Align page: what a run of stage two continues, what it learns from, and how.

Every change goes to the draft on disk at once (`app.drafting`). The right-hand side is `app.launch_summary`; samples
are chosen in `app.align_samples`, and what the trainer will read stands in `app.align_batch`.
"""

import streamlit as st

from app import align_samples, drafting, forms, launch_summary, model_form, parents, run_form, show, state
from app.words import plain, printable
from mixcpt.align_drafts import Kind, begin, rebased, stage_after, suggested_name
from mixcpt.align_drafts import parents as continuable
from mixcpt.builtin import KINDS
from mixcpt.corpus import list_corpora
from mixcpt.drafts import AlignDraft
from mixcpt.errors import MixcptError
from mixcpt.palette import STAGE_NAMES
from mixcpt.presets import OPTIONS
from mixcpt.runs import Run, Runs
from mixcpt.stage_words import chain_words, reference_words, samples_words
from mixcpt.stages import Dpo

KEY = "align"
RUNS, LAUNCH = "../pages/runs.py", "../pages/launch.py"
_LINKS = ("parent", "selection", "stage")
_NOTE = "align_note"
_STAGES: dict[Kind, tuple[str, str]] = {
    "sft": (
        "SFT",
        "**Fine-tuning on answers:** the model reads a question and learns the answer that follows, and where it ends. "
        "So it learns the *form* of an answer; the knowledge comes from the stage before.",
    ),
    "dpo": (
        "DPO",
        "**Training on preferences:** the model sees two answers to one question and learns to find the better one "
        "likelier than the worse one. It comes after SFT.",
    ),
}


def current() -> AlignDraft:
    """The draft of this session; an address that names a run, a selection or a stage begins one with them."""
    if any(name in st.query_params for name in _LINKS):
        drafting.use(_linked())
    draft = drafting.current(AlignDraft, _first)
    if draft.parent is None or (state.workspace().runs / draft.parent / "run.json").is_file():
        return draft
    st.session_state[_NOTE] = f"The run {draft.parent} was deleted: choose what to continue instead."
    drafting.replace(draft.id, lambda draft: draft.model_copy(update={"parent": None}))
    return drafting.current(AlignDraft, _first)


def _linked() -> AlignDraft:
    """A draft as the address asks for it; what it names and is not there is told and left out."""
    asked = {name: st.query_params.get(name) for name in _LINKS}
    for name in _LINKS:
        st.query_params.pop(name, None)
    st.query_params.pop("draft", None)
    workspace, kind = state.workspace(), asked["stage"]
    stage: Kind | None = "dpo" if kind == "dpo" else "sft" if kind == "sft" else None
    try:
        parent = Runs(workspace).get(asked["parent"]) if asked["parent"] else _newest()
        return begin(workspace, stage_after(workspace, parent, stage, asked["selection"]), parent)
    except MixcptError as problem:
        st.session_state[_NOTE] = str(problem)
        return _first()


def _first() -> AlignDraft:
    workspace, parent = state.workspace(), _newest()
    return begin(workspace, stage_after(workspace, parent), parent)


def _newest() -> Run | None:
    """The run that one most likely wants to continue."""
    found = continuable(state.workspace())
    return Run(state.workspace().runs / found[0].id) if found else None


def parent_of(draft: AlignDraft) -> Run | None:
    return Runs(state.workspace()).get(draft.parent) if draft.parent else None


def basics(draft: AlignDraft, parent: Run | None) -> None:
    if note := st.session_state.pop(_NOTE, ""):
        st.warning(plain(note), icon=":material/search_off:")
    with st.container(border=True):
        _stage(draft)
        _parent(draft, parent)
    with st.container(border=True):
        align_samples.samples(draft, parent)
    with st.container(border=True):
        _training(draft, parent)
        left, right = st.columns(2)
        with left:
            run_form.experiment(draft, key=KEY)
        with right:
            run_form.name(draft, key=KEY, suggested=suggested_name(draft.stage, parent))
    run_form.fault(draft)


def _stage(draft: AlignDraft) -> None:
    st.segmented_control(
        "Stage",
        list(_STAGES),
        format_func=lambda kind: _STAGES[kind][0],
        **forms.bound(f"{KEY}_stage", draft.stage.stage, lambda kind: _rebase(draft.id, kind=kind)),
        required=True,
        help="Stage two of the Mix-CPT paper: format alignment. SFT first, then DPO on its result.",
    )
    st.caption(_STAGES[draft.stage.stage][1])


@show.told
def _rebase(draft_id: str, kind: Kind | None = None, parent: str | None = None) -> None:
    """To another stage, or to another run (`parents.BASE`: to the base)."""

    def based(draft: AlignDraft) -> AlignDraft:
        id = draft.parent if parent is None else parent
        run = Runs(state.workspace()).get(id) if id else None
        return rebased(state.workspace(), draft, kind or draft.stage.stage, run)

    drafting.replace(draft_id, based)


# What it continues


def _parent(draft: AlignDraft, parent: Run | None) -> None:
    found = continuable(state.workspace())
    labels = parents.labels(found)
    if parent and parent.id not in labels:  # it failed or was cancelled meanwhile: the findings tell
        labels[parent.id] = printable(parent.title)
    st.selectbox(
        "Run that it continues",
        list(labels),
        format_func=labels.__getitem__,
        **forms.bound(f"{KEY}_parent", draft.parent or parents.BASE, lambda id: _rebase(draft.id, parent=id)),
        help="Its adapter is trained on, so the result holds the whole chain. A run that is still in training is fine: "
        "this one waits for it.",
    )
    if parent:
        st.caption(f":material/account_tree: {plain(chain_words(parent))} → **{STAGE_NAMES[draft.stage.stage]}**")
        return
    if not found:
        st.caption("No run of yours can be continued yet. Train your field first, or align the base model itself.")
        st.page_link(LAUNCH, label="Launch a knowledge run", icon=":material/rocket_launch:")
    left, right = st.columns(2)
    with left:
        model_form.model(draft, key=KEY)
    with right:
        _field(draft)


def _field(draft: AlignDraft) -> None:
    """Without a run before it nothing says which field is measured."""
    own = [one.name for one in list_corpora(state.workspace()) if not one.name.startswith("builtin-")]
    kinds = {one.name: one.kind for one in list_corpora(state.workspace())}
    known = [name for name in [*KINDS, *own] if KINDS.get(name, kinds.get(name)) == "documents"]
    shown = (draft.stage.mixture.domain_sources() or ["builtin/atlas"])[0]

    def choose(field: str) -> None:
        source = {"source": field, "share": 1, "domain": True}
        drafting.change(draft.id, {"mixture.sources": [source]})

    st.selectbox(
        "Field that is measured",
        list(dict.fromkeys([*known, shown])),
        format_func=printable,
        **forms.bound(f"{KEY}_field", shown, choose),
        help="Nothing of it is read here. Its held-out part shows whether knowledge of it is lost.",
    )


# How it is trained


def _training(draft: AlignDraft, parent: Run | None) -> None:
    places = st.columns(3 if isinstance(draft.stage, Dpo) else 2)
    with places[0]:
        run_form.setting(draft, "training.learning_rate", key=KEY)
    with places[1]:
        run_form.setting(draft, "training.epochs", key=KEY)
    if isinstance(draft.stage, Dpo):
        with places[2]:
            run_form.setting(draft, "preference.beta", key=KEY)
        st.markdown(
            f":material/balance: **Reference:** {plain(_reference(draft, parent))}.",
            help="DPO asks how much likelier an answer became than it is under a frozen model, the reference. That is "
            "what this run starts from, with all that the chain has learned, never silently the base.",
        )


def _reference(draft: AlignDraft, parent: Run | None) -> str:
    assert isinstance(draft.stage, Dpo)
    return reference_words(state.workspace(), draft.stage, parent.id if parent else None)


_ON_THE_PAGE = {
    *("stage", "template", "training.learning_rate", "training.epochs", "preference.beta", "preference.reference"),
    *("samples.selection", "samples.source", "samples.rule.strategy", "samples.rule.score", "samples.rule.count"),
    *("model.name",),
}


def advanced(draft: AlignDraft) -> None:
    """Every other setting; what is taken over from the run before cannot be another here."""
    inherited = ("model", "adapter", "mixture") if draft.parent else ("mixture",)
    without = [*inherited, *(["preference"] if isinstance(draft.stage, Dpo) else [])]
    run_form.settings(draft, key=KEY, skip=_ON_THE_PAGE, without=without)


def summary(draft: AlignDraft, parent: Run | None) -> None:
    launch_summary.summary(draft, lambda: _about_run(draft, parent), parent)


def _about_run(draft: AlignDraft, parent: Run | None) -> None:
    """What it continues and learns from, in a few lines."""
    stage = draft.stage
    if parent:
        st.page_link(
            RUNS,
            label=f"Continues **{plain(parent.title)}**",
            icon=":material/account_tree:",
            query_params={"run": parent.id},
        )
    st.markdown(f"**Samples** · {plain(samples_words(stage))}")
    st.markdown(f"**Template** · {plain(OPTIONS['template'][stage.template])}")
    if isinstance(stage, Dpo):
        st.markdown(f"**Reference** · {plain(_reference(draft, parent))}")
