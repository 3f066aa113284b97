"""An exchange: one question and what several models answer to it. What is asked, how it stands, and where it is kept.

Several models answer the same conversation under the same template and the same seed, so what differs between their
answers comes from the models alone. An exchange is a file, serve/exchanges/ID.json, written when it is asked, every
second while it is answered, and at its end: so a page that is loaded again goes on with it, and what was written
outlives the process that wrote it. What this gives up: conversations of long ago; the latest 200 exchanges are kept.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from mixcpt.errors import Damaged, NotFound
from mixcpt.score_jobs import NO_TEMPLATE
from mixcpt.settings import Config, setting
from mixcpt.wire import serve_folder
from mixcpt.workspace import Workspace, check_name, new_id, now, read_json, write_json

KEPT = 200
BROKEN_OFF = (
    "The inference process ended while it answered, perhaps killed for want of memory: what it had written is kept, "
    "and the next question starts it anew."
)
FINAL = ("done", "stopped", "interrupted", "failed")
"""States in which an exchange does not move any more. Before: waiting, loading, writing, scoring."""
MODELS_AT_ONCE = 8


class Sampling(Config):
    """How the next token is taken from what a model finds likely."""

    temperature: float = setting(
        0.0,
        label="Temperature",
        level="basic",
        ge=0,
        le=5,
        help="0 always takes the likeliest token (greedy). Above, tokens are drawn by chance: 1 as likely as the model "
        "says, lower sticks to what is likely, higher dares more.",
    )
    top_p: float = setting(
        1.0,
        label="Top p",
        level="basic",
        gt=0,
        le=1,
        help="Draws only from the likeliest tokens that together reach this probability. 1 leaves none out.",
    )
    max_new_tokens: int = setting(
        128,
        label="Longest answer",
        unit="tokens",
        level="basic",
        ge=1,
        le=2048,
        help="An answer that has not ended by itself is cut after so many tokens.",
    )
    seed: int = setting(
        0,
        label="Seed",
        level="basic",
        ge=0,
        lt=2**63,
        help="The same seed gives the same answers. Every model draws with the same luck, so where two models think "
        "alike they also answer alike.",
    )


class Turn(Config):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=400_000)


class Voice(Config):
    """A model that answers: a run's adapter on its base, at some strength, or the base alone (`run` null)."""

    run: str | None = None
    strength: float = Field(default=1.0, ge=0, le=1)


class Question(Config):
    """What is asked, and of whom.

    messages: end with a user's turn. after: an exchange that this one continues: every model is given the
    conversation that it has had so far, with its own answers, and then `messages`. template: "own", a name of
    `templates.NAMED` or "none"; null takes the one of the last run that is named, else the model's own, else none.
    model: the base where no run is named.
    """

    voices: list[Voice] = Field(min_length=1, max_length=MODELS_AT_ONCE)
    messages: list[Turn] = Field(min_length=1, max_length=200)
    after: str | None = None
    template: str | None = None
    model: str = "smollm2-135m"
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if self.messages[-1].role != "user":
            raise ValueError("the conversation ends with no question: let its last message be the user's")
        if not self.messages[-1].content.strip():
            raise ValueError("the question is empty: write one")
        return self


@dataclass
class Answer:
    """What one model has written so far.

    ids, pieces: its tokens, the end token included where it wrote one; `text` is without it. ended: "" while it is
    written, then end (by itself), length (cut), stopped or interrupted. seconds: time spent on it. differs: place of
    the first token that is another one than in the first answer, and where that token stands in `text` (characters
    start to stop); None as long as there is none. nats: per model of the exchange, -log p of each of these tokens.
    """

    run: str | None
    strength: float
    title: str
    stage: str
    ids: list[int] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    text: str = ""
    ended: str = ""
    seconds: float = 0.0
    differs: dict[str, int] | None = None
    nats: list[list[float]] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float | None:
        return len(self.ids) / self.seconds if self.seconds > 0 else None


@dataclass
class Exchange:
    """A question with its answers, one for each of its voices. `conversations` are the messages that each of them was
    given; `template` is the name of the one that was used."""

    id: str
    created: str
    question: dict[str, Any]
    answers: list[Answer]
    conversations: list[list[dict[str, str]]]
    state: str = "waiting"
    message: str = ""
    template: str = NO_TEMPLATE
    base: str = ""

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    def end(self, state: str, message: str) -> None:
        """Nothing more is written; answers that are not whole say why."""
        self.state, self.message = state, message
        for answer in self.answers:
            answer.ended = answer.ended or ("stopped" if state == "stopped" else "interrupted")


def begin(question: Question, answers: list[Answer], conversations: list[list[dict[str, str]]]) -> Exchange:
    """A new exchange in which nothing was answered yet."""
    return Exchange(new_id("talk"), now(), question.model_dump(), answers, conversations)


def to_dict(exchange: Exchange) -> dict[str, Any]:
    return asdict(exchange)


def from_dict(values: dict[str, Any]) -> Exchange:
    return Exchange(**{**values, "answers": [Answer(**answer) for answer in values["answers"]]})


def log_probabilities(exchange: Exchange) -> list[list[float | None]]:
    """Log-probability in nats of each answer (rows) under each model (columns): the sum over its tokens, the end token
    included where it wrote one, each given the conversation and the tokens before it. None where it is not known."""
    width = len(exchange.answers)
    return [
        [-math.fsum(nats) if nats else None for nats in answer.nats] if answer.nats else [None] * width
        for answer in exchange.answers
    ]


def first_difference(first: Sequence[int], other: Sequence[int]) -> int | None:
    """Place of the first token in which two answers differ; None where there is none (yet). Because end tokens are
    part of the answers, one that ended where the other goes on differs there."""
    places = (place for place, (one, two) in enumerate(zip(first, other, strict=False)) if one != two)
    return next(places, None)


class Exchanges:
    """The exchanges of a workspace, on disk."""

    def __init__(self, workspace: Workspace):
        self.folder = serve_folder(workspace) / "exchanges"

    def save(self, exchange: Exchange) -> None:
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / f"{exchange.id}.json", to_dict(exchange))

    def get(self, id: str) -> Exchange:
        """Raises NotFound when there is none of this id (any more), Damaged when its file cannot be read."""
        path = self.folder / f"{check_name(id, 'exchange')}.json"
        if not path.is_file():
            raise NotFound(f"There is no exchange {id}: only the latest {KEPT} are kept, ask again.")
        try:
            return from_dict(read_json(path))
        except (TypeError, KeyError, AttributeError) as error:
            raise Damaged(f"{path} is damaged ({error}): ask again.") from None

    def unfinished(self) -> list[Exchange]:
        """Those that a process left in the middle of its work, oldest first."""
        found = []
        for path in sorted(self.folder.glob("talk-*.json")):
            try:
                exchange = self.get(path.stem)
            except Damaged:  # it says so to whoever asks for it
                continue
            if not exchange.is_final:
                found.append(exchange)
        return found

    def prune(self) -> None:
        """Remove the oldest, so that the latest `KEPT` stay."""
        for path in sorted(self.folder.glob("talk-*.json"))[:-KEPT]:
            path.unlink(missing_ok=True)
