"""Chat templates: a conversation to token ids, and exactly which of them are the answers.

A template is a Jinja string, as transformers keeps it beside the tokenizer. It is rendered here piece by piece, so that
two things hold that a rendered whole cannot give:

    what a user wrote is encoded as ordinary text, also where it has the letters of a special token, so that no sample
    can open or end a turn;
    an answer begins on a token of its own, so the ids of the prompt are a prefix of the ids of the whole.

An answer's span ends with its end-of-turn token: a model has to learn when to stop. Rendering the same conversation
with `PlainForm` gives the unified format of stage one, turns joined by blank lines, with the very same answer tokens.

For text without such letters the ids are those of transformers' `apply_chat_template`. What it gives up: templates that
rewrite what a message says (they are refused, with the message that they change), tools, and today's date in a system
turn, which would make scores change overnight.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from mixcpt.errors import BadFile, BadInput, NotFound
from mixcpt.records import Message
from mixcpt.tokens import TextTokenizer

__all__ = ["NAMED", "ChatTemplate", "PlainForm", "Rendered", "Span", "choose_template", "named_template", "template_of"]

OWN = "own"
"""The name of the template that came with a model."""

_MARKED = (
    "{% for message in messages %}{{ OPEN }}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}CLOSE{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ ASK }}{% endif %}"
)


def _marked(opening: str, close: str, ask: str) -> str:
    """A template of marked turns. The assistant's turns end with the tokenizer's own end token, at which every tool
    stops; where that is the mark's usual end, as with SmolLM2 and ChatML, the two are the same."""
    return _MARKED.replace("OPEN", opening).replace("CLOSE", close).replace("ASK", ask)


_SYSTEM_TEXT = "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"

NAMED: dict[str, str] = {
    "chatml": _marked("'<|im_start|>' + message['role'] + '\\n'", "<|im_end|>", "'<|im_start|>' + 'assistant' + '\\n'"),
    "llama3": _marked(
        "'<|start_header_id|>' + message['role'] + '<|end_header_id|>' + '\\n\\n'",
        "<|eot_id|>",
        "'<|start_header_id|>' + 'assistant' + '<|end_header_id|>' + '\\n\\n'",
    ),
    "zephyr": _marked("'<|' + message['role'] + '|>' + '\\n'", "{{ eos_token }}", "'<|assistant|>' + '\\n'"),
    "alpaca": (
        "{% for message in messages %}" + _SYSTEM_TEXT + "{% elif message['role'] == 'user' %}"
        "{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}{% else %}"
        "{{ '### Response:\\n' + message['content'] + eos_token }}{{ '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "question-answer": (
        "{% for message in messages %}" + _SYSTEM_TEXT + "{% elif message['role'] == 'user' %}"
        "{{ 'Question:\\n' + message['content'] + '\\n\\n' }}{% else %}"
        "{{ 'Answer:\\n' + message['content'] + eos_token }}{{ '\\n\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'Answer:\\n' }}{% endif %}"
    ),
}
"""Templates for base models, which bring none. Written for this project after the formats' public descriptions."""


@dataclass(frozen=True)
class Span:
    """Where one answer lies in the ids: its text is [start, text_end), and [start, end) has its end of turn too."""

    start: int
    text_end: int
    end: int


@dataclass(frozen=True)
class Rendered:
    """A conversation as ids (int32), with the span of each of the assistant's turns in order."""

    ids: np.ndarray
    spans: tuple[Span, ...]

    @property
    def response(self) -> Span:
        """The last answer: the one that scores speak of."""
        return self.spans[-1]

    @property
    def prompt(self) -> np.ndarray:
        """What comes before the last answer: the ids a model is given when it shall write one."""
        return self.ids[: self.response.start]

    def mask(self, every_turn: bool = False) -> np.ndarray:
        """True (bool, one a token) where a label counts: the last answer with its end, or every answer."""
        mask = np.zeros(len(self.ids), dtype=bool)
        for span in self.spans if every_turn else self.spans[-1:]:
            mask[span.start : span.end] = True
        return mask


def template_of(folder: Path) -> str | None:
    """The chat template (Jinja) that lies in a model's, a tokenizer's or an adapter's folder; None where there is none.

    Raises:
        BadFile: tokenizer_config.json is not JSON.
    """
    own = folder / "chat_template.jinja"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    settings = folder / "tokenizer_config.json"
    if not settings.is_file():
        return None
    try:
        found = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    except (ValueError, AttributeError):
        raise BadFile(f"{settings} is not a JSON object: fetch the model again.") from None
    if isinstance(found, list):  # several by name; "default" is the one for chats
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    return found if isinstance(found, str) and found else None


def named_template(name: str, tokenizer: TextTokenizer) -> str:
    """The Jinja of a template of `NAMED` for a model with this tokenizer, ready to be saved beside an adapter.

    Raises:
        NotFound: no such template, with those there are.
    """
    if name not in NAMED:
        raise NotFound(f"There is no chat template {name!r}: choose from {', '.join(NAMED)}.")
    # A tokenizer may name a bos_token that it never writes (SmolLM2), so it stands only where texts begin with it.
    return ("" if tokenizer.bos_id is None else "{{ bos_token }}") + NAMED[name]


