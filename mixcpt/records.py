"""Records, and how the rows of a file become them.

A row is what a file gives: columns and values of any type. A record is what the rest of the library takes: a document,
a conversation, or a prompt with a chosen and a rejected answer. One file holds one kind of record; a row that does not
fit is refused with its line and reason, never guessed at.

What it gives up: tool calls, pictures in messages, several answers to one prompt (rankings), and preference pairs that
part ways before their last turn.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, get_args

from mixcpt.cleaning import whole
from mixcpt.errors import BadFile

Kind = Literal["documents", "instructions", "preferences"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_TEXT = ("text", "content", "contents", "body", "document", "article", "passage", "page_content", "raw_content")
_TURNS = ("messages", "conversations", "conversation")
_ASK = ("instruction", "prompt", "question", "query")
_MORE = ("input", "context")
_REPLY = ("output", "response", "completion", "answer")
_SYSTEM = ("system", "system_prompt")
_ROLES = {"human": "user", "gpt": "assistant", "model": "assistant", "bot": "assistant", "chatgpt": "assistant"}
_NEEDED = {
    "documents": "a column such as text, content or body",
    "instructions": "columns such as instruction and output, prompt and completion, question and answer, or messages",
    "preferences": "the columns prompt, chosen and rejected",
}
_TRANSCRIPT = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):[ \t]*")
_LOOK_AHEAD = 50  # rows looked at before the columns are judged
_LOOK_AHEAD_REFUSED = 1000  # broken rows held in memory while waiting for a good one


@dataclass(frozen=True, slots=True)
class Message:
    """One turn; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Record:
    """One document (`text`), conversation (`messages`, ending with assistant) or preference (`messages`, ending with
    user, and the two answers). `line` is the line of a text file, the row of a table, the item of a JSON array, and 0
    where a whole file is meant."""

    kind: Kind
    text: str = ""
    messages: tuple[Message, ...] = ()
    chosen: str = ""
    rejected: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    line: int = 0

    def to_json(self) -> str:
        """The canonical form: one line, keys sorted, empty fields left out; where it came from is not part of it."""
        value = {
            "kind": self.kind,
            "text": self.text,
            "messages": [{"role": message.role, "content": message.content} for message in self.messages],
            "chosen": self.chosen,
            "rejected": self.rejected,
            "meta": self.meta,
        }
        return json.dumps({key: part for key, part in value.items() if part}, ensure_ascii=False, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, file: str = "", line: int = 0) -> "Record":
        value = json.loads(text)
        messages = tuple(Message(**message) for message in value.pop("messages", ()))
        return cls(**value, messages=messages, file=file, line=line)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that was left out, and why; `line` as in `Record`."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """Columns and values as a file gives them; `line` as in `Record`, and a note on a guessed or damaged encoding,
    which becomes the record's meta "encoding"."""

    file: str
    line: int
    values: Mapping[str, Any]
    note: str = ""


class _Unusable(Exception):
    """A row that cannot become a record; its message becomes the reason of a `Refusal`."""


def kind_of(values: Mapping[str, Any]) -> Kind | None:
    """The kind told by the columns of one row, or None where they tell nothing (it may still hold a document)."""
    columns = _lower(values)
    if "chosen" in columns and "rejected" in columns:
        return "preferences"
    if "choices" in columns:  # multiple choice: its answer is a number or letter, nothing to learn to say
        return None
    if any(isinstance(columns.get(name), (list, tuple)) for name in _TURNS):
        return "instructions"
    asks = any(name in columns for name in (*_ASK, "input"))
    return "instructions" if asks and any(name in columns for name in _REPLY) else None


def to_records(
    rows: Iterable[Row | Refusal], file: str, kind: Kind | None = None, text_column: str | None = None
) -> Iterator[Record | Refusal]:
    """Turn the rows of one file into records; the first rows decide what its columns mean.

    Raises:
        BadFile: the file holds no rows, or no column that was named or can be guessed.
    """
    rows = iter(rows)
    first = _look_ahead(rows)
    if not first:
        raise BadFile(f"{file} holds no rows: give a file with at least one.")
    good = [row.values for row in first if isinstance(row, Row)]
    if not good:
        yield from (row for row in chain(first, rows) if isinstance(row, Refusal))
        return
    kind, column = _recognise(good, file, kind, text_column)
    for row in chain(first, rows):
        yield row if isinstance(row, Refusal) else _to_record(row, kind, column)


