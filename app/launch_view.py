"""The form of the Launch page: what a run of the knowledge stage will be. Every change goes to the draft on disk at
once (`app.drafting`). The right-hand side of the page is `app.launch_summary`.
"""

from collections.abc import Sequence

import streamlit as st

from app import drafting, forms, launch_start, model_form, run_form, state
from app.words import plain
from mixcpt.drafts import Draft, Drafts
from mixcpt.presets import ADAPTERS, BUDGETS, OBJECTIVES, OWN, Preset, fitting


def current() -> Draft:
    """The draft of this session, which Mixture works at too."""
    if draft := launch_start.linked():
        drafting.use(draft)
    return launch_start.present(drafting.current(Draft, Drafts(state.workspace()).create))


def basics(draft: Draft) -> None:
    with st.container(border=True):
        left, right = st.columns(2)
        with left:
            run_form.experiment(draft, key="launch")
        with right:
            run_form.name(draft, key="launch")
        if not draft.parent:
            model_form.model(draft, key="launch")
        launch_start.start(draft)
    with st.container(border=True):
        _presets(
            draft, "How long", "budget", BUDGETS, "How many tokens the model reads, and how closely it is watched."
        )
        left, right = st.columns(2)
        with left:
            run_form.setting(draft, "mixture.budget_tokens", key="launch")
        with right:
            run_form.setting(draft, "training.learning_rate", key="launch")
    with st.container(border=True):
        _presets(draft, "What it aims at", "objective", OBJECTIVES, "What the training pulls the model towards.")
        if not draft.parent:
            help = "The base stays frozen; only a small adapter learns."
            _presets(draft, "How the model is held", "adapter", ADAPTERS, help)
    run_form.fault(draft)


def _presets(draft: Draft, label: str, part: str, presets: Sequence[Preset], help: str) -> None:
    """A choice among presets, with the sentence of the chosen one below."""
    fits = fitting(draft.stage, presets)
    by_name = {preset.name: preset for preset in presets}

    def choose(name: str) -> None:
        if preset := by_name.get(name):
            drafting.change(draft.id, preset.changes)

    st.segmented_control(
        label,
        [*by_name] + ([] if fits else [OWN]),
        **forms.bound(f"launch_{part}", fits.name if fits else OWN, choose),
        required=True,
        help=help,
    )
    st.caption(plain(fits.words if fits else "Your own settings; a click on another choice replaces them."))


_ON_THE_PAGE = {
    *("stage", "model.name", "model.precision", "mixture.budget_tokens", "training.learning_rate"),
    "objective.against",
}


def advanced(draft: Draft) -> None:
    """Every other setting, a tab for each part; what is taken over from the run before cannot be another here."""
    run_form.settings(draft, key="launch", skip=_ON_THE_PAGE, without=("model", "adapter") if draft.parent else ())