def choose_template(folder: Path, name: str | None = None, adapter: Path | None = None) -> "ChatTemplate | None":
    """The template to use with the model in `folder`: `name` of `NAMED`, or "own", or by default (None) the one saved
    with the adapter, else the model's own, else no template (None).

    Raises:
        NotFound: an unknown name. BadInput: "own" was asked, and there is none, or it is not valid Jinja.
    """
    if name not in (None, OWN):
        return ChatTemplate(folder, named_template(name, TextTokenizer.from_folder(folder)), name)
    source = (template_of(adapter) if adapter else None) or template_of(folder)
    if source is None and name == OWN:
        raise BadInput(f"The model in {folder} has no chat template of its own: choose from {', '.join(NAMED)}.")
    return None if source is None else ChatTemplate(folder, source, OWN)


class PlainForm:
    """The unified format of stage one: turns joined by blank lines, then the end token. No template, no role marks."""

    name = "plain"

    def __init__(self, tokenizer: TextTokenizer):
        self.tokenizer = tokenizer
        self._joint = tokenizer.encode(["\n\n"])[0]

    def render(self, messages: Sequence[Message]) -> Rendered:
        """As `ChatTemplate.render`."""
        ids, spans = list(self.tokenizer.opening), []
        parts = self.tokenizer.encode([message.content.strip() for message in messages])
        for number, (message, part) in enumerate(zip(messages, parts, strict=True)):
            ids += [*self._joint] if number else []
            start = len(ids)
            ids += [*part]
            if message.role == "assistant":
                spans.append(Span(start, len(ids), len(ids)))
        ids.append(self.tokenizer.eos_id)
        spans[-1] = Span(spans[-1].start, spans[-1].text_end, len(ids))
        return Rendered(np.array(ids, dtype=np.int32), tuple(spans))