def _look_ahead(rows: Iterator[Row | Refusal]) -> list[Row | Refusal]:
    seen: list[Row | Refusal] = []
    good = 0
    for row in rows:
        seen.append(row)
        good += isinstance(row, Row)
        if good == _LOOK_AHEAD or len(seen) == _LOOK_AHEAD_REFUSED:
            break
    return seen


def _recognise(
    rows: Sequence[Mapping[str, Any]], file: str, kind: Kind | None, text_column: str | None
) -> tuple[Kind, str]:
    columns = list(dict.fromkeys(str(name) for row in rows for name in row))
    if text_column is not None:
        if text_column not in columns:
            raise BadFile(
                f"{file} has no column {text_column!r}; its columns are {_listed(columns)}: name one of them."
            )
        return "documents", text_column
    kinds = [found for row in rows if (found := kind_of(row))]
    kind = kind or (kinds[0] if kinds else None)
    if kind in ("instructions", "preferences"):
        if kind not in kinds:
            raise BadFile(
                f"{file} holds no {kind}; its columns are {_listed(columns)}, but {_NEEDED[kind]} are needed."
            )
        return kind, ""
    if kind is None and {"question", "choices"} <= set(columns):
        raise BadFile(
            f"{file} holds multiple-choice questions, which are no text to train on: bring it as probes, or name a "
            f"text column with --text-column (its columns are {_listed(columns)})."
        )
    column = _text_column(rows, columns)
    if column is None:
        raise BadFile(
            f"{file} has no text column among {_listed(columns)}: name the one that holds the text with --text-column."
        )
    return "documents", column


