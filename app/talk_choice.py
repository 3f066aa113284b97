"""Who answers on the Talk page, and how they are asked: the widgets above the conversation."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import forms, show, state
from app.talk_asking import ADDRESS, ADOPTED, BASE, Models, client, latest
from app.words import plain, printable
from mixcpt.errors import BadConfig, MixcptError
from mixcpt.exchanges import Sampling
from mixcpt.overview import RunSummary
from mixcpt.palette import STAGE_NAMES
from mixcpt.prompts import speakers
from mixcpt.runs import Run
from mixcpt.score_jobs import NO_TEMPLATE, scorers
from mixcpt.settings import override
from mixcpt.templates import NAMED, OWN

LAUNCH = "../pages/launch.py"
COLUMNS = 4
_RUN, _TYPED, _GONE = "run", "talk_typed", "talk_gone"


@dataclass(frozen=True)
class Chosen:
    """Who answers, and how; `sampling` is None while what is typed there does not fit."""

    run: Run
    models: Models
    strength: float
    sampling: Sampling | None
    template: str | None


def choose() -> Chosen | None:
    """The widgets above the conversation; None, and what to do about it, when there is nobody to talk to."""
    runs = {run.id: run for run in scorers(state.workspace())}
    if not runs:
        show.empty(
            "Nobody to talk to yet",
            "Once a run of yours has finished, you can ask it here, beside the base model that it came from. The "
            "recorded runs ship without their adapters, so they cannot be asked.",
            page=LAUNCH,
            label="Launch a run",
            icon=":material/rocket_launch:",
        )
        return None
    _adopt(runs)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        run = _run(runs)
    models = _models(run)
    with right:
        strength = _strength(models)
    sampling, template = _settings()
    return Chosen(run, models, strength, sampling, template)


def _strength(models: Models) -> float:
    if any(Run(state.workspace().runs / id).config.adapter.vocabulary for id in models if id != BASE):
        st.caption(
            "These answer as they were trained: embeddings and head were trained too, and what they learned cannot "
            "count in part."
        )
        return 1.0
    strength = st.slider(
        "Adapter strength",
        0.0,
        1.0,
        1.0,
        0.05,
        key="talk_strength",
        help="How much of what a run has learned counts. 1: the run as it was trained. 0: the base model, exactly. "
        "Between, every layer adds that share of it: often most of the gain at less forgetting, without any "
        "training. It holds for the next question; the base has no adapter and stays as it is.",
    )
    st.caption("1: the run as it was trained; 0: the base. Between, what it learned counts in part.")
    return strength


def _run(runs: dict[str, RunSummary]) -> Run:
    wanted = st.query_params.get(_RUN)
    if wanted not in runs:
        if wanted:
            st.session_state[_GONE] = wanted
        wanted = next(iter(runs))
        st.query_params[_RUN] = wanted  # so that a run which ends meanwhile does not take its place
    if gone := st.session_state.get(_GONE):
        st.warning(f"Run {plain(gone)} has no finished adapter to talk to: choose another.", icon=":material/info:")

    def words(id: str) -> str:
        run = runs[id]
        return printable(f"{run.title} · {_stage(run.stage)} · {run.experiment}")

    def changed(id: str) -> None:
        st.session_state.pop(_GONE, None)
        st.query_params[_RUN] = id
        st.query_params.pop(ADDRESS, None)

    id = st.selectbox(
        "Run",
        list(runs),
        **forms.bound("talk_run", wanted, changed),
        format_func=words,
        help="Finished runs, newest first.",
    )
    return Run(state.workspace().runs / id)


def _models(run: Run) -> Models:
    chain = speakers(run)
    names = {BASE: "Base"} | {one.id: f"{_stage(one.info.stage)} · {one.title}" for one in chain}
    key = f"talk_models_{run.id}"
    if key not in st.session_state:
        st.session_state[key] = [BASE, *[one.id for one in chain][1 - COLUMNS :]]
    chosen = st.pills(
        "Who answers",
        list(names),
        selection_mode="multi",
        key=key,
        format_func=lambda id: plain(names[id]),
        help=f"The base model and each stage of this run's chain; at most {COLUMNS} side by side.",
    )
    if len(chosen) > COLUMNS:
        st.caption(f"Only the first {COLUMNS} answer: take one away to ask another.")
    return tuple(id for id in names if id in chosen)[:COLUMNS]


def _stage(name: str) -> str:
    words = STAGE_NAMES.get(name, name)
    return words[:1].upper() + words[1:]


def _settings() -> tuple[Sampling | None, str | None]:
    box = st.expander("How they are asked", icon=":material/tune:", key="talk_how", on_change="rerun")
    with box:
        sampling = _sampling()
        left, right = st.columns([1, 1], gap="medium", vertical_alignment="bottom")
        with left:
            template = _template()
        if box.open:
            with right:
                _memory()
    if sampling is None:
        st.error("A setting under **How they are asked** does not fit; it says which.", icon=":material/error:")
    return sampling, template


def _sampling() -> Sampling | None:
    typed: dict[str, Any] = st.session_state.setdefault(_TYPED, {})
    forms.draw(Sampling(), key="talk", on_change=typed.__setitem__, typed=typed, columns=4)
    try:
        return override(Sampling(), typed)
    except BadConfig as problem:
        st.error(plain(forms.in_words(Sampling, str(problem))), icon=":material/error:")
        return None


def _template() -> str | None:
    words = {None: "as the run learned it", OWN: "the model's own", NO_TEMPLATE: "none, plain text"}
    return st.selectbox(
        "Chat template",
        [None, OWN, *NAMED, NO_TEMPLATE],
        key="talk_template",
        format_func=lambda name: words.get(name, str(name)),
        help="How a question is set out for a model. By default the template that was saved with the last run that "
        "answers, else the model's own; a base model without one is given plain text.",
    )


def _memory() -> None:
    """What is in memory now, and the way to free it."""
    try:
        held = client().status()["base"]
    except MixcptError as problem:
        show.error(problem)
        return
    if not held:
        st.caption("No model is in memory; the first question loads it.")
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(f"In memory: {plain(held)}", width="content")
        st.button("Free it", key="talk_unload", icon=":material/memory:", on_click=_unload)


@show.told
def _unload() -> None:
    client().unload()


def _adopt(runs: dict[str, RunSummary]) -> None:
    """Go on with the conversation that the address names, as after a reload."""
    id = st.query_params.get(ADDRESS)
    if not id or st.session_state.get(ADOPTED) == id:
        return
    st.session_state[ADOPTED] = id
    try:
        exchange = client().exchange(id)
    except MixcptError as problem:
        st.warning(plain(problem), icon=":material/info:")
        st.query_params.pop(ADDRESS)
        return
    models = tuple(answer.run or BASE for answer in exchange.answers)
    last = next((model for model in reversed(models) if model in runs), st.query_params.get(_RUN))
    if last in runs and set(models) <= {BASE, *(one.id for one in speakers(Run(state.workspace().runs / str(last))))}:
        st.query_params[_RUN] = str(last)
        st.session_state[f"talk_models_{last}"] = list(models)
        latest()[models] = id