class ChatTemplate:
    """A template together with the tokenizer it is rendered for.

    Args:
        folder: of the model, for its tokenizer. source: the Jinja. name: how messages call it.

    Raises:
        BadInput: the source is not valid Jinja.
    """

    def __init__(self, folder: Path, source: str, name: str = OWN):
        self.source, self.name = source, name
        self.tokenizer = TextTokenizer.from_folder(folder)
        self._folder = folder
        self._scaffolds: dict[str, np.ndarray] = {}
        try:
            # Only tells a trainer where answers lie, which is told by the pieces here.
            self._template = _environment().from_string(re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", source))
        except TemplateError as error:
            raise BadInput(f"The chat template {name!r} is not valid Jinja ({error}): choose another.") from error

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the template and with the tokenizer."""
        return hashlib.sha256(f"{self.tokenizer.fingerprint}\n{self.source}".encode()).hexdigest()[:16]

    def render(self, messages: Sequence[Message]) -> Rendered:
        """The ids of a conversation that ends with an answer of the assistant.

        Raises:
            BadInput: the template refuses the conversation, changes what a message says, or begins an answer in
                another way than it asks for one.
        """
        if not messages or messages[-1].role != "assistant":
            raise BadInput("A conversation must end with an answer of the assistant: add one or leave it out.")
        pieces = self._pieces(messages)
        asked = self._pieces(messages[:-1], ask=True)
        before, asked_end = pieces[-3], asked[-1]
        if pieces[: len(asked) - 1] != asked[:-1] or not before.startswith(asked_end):
            self._refuse("does not begin an answer with what it asks for one with")
        pieces[-3] = asked_end
        return self._encoded(messages, pieces, inserted=before.removeprefix(asked_end))

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        """The ids (int32) that ask for an answer to a conversation that ends with a user's turn."""
        pieces = self._pieces(messages, ask=True)
        ids: list[int] = []
        for number, piece in enumerate(pieces):
            last = number == len(pieces) - 1
            ids += [*(self._text(_spaces(pieces[number - 1]) + piece) if number % 2 else self._scaffold(piece, last))]
        return np.array(ids, dtype=np.int32)

    def between_turns(self) -> list[str]:
        """What the template writes after a question and after an answer: its role headers and turn marks as text.

        Raises:
            BadInput: the template does not take two questions and answers.
        """
        turns = [Message(role, text) for text in ("one", "two") for role in ("user", "assistant")]
        return self._pieces(turns)[2::2]

    def _encoded(self, messages: Sequence[Message], pieces: list[str], inserted: str) -> Rendered:
        ids: list[int] = []
        spans: list[Span] = []
        for number, message in enumerate(messages):
            before, content = pieces[2 * number], pieces[2 * number + 1]
            last = number == len(messages) - 1
            ids += [*self._scaffold(before, keep_spaces=last)]
            start = len(ids)
            if last and inserted.strip():  # say, an empty thought: the model has to write it
                ids += [*self._scaffold(inserted, keep_spaces=True)]
            lead = inserted if last and not inserted.strip() else "" if last else _spaces(before)
            ids += [*self._text(lead + content)]
            if message.role == "assistant":
                spans.append(Span(start, len(ids), len(ids) + len(self._ending(pieces[2 * number + 2], last))))
        ids += [*self._ending(pieces[-1], last=True)]
        return Rendered(np.array(ids, dtype=np.int32), tuple(spans))

    def _ending(self, after: str, last: bool) -> np.ndarray:
        """The tokens that end an answer: from its text to the first special token of what follows. Where nothing that
        follows is special, the end token of the tokenizer stands in for it after the last answer."""
        ids = self._scaffold(after, keep_spaces=True)
        marks = np.flatnonzero(np.isin(ids, self.special_ids))
        if len(marks):
            return ids[: marks[0] + 1]
        return np.append(self._scaffold(after.rstrip(), True), self.tokenizer.eos_id) if last else ids[:0]

    def _pieces(self, messages: Sequence[Message], ask: bool = False) -> list[str]:
        """The rendered text cut where contents begin and end: scaffold, content, scaffold, …, content, scaffold."""
        contents = [message.content.strip() for message in messages]
        # No text can hold a hash of itself, so no text can hold the sign that parts it from the scaffold.
        sign = f"\ue000{hashlib.sha256(chr(0).join(contents).encode()).hexdigest()[:24]}\ue001"
        turns = [{"role": m.role, "content": f"{sign}{text}{sign}"} for m, text in zip(messages, contents, strict=True)]
        pieces = self._rendered(turns, ask).split(sign)
        if len(pieces) != 2 * len(contents) + 1 or pieces[1::2] != contents:
            changed = next((n for n, text in enumerate(contents) if pieces[2 * n + 1 : 2 * n + 2] != [text]), 0)
            self._refuse(f"leaves out or changes message {changed + 1} ({messages[changed].role})")
        return pieces

    def _rendered(self, turns: list[dict[str, str]], ask: bool) -> str:
        try:
            return self._template.render(messages=turns, add_generation_prompt=ask, **self._special_texts)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            self._refuse(f"does not take this conversation ({' '.join(str(error).split())[:120]})")

    def _refuse(self, what: str) -> NoReturn:
        raise BadInput(f"The chat template {self.name!r} {what}: choose another, or leave the sample out.")

    def _scaffold(self, text: str, keep_spaces: bool = False) -> np.ndarray:
        """Ids of a part of the template, its special tokens recognised. Spaces at its end go to the content that
        follows, where a tokenizer keeps them; only what asks for an answer must stay as it is."""
        text = text if keep_spaces else text.rstrip(" ")
        if text not in self._scaffolds:
            self._scaffolds[text] = np.array(self._marks.encode(text, add_special_tokens=False).ids, dtype=np.int32)
        return self._scaffolds[text]

    def _text(self, text: str) -> np.ndarray:
        return np.array(self._ordinary.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    @cached_property
    def _marks(self) -> Tokenizer:
        return _clean(Tokenizer.from_file(str(self._folder / "tokenizer.json")))

    @cached_property
    def _ordinary(self) -> Tokenizer:
        """Encodes all special tokens as text. A turn mark that the tokenizer knows as an added token only, as some
        converted ones do, would still be recognised in a text, so it is made special here."""
        file = self._folder / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(file))
        added = tokenizer.get_added_tokens_decoder().values()
        if forgers := {t.content for t in added if not t.special and t.content.strip() and t.content in self.source}:
            settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            for token in settings["added_tokens"]:
                token["special"] |= token["content"] in forgers
            tokenizer = Tokenizer.from_str(json.dumps(settings))
        tokenizer.encode_special_tokens = True
        return _clean(tokenizer)

    @cached_property
    def special_ids(self) -> list[int]:
        """Tokens that mark something and say nothing: the tokenizer's special ones, and the template's own marks."""
        return [
            id
            for id, token in self._marks.get_added_tokens_decoder().items()
            if token.special or (token.content.strip() and token.content in self.source)
        ]

    @cached_property
    def _special_texts(self) -> dict[str, str]:
        """bos_token, eos_token and the like, by which templates call them."""
        settings = self._folder / "tokenizer_config.json"
        values: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8")) if settings.is_file() else {}
        texts = {name: value["content"] if isinstance(value, dict) else value for name, value in values.items()
                 if name.endswith("_token")}  # fmt: skip
        known = {name: text for name, text in texts.items() if isinstance(text, str)}
        ids = {"bos_token": self.tokenizer.bos_id, "eos_token": self.tokenizer.eos_id}
        return {name: "" if id is None else self._marks.id_to_token(id) or "" for name, id in ids.items()} | known


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up, so that templates mean here what they mean there."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _raise
    return environment


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _clean(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _spaces(text: str) -> str:
    return text[len(text.rstrip(" ")) :]
