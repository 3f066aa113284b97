"""An exchange on the page: the question, the answers side by side, and how likely each is under each model."""

import math
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.answer import answer
from app.strip import Chip, token_strip
from app.words import plain, printable
from mixcpt.exchanges import Answer, Exchange, log_probabilities
from mixcpt.palette import GENERAL, STAGE_NAMES, STAGES
from mixcpt.score_jobs import NO_TEMPLATE
from mixcpt.templates import OWN

DOING = {
    "waiting": "Waiting for its turn …",
    "loading": "Loading the model; the first question takes a while …",
    "writing": "Writing …",
    "scoring": "Reading the answers with each model …",
}
_ENDED = {
    "end": "ended by itself",
    "length": "cut at the longest answer",
    "stopped": "stopped",
    "interrupted": "interrupted",
}
_TEMPLATES = {NO_TEMPLATE: "plain text without a chat template", OWN: "chat template (the model's or run's own)"}
_FULL_LOSS = 6.0
"""Nats from which a token has its full colour."""
_TALL = 320


def name_of(answer: Answer) -> str:
    """As in "SFT · wells at 0.5"; plain text."""
    if answer.run is None:
        return "Base"
    stage = STAGE_NAMES.get(answer.stage, answer.stage)
    name = f"{stage[:1].upper()}{stage[1:]} · {answer.title}"
    return name if answer.strength == 1 else f"{name} at {answer.strength:g}"


def short_names(answers: Sequence[Answer]) -> list[str]:
    """What to call them where there is little room: by their stage, as long as that tells them apart."""
    short = [name_of(one).partition(" · ")[0] for one in answers]
    return short if len(set(short)) == len(short) else [name_of(one) for one in answers]


def question(exchange: Exchange) -> None:
    with st.chat_message("user", avatar=":material/person:"):
        answer(exchange.question["messages"][-1]["content"], key=f"talk_question_{exchange.id}")


def answers(exchange: Exchange, *, tokens: bool = False) -> None:
    """The answers side by side; `tokens`: token by token, coloured by what each cost the model that wrote it."""
    places = st.columns(len(exchange.answers), gap="medium", border=True)
    for number, (place, one) in enumerate(zip(places, exchange.answers, strict=True)):
        with place:
            _heading(one)
            if tokens and one.ids:
                _strip(exchange, number)
            else:
                _text(exchange, number)
            _facts(one)


def _heading(one: Answer) -> None:
    colour = STAGES.get(one.stage, STAGES["base"])
    st.markdown(f"**{plain(name_of(one))}**")
    st.html(f'<div style="height:3px;border-radius:2px;margin:-0.9rem 0 -0.5rem;background:{colour}"></div>')


def _text(exchange: Exchange, number: int) -> None:
    one, differs = exchange.answers[number], exchange.answers[number].differs
    if not one.text and one.ended:
        st.caption("It said nothing: its first token ended the answer." if one.ids else "It did not come to a word.")
        return
    answer(
        one.text,
        key=f"talk_answer_{exchange.id}_{number}",
        marked=(differs["start"], differs["stop"]) if differs else None,
        note=_note(exchange, number),
        writing=not one.ended and not exchange.is_final,
    )


def _note(exchange: Exchange, number: int) -> str:
    """What is told about the first token that differs."""
    one, first = exchange.answers[number], exchange.answers[0]
    if not one.differs:
        return ""
    place = one.differs["token"]
    return f"Token {place + 1} is the first that differs: here {one.pieces[place]!r}, there {first.pieces[place]!r}."


def _facts(one: Answer) -> None:
    """How long, why it ended, how fast."""
    if not one.ids:
        return
    facts = [f"{len(one.ids)} token{'s' if len(one.ids) > 1 else ''}"]
    facts += [_ENDED[one.ended]] if one.ended else []
    facts += [f"{one.tokens_per_second:.1f} tokens/s"] if one.tokens_per_second else []
    st.caption(" · ".join(facts))


def _strip(exchange: Exchange, number: int) -> None:
    one = exchange.answers[number]
    legend = [("the fuller, the less expected", STAGES.get(one.stage, STAGES["base"]))]
    legend += [("first difference", GENERAL)] if one.differs else []
    token_strip(_chips(exchange, number), key=f"talk_strip_{exchange.id}_{number}", legend=legend, height=_TALL)


