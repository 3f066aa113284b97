"""Several models answer one question: written in turns, compared token by token, then scored under each other.

The models take turns of a few tokens, so that all answers grow side by side although one model computes at a time.
Afterwards every answer is read by every model: its log-probability there tells how likely that model would have been
to write it. What this gives up: the speed of writing several answers in one batch, which would move their last digits.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mixcpt.errors import Diverged
from mixcpt.exchanges import Answer, Exchange, first_difference
from mixcpt.generation import Writer
from mixcpt.prompts import Form, Prepared
from mixcpt.readings import Text
from mixcpt.records import Message
from mixcpt.resident import Resident
from mixcpt.runs import Run
from mixcpt.scoring import losses_of, per_token
from mixcpt.templates import Span
from mixcpt.tokens import TextTokenizer

TURN_TOKENS = 8
"""Tokens that a model writes before the next one has its turn: to switch adapters costs about as much as a token."""

Check = Callable[[], None]
"""Called before every token; raises Interrupted, whose state is stopped or interrupted, when writing must end."""


def answer(resident: Resident, prepared: Prepared, changed: Callable[[], None], check: Check) -> None:
    """Have all voices answer, then score; `prepared.exchange` is kept up to date, and `changed` called, all along.

    Raises:
        Interrupted: by `check`; what was written stays. Diverged: a model gives no numbers. BadInput, BadFile: an
        adapter is gone, or was made for another base.
    """
    exchange = prepared.exchange
    exchange.state = "writing"
    changed()
    _write(resident, prepared, changed, check)
    exchange.state = "scoring"
    changed()
    _score(resident, prepared, check)
    exchange.state = "done"
    changed()


def _write(resident: Resident, prepared: Prepared, changed: Callable[[], None], check: Check) -> None:
    answers, voices = prepared.exchange.answers, prepared.question.voices
    writers = [
        Writer(resident.config, prompt, prepared.question.sampling, prepared.ends, resident.tokenizer.vocabulary)
        for prompt in prepared.prompts
    ]
    while not all(writer.ended for writer in writers):
        for number, writer in enumerate(writers):
            if writer.ended:
                continue
            resident.use(prepared.runs[number], voices[number].strength)
            for _ in range(TURN_TOKENS):
                check()
                started = time.perf_counter()
                token = writer.write(resident.model)
                answers[number].seconds += time.perf_counter() - started
                _add(answers[number], token, writer.ended, resident.tokenizer)
                _compare(prepared.exchange, resident.tokenizer)
                changed()
                if writer.ended:
                    break


def _add(answer: Answer, token: int, ended: str, tokenizer: TextTokenizer) -> None:
    answer.ids.append(token)
    answer.pieces += tokenizer.pieces([token])
    answer.ended = ended
    answer.text = _readable(tokenizer, answer.ids[:-1] if ended == "end" else answer.ids, whole=bool(ended))


def _readable(tokenizer: TextTokenizer, ids: Sequence[int], whole: bool = False) -> str:
    """The text of tokens; a character that is not `whole` yet is held back."""
    text = tokenizer.decode(ids)
    return text if whole else text.rstrip("\N{REPLACEMENT CHARACTER}")


def _compare(exchange: Exchange, tokenizer: TextTokenizer) -> None:
    """Mark in each answer the first token that differs from the first answer's."""
    first, *others = exchange.answers
    for other in others:
        place = first_difference(first.ids, other.ids)
        if place is not None:
            start = len(_readable(tokenizer, other.ids[:place]))
            stop = max(start, min(len(other.text), len(_readable(tokenizer, other.ids[: place + 1]))))
            other.differs = {"token": place, "start": start, "stop": stop}


def _score(resident: Resident, prepared: Prepared, check: Check) -> None:
    """-log p of each token of each answer under each model, in the conversation in which it was written."""
    answers = prepared.exchange.answers
    texts = [_as_text(prompt, answer.ids) for prompt, answer in zip(prepared.prompts, answers, strict=True)]
    found: list[list[list[float]]] = [[[] for _ in answers] for _ in answers]
    for model, (run, voice) in enumerate(zip(prepared.runs, prepared.question.voices, strict=True)):
        resident.use(run, voice.strength)
        for batch in losses_of(resident.model, resident.head, texts):
            check()
            for number, losses in batch:
                found[number][model] = _finite(losses[texts[number].span.start :], answers[model].title)
    for answer, nats in zip(answers, found, strict=True):
        answer.nats = nats


def _as_text(prompt: np.ndarray, ids: Sequence[int]) -> Text:
    whole = np.concatenate([prompt, np.array(ids, dtype=np.int32)])
    return Text("", "talk", whole, Span(len(prompt), len(whole), len(whole)), first=len(prompt))


def _finite(losses: np.ndarray, title: str) -> list[float]:
    if not np.isfinite(losses).all():
        raise Diverged(f"{title} gives no number for an answer: its weights are damaged.")
    return [round(float(loss), 6) for loss in losses]


def losses(resident: Resident, run: Run | None, form: Form, messages: Sequence[Message]) -> dict[str, Any]:
    """Losses token by token of a conversation that ends with an answer: lists of equal length.

    ids, texts: its tokens. base, adapted: -log p of each in nats, 0 for the first; `adapted` is None without a run.
    mask: True where a label counts when a model is trained on it, the last answer and its end.

    Raises:
        BadInput: the conversation ends with no answer, or the template does not take it.
    """
    rendered = form.render(messages)
    resident.use(run)
    found = per_token(resident.model, rendered)
    ids = [int(id) for id in found.ids]
    name = run.title if run else resident.base.name
    return {
        "ids": ids,
        "texts": resident.tokenizer.pieces(ids),
        "base": _finite(found.base, resident.base.name),
        "adapted": _finite(found.adapted, name) if run else None,
        "mask": [bool(counts) for counts in found.mask],
    }
