"""What a run of the knowledge stage starts from: the base, or a run whose adapter it trains on with another corpus."""

import streamlit as st

from app import drafting, forms, parents, run_form, show, state
from app.words import plain, printable
from mixcpt.align_drafts import can_be_continued
from mixcpt.builtin import KINDS
from mixcpt.corpus import list_corpora
from mixcpt.drafts import Draft
from mixcpt.errors import MixcptError
from mixcpt.further import begin, rebased, with_field
from mixcpt.overview import overview
from mixcpt.runs import Run, Runs
from mixcpt.stage_words import chain_words

_LINK, _NOTE = "parent", "launch_start_note"


def linked() -> Draft | None:
    """A new draft where the address names a run to continue (?parent=ID); a run that is not there is told."""
    id = st.query_params.get(_LINK)
    if not id:
        return None
    for name in (_LINK, "draft"):
        st.query_params.pop(name, None)
    try:
        return begin(state.workspace(), Runs(state.workspace()).get(id))
    except MixcptError as problem:
        st.session_state[_NOTE] = str(problem)
        return None


def present(draft: Draft) -> Draft:
    """The draft; where the run that it continues was deleted, one that starts from the base."""
    if draft.parent is None or (state.workspace().runs / draft.parent / "run.json").is_file():
        return draft
    st.session_state[_NOTE] = f"The run {draft.parent} was deleted: the draft starts from the base now."
    alone = drafting.replace(draft.id, lambda draft: rebased(draft, None, None))
    assert isinstance(alone, Draft)
    return alone


def parent_of(draft: Draft) -> Run | None:
    return Runs(state.workspace()).get(draft.parent) if draft.parent else None


def start(draft: Draft) -> None:
    """Draws the choice; of a run that continues another also its new field, and against what it is held."""
    if note := st.session_state.pop(_NOTE, ""):
        st.warning(plain(note), icon=":material/search_off:")
    parent = parent_of(draft)
    _choice(draft, parent)
    if parent is None:
        return
    st.caption(f":material/account_tree: {plain(chain_words(parent))} → **knowledge**")
    left, right = st.columns(2)
    with left:
        _field(draft)
    with right:
        run_form.setting(draft, "objective.against", key="launch")
    st.caption(
        "Model and adapter are those of the run that is continued: one adapter holds all that the chain has learned."
    )


def _choice(draft: Draft, parent: Run | None) -> None:
    workspace = state.workspace()
    labels = parents.labels([run for run in overview(workspace) if can_be_continued(workspace, run, by="cpt")])
    if parent and parent.id not in labels:  # it failed or was cancelled meanwhile: the findings tell
        labels[parent.id] = printable(parent.title)
    if len(labels) == 1:
        return
    st.selectbox(
        "Starts from",
        list(labels),
        format_func=labels.__getitem__,
        **forms.bound("launch_parent", draft.parent or parents.BASE, lambda id: _rebase(draft.id, id or None)),
        help="The base model, or a run: then that run's adapter is trained on with another corpus, and the result "
        "holds both. A run that is still in training is fine: this one waits for it.",
    )


@show.told
def _rebase(draft_id: str, parent_id: str | None) -> None:
    parent = Runs(state.workspace()).get(parent_id) if parent_id else None
    drafting.replace(draft_id, lambda draft: rebased(draft, parent_of(draft), parent))


def _field(draft: Draft) -> None:
    fields = draft.stage.mixture.domain_sources()
    shown = fields[0] if fields else None
    own = [one.name for one in list_corpora(state.workspace()) if one.kind == "documents"]
    known = [*(name for name in own if not name.startswith("builtin-")), *(n for n in KINDS if n == "builtin/atlas")]

    @show.told
    def choose(field: str | None) -> None:
        if field:
            drafting.replace(draft.id, lambda now: now.model_copy(update={"stage": with_field(now.stage, field)}))

    st.selectbox(
        "The next field",
        list(dict.fromkeys([*known, *filter(None, [shown])])),
        format_func=printable,
        **forms.bound("launch_field", shown, choose),
        index=None,
        placeholder="choose a corpus",
        help="It takes the place of the field before in the mixture. To keep the old field fresh, mix some of it in "
        "on the page Mixture.",
    )
