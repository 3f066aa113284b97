"""The conversation on the Talk page: what was said, what is being said, and the box for the next question.

The latest exchange stands in the address (?talk=ID), so a reload goes on with it.
"""

from collections.abc import Sequence

import streamlit as st

from app import show, talk_answers, talk_asking
from app.talk_asking import Unasked, client, latest
from app.talk_choice import Chosen
from app.words import plain
from mixcpt import builtin
from mixcpt.errors import MixcptError, NotFound
from mixcpt.exchanges import Exchange

LOOK_SECONDS = 0.5


def conversation(chosen: Chosen) -> None:
    """All that was said with these models, and the box for the next question."""
    if not chosen.models:
        st.info("Choose at least one model under **Who answers**.", icon=":material/info:")
        return
    thread = _thread(latest().get(chosen.models))
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
    unasked = talk_asking.unasked(chosen.models)
    if unasked:
        talk_asking.tell(unasked)
    elif not thread:
        _examples(chosen)
    _box(chosen, thread, "Wait for the answers, or stop them" if moving else _why_not(unasked))


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
        talk_asking.interrupted(chosen.models, exchange)
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
            "New conversation",
            key="talk_new",
            icon=":material/add_comment:",
            on_click=talk_asking.begin_anew,
            args=(chosen.models,),
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


def _why_not(unasked: Unasked | None) -> str:
    return "Your last question waits" if unasked and unasked.waits else ""


def _box(chosen: Chosen, thread: Sequence[Exchange], wait: str) -> None:
    """For the next question; closed, and saying why, while there is something to `wait` for."""
    who = f"{len(chosen.models)} models" if len(chosen.models) > 1 else "this model"
    text = st.chat_input(wait or f"Ask {who} …", key="talk_input", disabled=bool(wait) or chosen.sampling is None)
    if text:
        after = next((exchange.id for exchange in reversed(thread) if exchange.state in ("done", "stopped")), None)
        _ask(chosen, [{"role": "user", "content": str(text)}], after)


def _ask(chosen: Chosen, messages: Sequence[dict[str, str]], after: str | None) -> None:
    assert chosen.sampling is not None  # else there was nothing to click
    talk_asking.ask(
        chosen.models,
        messages,
        strength=chosen.strength,
        sampling=chosen.sampling,
        template=chosen.template,
        model=chosen.run.config.model.name,
        after=after,
    )