def _text_column(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str | None:
    """A column with a usual name, else the only one with text, else the one that is clearly prose."""
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in _TEXT:
        if name in by_name:
            return by_name[name]
    strings = {column: [row[column] for row in rows if isinstance(row.get(column), str)] for column in columns}
    lengths = {column: sum(map(len, texts)) / len(texts) for column, texts in strings.items() if texts}
    if not lengths:
        return None
    ranked = sorted(lengths, key=lambda column: -lengths[column])
    best = ranked[0]
    words = sum(len(text.split()) for text in strings[best]) / len(strings[best])
    if len(ranked) == 1:
        return best if words >= 2 else None
    clearly_prose = words >= 8 and lengths[best] >= 2 * lengths[ranked[1]]
    return best if clearly_prose else None


def _to_record(row: Row, kind: Kind, column: str) -> Record | Refusal:
    try:
        if kind == "documents":
            text = _text(row.values, column)
            return Record(kind, text, meta=_meta(row, {column}), file=row.file, line=row.line)
        columns = _lower(row.values)
        if (found := kind_of(columns)) != kind:
            raise _Unusable(f"this row holds {found or 'something else'}, but the file holds {kind}")
        if kind == "instructions":
            messages = _instruction(columns)
            used = {*_ASK, *_MORE, *_REPLY, *_SYSTEM, *_TURNS}
            return Record(kind, messages=messages, meta=_meta(row, used), file=row.file, line=row.line)
        messages, chosen, rejected = _preference(columns)
        meta = _meta(row, {*_ASK, *_MORE, *_SYSTEM, "chosen", "rejected"})
        return Record(kind, "", messages, chosen, rejected, meta, row.file, row.line)
    except _Unusable as error:
        return Refusal(row.file, row.line, str(error))


def _instruction(columns: Mapping[str, Any]) -> tuple[Message, ...]:
    turns = next((columns[name] for name in _TURNS if isinstance(columns.get(name), (list, tuple))), None)
    if turns is None:
        ask = next(name for name in (*_ASK, "input") if name in columns)
        reply = next(name for name in _REPLY if name in columns)
        messages = (*_system(columns), *_turns(columns, ask, "user"), *_turns(columns, reply, "assistant"))
    else:
        messages = tuple(_conversation(turns))
    while messages and messages[-1].role != "assistant":
        messages = messages[:-1]  # a question left open at the end teaches nothing
    if not any(message.role == "user" for message in messages):
        raise _Unusable("the conversation holds no question followed by an answer")
    return messages


def _preference(columns: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str]:
    ask = next((name for name in _ASK if name in columns), None)
    prompt = _turns(columns, ask, "user") if ask else []
    chosen, rejected = (_answer_turns(columns, name, bool(ask)) for name in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if shared:  # both are whole conversations, the prompt's turns included
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
    if [message.role for message in chosen + rejected] != ["assistant", "assistant"]:
        raise _Unusable("chosen and rejected are not one answer each after the same turns")
    prompt = _system(columns) + prompt
    if not prompt or prompt[-1].role != "user":
        raise _Unusable("the prompt does not end with a question of the user")
    if chosen[0].content.strip() == rejected[0].content.strip():
        raise _Unusable("chosen and rejected are the same")
    return tuple(prompt), chosen[0].content, rejected[0].content


def _answer_turns(columns: Mapping[str, Any], name: str, has_prompt: bool) -> list[Message]:
    if has_prompt and isinstance(columns[name], str):
        return [Message("assistant", _text(columns, name))]
    return _turns(columns, name, "assistant")


def _turns(columns: Mapping[str, Any], name: str, role: str) -> list[Message]:
    """The turns in one column: a list of messages, a "Human: … Assistant: …" transcript, or one plain text."""
    if isinstance(columns[name], (list, tuple)):
        return _conversation(columns[name])
    text = _text(columns, name)
    if text.lstrip().startswith("Human:"):
        return _transcript(text)
    if role == "assistant":
        return [Message(role, text)]
    extra = [whole(columns[key]) for key in _MORE if key != name and isinstance(columns.get(key), str)]
    return [Message(role, "\n\n".join(part for part in (text, *extra) if part.strip()))]


def _transcript(text: str) -> list[Message]:
    _, *parts = _TRANSCRIPT.split(text)
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [Message(_ROLES.get(mark.lower(), "assistant"), said.strip()) for mark, said in turns if said.strip()]


def _conversation(turns: Sequence[Any]) -> list[Message]:
    messages = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping):
            raise _Unusable(f"message {number} is {_type(turn)}, not an object with role and content")
        said, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        role = _ROLES.get(said, said) if isinstance(said, str) else said
        if role not in ("system", "user", "assistant"):
            raise _Unusable(f"message {number} has the role {said!r}; system, user and assistant are known")
        if isinstance(content, list):  # content in parts: only text can be learnt from
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
        if not isinstance(content, str):
            raise _Unusable(f"message {number} is {_type(content)}, not text")
        if content.strip():
            messages.append(Message(role, whole(content)))
        elif role != "system":
            raise _Unusable(f"message {number} ({role}) is empty")
    return messages


def _system(columns: Mapping[str, Any]) -> list[Message]:
    texts = [columns[name] for name in _SYSTEM if isinstance(columns.get(name), str)]
    return [Message("system", whole(text)) for text in texts[:1] if text.strip()]


def _text(values: Mapping[str, Any], column: str) -> str:
    if column not in values:
        raise _Unusable(f"{column!r} is missing; the columns here are {_listed(list(values))}")
    value = values[column]
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _Unusable(f"{column!r} holds bytes that are not UTF-8") from error
    if not isinstance(value, str):
        raise _Unusable(f"{column!r} is {_type(value)}, not text")
    if not value.strip():
        raise _Unusable(f"{column!r} is empty")
    return whole(value)


def _meta(row: Row, used: set[str]) -> dict[str, Any]:
    """The columns left over, those of a "meta" object among them, as far as they are plain values."""
    nested = row.values.get("meta")
    flat = {**row.values, **(nested if isinstance(nested, Mapping) else {})}
    plain = {whole(str(key)): value for key, value in flat.items() if not used & {key, str(key).strip().lower()}}
    texts = {key: whole(value) for key, value in plain.items() if isinstance(value, str)}
    # NaN and infinity are left out, for they are not JSON.
    numbers = {key: value for key, value in plain.items() if isinstance(value, (int, float)) and math.isfinite(value)}
    return {**texts, **numbers, **({"encoding": row.note} if row.note else {})}


def _lower(values: Mapping[str, Any]) -> dict[str, Any]:
    return {str(name).strip().lower(): value for name, value in values.items()}


def _type(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return "null" if value is None else names.get(type(value), type(value).__name__)


def _listed(columns: Sequence[Any]) -> str:
    shown = ", ".join(repr(whole(str(column))) for column in columns[:12])
    return shown + (f" and {len(columns) - 12} more" if len(columns) > 12 else "") or "none"
