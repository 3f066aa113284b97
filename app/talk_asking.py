"""Asking from the Talk page, and what becomes of a question that cannot be asked now.

Of each set of models the latest exchange is remembered; it leads to the earlier ones. While a job has the machine, a
question waits here and is asked by itself afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import streamlit as st

from app import show, state
from app.words import plain
from mixcpt.client import Client
from mixcpt.errors import BadConfig, Busy, MixcptError
from mixcpt.exchanges import Exchange, Question, Sampling, Voice
from mixcpt.settings import validate

BASE = "base"
ADDRESS = "talk"
"""What the latest exchange is called in the page's address."""
ADOPTED = "talk_adopted"
WAIT_SECONDS = 2.0
_LATEST, _UNASKED, _GIVEN_UP = "talk_latest", "talk_unasked", "talk_given_up"
Models = tuple[str, ...]
"""Ids of the runs that answer, and BASE."""


@dataclass(frozen=True)
class Unasked:
    """A question that could not be asked yet, and why; `waits` when a job has the machine."""

    models: Models
    question: Question
    problem: str
    waits: bool


def client() -> Client:
    return Client(state.workspace())


def latest() -> dict[Models, str]:
    """Of each set of models the latest exchange of its conversation."""
    found: dict[Models, str] = st.session_state.setdefault(_LATEST, {})
    return found


def ask(
    models: Models,
    messages: Sequence[dict[str, str]],
    *,
    strength: float,
    sampling: Sampling,
    template: str | None,
    model: str,
    after: str | None,
) -> None:
    """Put a question to these models and draw the page anew. Arguments as those of `exchanges.Question`."""
    voices = [Voice() if one == BASE else Voice(run=one, strength=strength) for one in models]
    question = {
        "voices": voices,
        "messages": list(messages),
        "after": after,
        "template": template,
        "model": model,
        "sampling": sampling,
    }
    try:
        asked = validate(Question, question, "the question")
    except BadConfig as problem:
        show.error(problem)
        return
    with st.spinner("Asking …"):
        _put(models, asked)
    st.rerun()


def _put(models: Models, question: Question) -> None:
    """Ask, and remember either the exchange or why there is none."""
    try:
        id = client().put(question)
    except MixcptError as problem:
        st.session_state[_UNASKED] = Unasked(models, question, str(problem), isinstance(problem, Busy))
    else:
        st.session_state.pop(_UNASKED, None)
        st.session_state[ADOPTED] = st.query_params[ADDRESS] = id
        latest()[models] = id


def unasked(models: Models) -> Unasked | None:
    """The question to these models that could not be asked yet."""
    found: Unasked | None = st.session_state.get(_UNASKED)
    return found if found and found.models == models else None


def interrupted(models: Models, exchange: Exchange) -> None:
    """A job took the machine: ask it again once that is done, unless it was given up."""
    if st.session_state.get(_GIVEN_UP) != exchange.id and not unasked(models):
        question = validate(Question, exchange.question, "the question")
        st.session_state[_UNASKED] = Unasked(models, question, exchange.message, True)
    elif st.session_state.get(_GIVEN_UP) == exchange.id:
        st.info(plain(exchange.message), icon=":material/info:")


def tell(one: Unasked) -> None:
    """Why it was not asked, and what can be done about it."""
    if one.waits:
        _waiting(one)
        return
    st.error(plain(one.problem), icon=":material/error:")
    st.caption(f"Not asked yet: {plain(one.question.messages[-1].content)}")
    with st.container(horizontal=True):
        st.button("Try again", key="talk_retry", icon=":material/replay:", on_click=_retry, args=(one,))
        st.button("Drop it", key="talk_drop", icon=":material/close:", on_click=_drop)


@st.fragment(run_every=WAIT_SECONDS)
def _waiting(one: Unasked) -> None:
    """Says who has the machine, and asks as soon as it is free."""
    try:
        busy = client().status()["busy"]
    except MixcptError as problem:
        show.error(problem)
        return
    if not busy:
        _put(one.models, one.question)
        now = unasked(one.models)
        if now is None or not now.waits:
            st.rerun()
        busy = now.problem
    with st.container(border=True):
        st.markdown(f":material/hourglass_top: {plain(busy)}")
        st.caption(f"Your question is asked then: {plain(one.question.messages[-1].content)}")
        st.button("Do not wait", key="talk_drop", icon=":material/close:", on_click=_drop)


def _retry(one: Unasked) -> None:
    _put(one.models, one.question)


def _drop() -> None:
    one: Unasked | None = st.session_state.pop(_UNASKED, None)
    if one:
        st.session_state[_GIVEN_UP] = latest().get(one.models)


def begin_anew(models: Models) -> None:
    """A new conversation with these models; the present one is only left."""
    latest().pop(models, None)
    st.session_state.pop(_UNASKED, None)
    st.query_params.pop(ADDRESS, None)
