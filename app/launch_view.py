"""The form of the Launch page: what a run will be. Every change goes to the draft on disk at once.

What is typed but does not fit together yet lies in the session beside the draft (`Typed`), so nothing is lost and the
draft on disk can always be launched. The right-hand side of the page is `app.launch_summary`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import streamlit as st

from app import forms, show, state
from app.words import plain, printable
from mixcpt import config
from mixcpt.corpus import corpus_names
from mixcpt.drafts import Draft, Drafts, Guess, as_name
from mixcpt.errors import MixcptError
from mixcpt.launching import check_files, launch_draft, local_models, successor
from mixcpt.presets import ADAPTERS, BUDGETS, OBJECTIVES, OWN, Preset, fitting
from mixcpt.runs import NAME_LENGTH
from mixcpt.settings import override

RUNS = "../pages/runs.py"
_TYPED, _LAUNCHED, _PROBLEM, _NOTE = "launch_typed", "launch_launched", "launch_problem", "launch_note"
_FILES = {"model.name", "evaluation.tasks"}
"""Settings that can name files of this machine."""
_BUILTIN = {"smollm2-135m": "SmolLM2 135M (built in)", "gemma-3-270m": "Gemma 3 270M (built in, has terms)"}
_OTHER = {"folder": "A folder on this machine", "hub": "From the Hugging Face hub"}
_NAME_IT = {"folder": "Name the folder of your model.", "hub": "Name a model of the hub, as org/name."}


@dataclass
class Typed:
    """What stands in the form but not in the draft, and why it does not fit."""

    draft: str
    changes: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


def current() -> Draft:
    """The draft of this session. One that was launched already is left alone, and a copy of it begun.

    After a click on Launch it leaves for the run's page instead.
    """
    if run := st.session_state.pop(_LAUNCHED, None):
        st.switch_page(RUNS, query_params={"run": run})
    draft = state.draft()
    if draft.launched:
        draft = successor(state.workspace(), draft)
        state.use_draft(draft)
    return draft


def typed(draft: Draft) -> Typed:
    kept = st.session_state.get(_TYPED)
    if not isinstance(kept, Typed) or kept.draft != draft.id:
        kept = st.session_state[_TYPED] = Typed(draft.id)
    return kept


@show.told
def change(draft_id: str, changes: dict[str, Any]) -> None:
    """Lay changes into the draft; where they do not fit together they stay typed, with the reason."""
    draft = Drafts(state.workspace()).get(draft_id)
    waiting = typed(draft)
    waiting.changes |= changes
    try:
        stage = override(draft.stage, waiting.changes)
        if _FILES & waiting.changes.keys():
            check_files(state.workspace(), stage)
    except MixcptError as problem:
        waiting.problem = forms.in_words(config.Stage, str(problem).removeprefix("In these changes: "))
        return
    state.save_draft(draft.model_copy(update={"stage": stage}))
    forget_typed(draft_id)


def forget_typed(draft_id: str) -> None:
    """What was typed counts no more: the draft was replaced as a whole."""
    st.session_state[_TYPED] = Typed(draft_id)


@show.told
def update(draft_id: str, **parts: Any) -> None:
    """Replace parts of the draft other than its stage."""
    state.save_draft(Drafts(state.workspace()).get(draft_id).model_copy(update=parts))


# The basic form: eight fields


def basics(draft: Draft) -> None:
    with st.container(border=True):
        left, right = st.columns(2)
        with left:
            _experiment(draft)
        with right:
            _name(draft)
        _model(draft)
    with st.container(border=True):
        _presets(
            draft, "How long", "budget", BUDGETS, "How many tokens the model reads, and how closely it is watched."
        )
        left, right = st.columns(2)
        with left:
            _setting(draft, "mixture.budget_tokens")
        with right:
            _setting(draft, "training.learning_rate")
    with st.container(border=True):
        _presets(draft, "What it aims at", "objective", OBJECTIVES, "What the training pulls the model towards.")
        _presets(
            draft, "How the model is held", "adapter", ADAPTERS, "The base stays frozen; only a small adapter learns."
        )
    if problem := typed(draft).problem:
        st.error(f"{plain(problem)} The run keeps its last good settings until then.", icon=":material/error:")


def _setting(draft: Draft, path: str) -> None:
    forms.field(draft.stage, path, key="launch", on_change=partial(_one, draft.id), typed=typed(draft).changes)


def _one(draft_id: str, path: str, value: Any) -> None:
    change(draft_id, {path: value})


def _experiment(draft: Draft) -> None:
    key = "launch_experiment"
    forms.show(key, draft.experiment)

    def rename() -> None:
        wanted = st.session_state[key]
        name = as_name(wanted)
        update(draft.id, experiment=name)
        st.session_state[_NOTE] = name if name != wanted else ""

    st.text_input(
        "Experiment",
        key=key,
        on_change=rename,
        max_chars=64,
        help="Runs that belong together share an experiment and its notebook.",
    )
    if st.session_state.get(_NOTE) == draft.experiment:
        st.caption(f"Kept as {plain(draft.experiment)}, for it is also the name of a folder.")


def _name(draft: Draft) -> None:
    key = "launch_name"
    forms.show(key, draft.name)
    st.text_input(
        "Name of this run (optional)",
        key=key,
        on_change=lambda: update(draft.id, name=st.session_state[key]),
        max_chars=NAME_LENGTH,
        placeholder="for example: half the learning rate",
        help="Shown in lists and charts. You can change it later.",
    )


def _presets(draft: Draft, label: str, part: str, presets: Sequence[Preset], help: str) -> None:
    """A choice among presets, with the sentence of the chosen one below."""
    key = f"launch_{part}"
    fits = fitting(draft.stage, presets)
    by_name = {preset.name: preset for preset in presets}
    forms.show(key, fits.name if fits else OWN)

    def choose() -> None:
        if preset := by_name.get(st.session_state[key]):
            change(draft.id, preset.changes)

    st.segmented_control(
        label,
        [*by_name] + ([] if fits else [OWN]),
        key=key,
        on_change=choose,
        required=True,
        help=help,
    )
    st.caption(plain(fits.words if fits else "Your own settings; a click on another choice replaces them."))


# The model


def _model(draft: Draft) -> None:
    kind_key = "launch_model"
    name = typed(draft).changes.get("model.name", draft.stage.model.name)
    kind = _kind(draft, name)
    forms.show(kind_key, kind)

    def choose() -> None:
        chosen = st.session_state[kind_key]
        if chosen in _BUILTIN:
            change(draft.id, {"model.name": chosen})
        else:
            waiting = typed(draft)
            waiting.changes["model.name"], waiting.problem = "", _NAME_IT[chosen]
            st.session_state["launch_model_other"] = chosen

    words = _BUILTIN | _OTHER
    st.selectbox(
        "Model",
        list(words),
        format_func=lambda option: words[option],
        key=kind_key,
        on_change=choose,
        help="The language model that is adapted. Its own weights stay as they are; what is learned lies in a small "
        "adapter beside them.",
    )
    if kind == "folder":
        _folder(draft, name)
    elif kind == "hub":
        _hub(draft, name)


def _kind(draft: Draft, name: str) -> str:
    if name in _BUILTIN:
        return name
    if "model.name" in typed(draft).changes:
        return str(st.session_state.get("launch_model_other", "folder"))
    return "folder" if name.startswith("/") else "hub"


def _folder(draft: Draft, name: str) -> None:
    known = local_models(state.workspace())
    key = "launch_model_folder"
    forms.show(key, name or None)
    st.selectbox(
        "Folder of the model",
        list(dict.fromkeys([*known, *([name] if name else [])])),
        key=key,
        index=None,
        format_func=printable,
        on_change=lambda: change(draft.id, {"model.name": st.session_state[key] or ""}),
        accept_new_options=True,
        placeholder="choose one, or write its full path",
        help="A folder made by save_pretrained: config.json, *.safetensors and a tokenizer. It must lie in the "
        "workspace's models/ or inbox/, or where the owner of this server allows it.",
    )


def _hub(draft: Draft, name: str) -> None:
    key = "launch_model_hub"
    forms.show(key, name)
    st.text_input(
        "Hub id",
        key=key,
        on_change=lambda: change(draft.id, {"model.name": st.session_state[key].strip()}),
        placeholder="org/name",
        help="Any causal language model with safetensors weights, for example HuggingFaceTB/SmolLM2-360M. No code of "
        "the model is ever run.",
    )


# Everything else


_ON_THE_PAGE = {"stage", "model.name", "model.precision", "mixture.budget_tokens", "training.learning_rate"}


def advanced(draft: Draft) -> None:
    """Every other setting, a tab for each part."""
    with st.expander("Advanced settings", icon=":material/tune:"):
        groups = forms.groups(config.Stage)
        corpora = [name for name in corpus_names(state.workspace()) if not name.startswith("builtin-")]
        choices = {"measures.general": ["builtin/general", *corpora], "evaluation.tasks": ["general", "atlas"]}
        for tab, group in zip(st.tabs(list(groups.values())), groups, strict=True):
            with tab:
                forms.draw(
                    draft.stage,
                    key="launch",
                    on_change=partial(_one, draft.id),
                    typed=typed(draft).changes,
                    only=group,
                    skip=_ON_THE_PAGE,
                    choices=choices,
                    columns=3,
                )


def prediction(draft: Draft) -> None:
    """Predict, then reveal: the guess is kept with the run, and its notebook scores it."""
    with st.expander("Predict, then reveal (optional)", icon=":material/psychology:", expanded=draft.guess is not None):
        key = "launch_guess"
        forms.show(key, draft.guess is not None)
        st.toggle(
            "Guess before you see",
            key=key,
            on_change=lambda: update(draft.id, guess=_FIRST_GUESS if st.session_state[key] else None),
            help="Whoever guesses first learns more from the result. The notebook shows your guess beside what "
            "happened, with a score from 0 to 100.",
        )
        if draft.guess is None:
            st.caption("How well can you tell what will happen? Say it now; the notebook reveals it at the end.")
            return
        left, right = st.columns(2)
        with left:
            _guess(draft, "domain_gain", -20, 80, "How much better will it read your field?", _gain_words)
        with right:
            _guess(draft, "forgetting", -20, 100, "How much will it forget of general text?", _forgetting_words)


_FIRST_GUESS = Guess(domain_gain=20, forgetting=5)


def _guess(draft: Draft, part: str, least: int, most: int, question: str, words: Any) -> None:
    assert draft.guess is not None
    guess, key = draft.guess, f"launch_guess_{part}"
    value = round(guess.model_dump()[part])
    forms.show(key, min(max(value, least), most))

    def keep() -> None:
        update(draft.id, guess=guess.model_copy(update={part: float(st.session_state[key])}))

    st.slider(
        f"{question} (% of the bits per byte)",
        least,
        most,
        key=key,
        on_change=keep,
        help="Bits per byte: how many bits the model needs for a byte of text that it has not seen; lower is better.",
    )
    st.markdown(words(value))


def _gain_words(percent: int) -> str:
    return f"**{abs(percent)} % {'fewer' if percent >= 0 else 'more'}** bits per byte of your field."


def _forgetting_words(percent: int) -> str:
    return f"**{abs(percent)} % {'more' if percent >= 0 else 'fewer'}** bits per byte of general text."


# Launch


def launch(draft_id: str) -> None:
    """Answer a click on Launch. Draws nothing: Streamlit may stop a script at whatever it draws when somebody clicks
    again, and that click comes here too, with the same draft, for which there is only one run."""
    drafts = Drafts(state.workspace())
    draft = drafts.get(draft_id)
    try:
        run = launch_draft(state.workspace(), draft)
    except MixcptError as problem:
        st.session_state[_PROBLEM] = str(problem)
        return
    st.session_state[_LAUNCHED] = run.id
    if st.session_state.get("draft") == draft_id:
        state.use_draft(successor(state.workspace(), draft))


def problem() -> str:
    """The sentence of the launch that failed just now."""
    return str(st.session_state.pop(_PROBLEM, ""))
