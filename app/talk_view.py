"""The Talk page: which models, how they are asked, and the conversation with them.

A conversation is kept for each set of models and stands in the address (?talk=ID, its latest exchange), so a reload
goes on with it. While a job has the machine a question waits here and is asked by itself afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import forms, show, state, talk_answers
from app.words import plain, printable
from mixcpt import builtin
from mixcpt.client import Client
from mixcpt.errors import BadConfig, Busy, MixcptError, NotFound
from mixcpt.exchanges import Exchange, Question, Sampling, Voice
from mixcpt.overview import RunSummary
from mixcpt.palette import STAGE_NAMES
from mixcpt.prompts import speakers
from mixcpt.runs import Run
from mixcpt.score_jobs import NO_TEMPLATE, scorers
from mixcpt.settings import override, validate
from mixcpt.templates import NAMED, OWN

TALK, LAUNCH = "../pages/talk.py", "../pages/launch.py"
COLUMNS = 4
LOOK_SECONDS, WAIT_SECONDS = 0.5, 2.0
BASE = "base"
_RUN, _ADDRESS = "run", "talk"
_LATEST, _ADOPTED, _UNASKED, _GIVEN_UP, _TYPED = (
    f"talk_{name}" for name in ("latest", "adopted", "unasked", "given_up", "typed")
)
Models = tuple[str, ...]
"""Ids of the runs that answer, and BASE."""


@dataclass(frozen=True)
class Chosen:
    """Who answers, and how; `sampling` is None while what is typed there does not fit."""

    run: Run
    models: Models
    strength: float
    sampling: Sampling | None
    template: str | None


@dataclass(frozen=True)
class Unasked:
    """A question that could not be asked yet, and why; `waits` when a job has the machine."""

    models: Models
    question: Question
    problem: str
    waits: bool


def client() -> Client:
    return Client(state.workspace())


# ---- who answers -----------------------------------------------------------------------------------------------------


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
    left, middle, right = st.columns([4, 5, 3], gap="medium")
    with left:
        run = _run(runs)
    with middle:
        models = _models(run)
    with right:
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
    sampling, template = _settings()
    return Chosen(run, models, strength, sampling, template)


def _run(runs: dict[str, RunSummary]) -> Run:
    wanted = st.query_params.get(_RUN)
    if wanted and wanted not in runs:
        st.warning(f"Run {plain(wanted)} has no finished adapter to talk to: choose another.", icon=":material/info:")
    elif wanted:
        forms.show("talk_run", wanted)

    def words(id: str) -> str:
        run = runs[id]
        return printable(f"{run.title} · {STAGE_NAMES.get(run.stage, run.stage)} · {run.experiment}")

    def changed() -> None:
        st.query_params[_RUN] = st.session_state["talk_run"]
        st.query_params.pop(_ADDRESS, None)

    id = st.selectbox(
        "Run", list(runs), key="talk_run", format_func=words, on_change=changed, help="Finished runs, newest first."
    )
    return Run(state.workspace().runs / id)


def _models(run: Run) -> Models:
    chain = speakers(run)
    names = {BASE: "Base"} | {
        one.id: f"{STAGE_NAMES.get(one.info.stage, one.info.stage)} · {one.title}" for one in chain
    }
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


def _settings() -> tuple[Sampling | None, str | None]:
    with st.expander("How they are asked", icon=":material/tune:"):
        sampling = _sampling()
        left, right = st.columns([1, 1], gap="medium", vertical_alignment="bottom")
        with left:
            template = _template()
        with right:
            _memory()
    if sampling is None:
        st.error("A setting under **How they are asked** does not fit; it says which.", icon=":material/error:")
    return sampling, template


def _sampling() -> Sampling | None:
    typed: dict[str, Any] = st.session_state.get(_TYPED, {})

    def changed(path: str, value: Any) -> None:
        st.session_state[_TYPED] = {**typed, path: value}

    forms.draw(Sampling(), key="talk", on_change=changed, typed=typed, columns=4)
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


# ---- the conversation ------------------------------------------------------------------------------------------------


def conversation(chosen: Chosen) -> None:
    """All that was said with these models, and the box for the next question."""
    if not chosen.models:
        st.info("Choose at least one model under **Who answers**.", icon=":material/info:")
        return
    thread = _thread(_latest().get(chosen.models))
    for earlier in thread[:-1]:
        talk_answers.question(earlier)
        talk_answers.answers(earlier)
    moving = bool(thread) and not thread[-1].is_final
    if thread:
        talk_answers.question(thread[-1])
        if moving:
            _moving(thread[-1].id)
        else:
            _ended(chosen, thread[-1])
    unasked = _unasked(chosen.models)
    if unasked:
        _tell(unasked)
    elif not thread:
        _examples(chosen)
    _box(chosen, thread, moving or bool(unasked and unasked.waits))


def _latest() -> dict[Models, str]:
    """Of each set of models the latest exchange of its conversation."""
    found: dict[Models, str] = st.session_state.setdefault(_LATEST, {})
    return found


def _adopt(runs: dict[str, RunSummary]) -> None:
    """Go on with the conversation that the address names, as after a reload."""
    id = st.query_params.get(_ADDRESS)
    if not id or st.session_state.get(_ADOPTED) == id:
        return
    st.session_state[_ADOPTED] = id
    try:
        exchange = client().exchange(id)
    except MixcptError as problem:
        st.warning(plain(problem), icon=":material/info:")
        st.query_params.pop(_ADDRESS)
        return
    models = tuple(answer.run or BASE for answer in exchange.answers)
    last = next((model for model in reversed(models) if model in runs), st.query_params.get(_RUN))
    if last in runs and set(models) <= {BASE, *(one.id for one in speakers(Run(state.workspace().runs / str(last))))}:
        st.query_params[_RUN] = str(last)
        st.session_state[f"talk_models_{last}"] = list(models)
        _latest()[models] = id


def _thread(id: str | None) -> list[Exchange]:
    """The conversation that ends with this exchange, oldest first; what was not kept is left out."""
    thread: list[Exchange] = []
    while id:
        try:
            exchange = client().exchange(id)
        except NotFound:
            break
        thread.insert(0, exchange)
        id = exchange.question["after"]
    return thread


def _moving(id: str) -> None:
    """The latest exchange while it is answered, drawn anew twice a second."""

    @st.fragment(run_every=LOOK_SECONDS)
    def answering(id: str) -> None:
        try:
            exchange = client().exchange(id)
        except MixcptError as problem:  # a fragment is out of reach of the frame's own handling
            show.error(problem)
            return
        if exchange.is_final:
            st.rerun()
        talk_answers.answers(exchange)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Stop", key="talk_stop", icon=":material/stop_circle:", on_click=_stop, args=(id,))
            st.caption(talk_answers.DOING[exchange.state], width="content")

    answering(id)


@show.told
def _stop(id: str) -> None:
    client().stop(id)


def _ended(chosen: Chosen, exchange: Exchange) -> None:
    """The latest exchange once it has ended: answers, how likely they are, and asking it again."""
    done = exchange.state == "done"
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(plain(talk_answers.conditions(exchange)), width="content")
        view = _view() if done else "Text"
    talk_answers.answers(exchange, tokens=view == "Tokens")
    if any(answer.differs for answer in exchange.answers):
        st.caption("Marked: the first token that is another one than in the answer furthest left.")
    if exchange.state == "failed":
        st.error(plain(exchange.message), icon=":material/error:")
    elif exchange.state == "stopped":
        st.info(plain(exchange.message), icon=":material/stop_circle:")
    elif exchange.state == "interrupted":
        _interrupted(chosen.models, exchange)
    if done:
        talk_answers.likelihoods(exchange)
    with st.container(horizontal=True):
        if exchange.state != "interrupted" and st.button(
            "Ask again",
            key="talk_again",
            icon=":material/replay:",
            disabled=chosen.sampling is None,
            help="The same question with the strength and settings as they are now.",
        ):
            turns = exchange.question["messages"]
            _ask(chosen, turns, exchange.question["after"])
        st.button(
            "New conversation", key="talk_new", icon=":material/add_comment:", on_click=_new, args=(chosen.models,)
        )


def _view() -> str:
    view = st.segmented_control(
        "Show",
        ["Text", "Tokens"],
        default="Text",
        required=True,
        key="talk_view",
        label_visibility="collapsed",
        help="Tokens: each piece that a model wrote, coloured by how little it had expected it; hover to see how "
        "likely each model found it.",
    )
    return view or "Text"


def _new(models: Models) -> None:
    _latest().pop(models, None)
    st.session_state.pop(_UNASKED, None)
    st.query_params.pop(_ADDRESS, None)


def _examples(chosen: Chosen) -> None:
    """For the first question of a conversation."""
    st.markdown("Ask something, or begin with one of these:")
    with st.container(horizontal=True):
        for number, (text, help) in enumerate(examples()):
            pressed = st.button(
                plain(text),
                key=f"talk_example_{number}",
                icon=":material/chat:",
                help=plain(help),
                disabled=chosen.sampling is None,
            )
            if pressed:
                _ask(chosen, [{"role": "user", "content": text}], None)


def examples() -> list[tuple[str, str]]:
    """Questions to begin with, and what is worth knowing of each; one is about the atlas of the invented country."""
    fact = next(fact for fact in builtin.world().facts if fact.relation == "river")
    return [
        (
            f"Which river flows through {fact.subject}?",
            "From the atlas of a country that does not exist, so no base model can know it. The atlas says: "
            f"{fact.object}.",
        ),
        ("Explain in two sentences why the sky is blue.", "General knowledge: did the run forget it?"),
        ("Write a short, polite note that declines an invitation.", "Format: does it keep to the point, and stop?"),
    ]


def _box(chosen: Chosen, thread: Sequence[Exchange], wait: bool) -> None:
    who = f"{len(chosen.models)} models" if len(chosen.models) > 1 else "this model"
    said = "Wait for the answers, or stop them" if wait else f"Ask {who} …"
    text = st.chat_input(said, key="talk_input", disabled=wait or chosen.sampling is None)
    if text:
        after = next((exchange.id for exchange in reversed(thread) if exchange.state in ("done", "stopped")), None)
        _ask(chosen, [{"role": "user", "content": str(text)}], after)


# ---- asking ----------------------------------------------------------------------------------------------------------


def _ask(chosen: Chosen, messages: Sequence[dict[str, str]], after: str | None) -> None:
    voices = [Voice() if model == BASE else Voice(run=model, strength=chosen.strength) for model in chosen.models]
    question = {
        "voices": voices,
        "messages": list(messages),
        "after": after,
        "template": chosen.template,
        "model": chosen.run.config.model.name,
        "sampling": chosen.sampling,
    }
    try:
        asked = validate(Question, question, "the question")
    except BadConfig as problem:
        show.error(problem)
        return
    with st.spinner("Asking …"):
        _put(chosen.models, asked)
    st.rerun()


def _put(models: Models, question: Question) -> None:
    """Ask, and remember either the exchange or why there is none."""
    try:
        id = client().put(question)
    except MixcptError as problem:
        st.session_state[_UNASKED] = Unasked(models, question, str(problem), isinstance(problem, Busy))
    else:
        st.session_state.pop(_UNASKED, None)
        st.session_state[_ADOPTED] = st.query_params[_ADDRESS] = id
        _latest()[models] = id


def _unasked(models: Models) -> Unasked | None:
    found: Unasked | None = st.session_state.get(_UNASKED)
    return found if found and found.models == models else None


def _interrupted(models: Models, exchange: Exchange) -> None:
    """A job took the machine: ask it again once that is done, unless it was given up."""
    if st.session_state.get(_GIVEN_UP) != exchange.id and not _unasked(models):
        question = validate(Question, exchange.question, "the question")
        st.session_state[_UNASKED] = Unasked(models, question, exchange.message, True)
    elif st.session_state.get(_GIVEN_UP) == exchange.id:
        st.info(plain(exchange.message), icon=":material/info:")


def _tell(unasked: Unasked) -> None:
    if unasked.waits:
        _waiting(unasked)
        return
    st.error(plain(unasked.problem), icon=":material/error:")
    st.caption(f"Not asked yet: {plain(unasked.question.messages[-1].content)}")
    with st.container(horizontal=True):
        st.button("Try again", key="talk_retry", icon=":material/replay:", on_click=_retry, args=(unasked,))
        st.button("Drop it", key="talk_drop", icon=":material/close:", on_click=_drop)


@st.fragment(run_every=WAIT_SECONDS)
def _waiting(unasked: Unasked) -> None:
    """Says who has the machine, and asks as soon as it is free."""
    try:
        busy = client().status()["busy"]
    except MixcptError as problem:
        show.error(problem)
        return
    if not busy:
        _put(unasked.models, unasked.question)
        st.rerun()
    with st.container(border=True):
        st.markdown(f":material/hourglass_top: {plain(busy)}")
        st.caption(f"Your question is asked then: {plain(unasked.question.messages[-1].content)}")
        st.button("Do not wait", key="talk_drop", icon=":material/close:", on_click=_drop)


def _retry(unasked: Unasked) -> None:
    _put(unasked.models, unasked.question)


def _drop() -> None:
    unasked: Unasked | None = st.session_state.pop(_UNASKED, None)
    if unasked:
        st.session_state[_GIVEN_UP] = _latest().get(unasked.models)