def _chips(exchange: Exchange, number: int) -> list[Chip]:
    one = exchange.answers[number]
    differs = one.differs["token"] if one.differs else None
    return [
        Chip(
            text=piece,
            group=int(place == differs),
            detail=_detail(exchange, number, place),
            value=None if place == differs or not one.nats else min(one.nats[number][place] / _FULL_LOSS, 1.0),
            is_end=one.ended == "end" and place == len(one.pieces) - 1,
        )
        for place, piece in enumerate(one.pieces)
    ]


def _detail(exchange: Exchange, number: int, place: int) -> str:
    """What hovering over a token tells: how likely each model found it there."""
    nats = exchange.answers[number].nats
    names = [name_of(other) for other in exchange.answers]
    said = [f"{name}: {100 * math.exp(-one[place]):.3g} %" for name, one in zip(names, nats, strict=False) if one]
    return "\n".join([f"token {place + 1}", *said])


# ---- how likely ------------------------------------------------------------------------------------------------------

_HOW_TO_READ = (
    "Each answer (row) was read by each model (column). The number is the logarithm of the probability that this model "
    "would have written exactly these tokens, averaged over them: 0 would be certainty, −0.7 one half per token, −2.3 "
    "a tenth. Read along a row: the model with the highest number would most likely have said it. A row that is nearly "
    "even means that training changed little about this answer."
)


def likelihoods(exchange: Exchange) -> None:
    """The table of log-probabilities, and a sentence on what it says."""
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown("**How likely is each answer to each model?**", help=_HOW_TO_READ)
        unit = st.segmented_control(
            "Unit",
            ["per token", "whole answer"],
            default="per token",
            required=True,
            key="talk_unit",
            label_visibility="collapsed",
        )
    st.dataframe(
        table(exchange, whole=unit == "whole answer"),
        hide_index=True,
        key=f"talk_table_{exchange.id}",
        column_config=_columns(exchange, unit or "per token"),
    )


def table(exchange: Exchange, *, whole: bool) -> dict[str, list[Any]]:
    """Columns of the table: the answer, its log-probability under each model, and where it is likeliest."""
    rows = log_probabilities(exchange)
    names = [printable(name) for name in short_names(exchange.answers)]
    counts = [1 if whole else max(len(one.ids), 1) for one in exchange.answers]
    found: dict[str, list[Any]] = {"Answer of": [printable(name_of(one)) for one in exchange.answers]}
    for column in range(len(names)):
        found[str(column)] = [
            None if row[column] is None else row[column] / count  # type: ignore[operator]
            for row, count in zip(rows, counts, strict=True)
        ]
    found["Likeliest for"] = [_likeliest(row, names) for row in rows]
    return found


def _likeliest(row: Sequence[float | None], names: Sequence[str]) -> str:
    known = [(value, name) for value, name in zip(row, names, strict=True) if value is not None]
    return max(known)[1] if known else ""


def _columns(exchange: Exchange, unit: str) -> dict[str, Any]:
    column = st.column_config
    configured: dict[str, Any] = {
        "Answer of": column.TextColumn(help="The model that wrote it."),
        "Likeliest for": column.TextColumn(help="The model that would most likely have written it."),
    }
    for number, (one, short) in enumerate(zip(exchange.answers, short_names(exchange.answers), strict=True)):
        configured[str(number)] = column.NumberColumn(
            f"under {printable(short)}",
            format="%.3f" if unit == "per token" else "%.1f",
            help=plain(f"Log-probability in nats, {unit}, as {name_of(one)} finds it. Higher is likelier."),
        )
    return configured


def conditions(exchange: Exchange) -> str:
    """Under which conditions all of them answered, as plain text."""
    sampling = exchange.question["sampling"]
    template = _TEMPLATES.get(exchange.template, f"chat template {exchange.template}")
    chance = (
        "always the likeliest token"
        if sampling["temperature"] == 0
        else f"temperature {sampling['temperature']:g}, top p {sampling['top_p']:g}"
    )
    return f"{exchange.base} · same seed ({sampling['seed']}), same {template} for all · {chance}"
