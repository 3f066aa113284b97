"""Records to the rows of a corpus: cleaned, without exact duplicates, with token counts, and counted for the report.

What it gives up: near-duplicates stay, and the token count of a text beyond 50,000 characters is the sum over its
parts (a token or two more than in one piece), so that a huge one does not fill the memory.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from mixcpt.cleaning import clean, fingerprint
from mixcpt.documents import SCHEMA
from mixcpt.manifest import RefusedItem
from mixcpt.records import Kind, Message, Record, Refusal
from mixcpt.split import cut
from mixcpt.tokens import TextTokenizer
from mixcpt.unify import unify

MAX_LISTED = 1000  # refusals kept word for word
_BATCH = 500  # documents
_BATCH_CHARACTERS = 2_000_000
_PART = 50_000  # characters given to the tokenizer in one piece
_MAX_BYTES = 2_000_000_000  # of one document: Arrow counts the bytes of a string column in 31 bits


class Intake:
    """Takes records in and keeps the books.

    `tokens` and `group` have one entry a document taken. Documents with the same text form a group (two preferences
    may share prompt and chosen answer), which a split must not tear apart; `held_groups` are those that `heldout_ids`
    name by the records' `meta` entries "id" or "doc_id".
    """

    def __init__(
        self,
        kind: Kind | None,
        tokenizer: TextTokenizer,
        should_stop: Callable[[], None],
        heldout_ids: Collection[str] | None = None,
    ):
        self.kind = kind
        self.is_split_given = heldout_ids is not None
        self.tokens: list[int] = []
        self.group: list[int] = []
        self.held_groups: set[int] = set()
        self.characters = self.bytes = self.duplicates = self.refused_total = 0
        self.refused: list[RefusedItem] = []
        self.by_file: Counter[str] = Counter()
        self.notes: dict[str, str] = {}
        self._tokenizer, self._should_stop = tokenizer, should_stop
        self._heldout_ids = frozenset(heldout_ids or ())
        self._seen: set[str] = set()
        self._groups: dict[str, int] = {}

    def batches(self, records: Iterable[Record | Refusal]) -> Iterator[pa.RecordBatch]:
        """The rows (see `documents.SCHEMA`) of the records that are good and new, in their order."""
        rows: list[dict[str, Any]] = []
        characters = 0
        for record in records:
            self._should_stop()
            row = record if isinstance(record, Refusal) else self._row(record)
            if isinstance(row, Refusal):
                self._refuse(row)
            elif row is not None:
                rows.append(row)
                characters += len(row["text"])
            if len(rows) == _BATCH or characters >= _BATCH_CHARACTERS:
                yield self._batch(rows)
                rows, characters = [], 0
        if rows:
            yield self._batch(rows)

    def _row(self, record: Record) -> dict[str, Any] | Refusal | None:
        """The row of a record, without its tokens; None for a duplicate."""
        self.kind = self.kind or record.kind
        if record.kind != self.kind:
            reason = f"it holds {record.kind}, but this corpus holds {self.kind}: make another corpus of it"
            return Refusal(record.file, record.line, reason)
        record = _cleaned(record)
        text = unify(record)
        size = len(text.encode("utf-8"))
        if not text or _has_gap(record):
            return Refusal(record.file, record.line, "nothing is left after cleaning")
        if size > _MAX_BYTES:
            return Refusal(record.file, record.line, f"it is {size / 1e9:.1f} GB long: split it into parts below 2 GB")
        same_text = fingerprint(text)
        group = self._groups.setdefault(same_text, len(self._groups))
        if self._heldout_ids & {str(record.meta[key]) for key in ("id", "doc_id") if key in record.meta}:
            self.held_groups.add(group)
        is_document = record.kind == "documents"
        content = same_text if is_document else fingerprint(replace(record, meta={}).to_json())
        if content in self._seen:
            self.duplicates += 1
            return None
        self._seen.add(content)
        self.group.append(group)
        self.by_file[record.file] += 1
        if note := record.meta.get("encoding"):
            self.notes[record.file] = str(note)
        return {
            "id": hashlib.sha256(f"{record.file}\0{record.line}\0{content}".encode()).hexdigest()[:16],
            "kind": record.kind,
            "text": text,
            "record": "" if is_document else record.to_json(),
            "file": record.file,
            "line": record.line,
            "bytes": size,
        }

    def _refuse(self, refusal: Refusal) -> None:
        self.refused_total += 1
        if len(self.refused) < MAX_LISTED:
            self.refused.append(RefusedItem(file=refusal.file, line=refusal.line, reason=refusal.reason))

    def _batch(self, rows: list[dict[str, Any]]) -> pa.RecordBatch:
        counts = count_tokens(self._tokenizer, [row["text"] for row in rows], self._should_stop)
        self.tokens += counts
        self.characters += sum(len(row["text"]) for row in rows)
        self.bytes += sum(row["bytes"] for row in rows)
        counted = [{**row, "tokens": tokens} for row, tokens in zip(rows, counts, strict=True)]
        return pa.RecordBatch.from_pylist(counted, schema=SCHEMA)


def count_tokens(tokenizer: TextTokenizer, texts: Sequence[str], should_stop: Callable[[], None]) -> list[int]:
    """The number of tokens of each text, no special tokens among them."""
    counts = [0] * len(texts)
    parts = [(i, text[start:end]) for i, text in enumerate(texts) for start, end in cut(text, _PART)]
    step = _BATCH_CHARACTERS // _PART if len(parts) > len(texts) else _BATCH
    for first in range(0, len(parts), step):
        should_stop()
        some = parts[first : first + step]
        for (i, _), ids in zip(some, tokenizer.encode([part for _, part in some]), strict=True):
            counts[i] += len(ids)
    return counts


def _cleaned(record: Record) -> Record:
    if record.kind == "documents":
        return replace(record, text=clean(record.text))
    messages = tuple(Message(message.role, clean(message.content)) for message in record.messages)
    return replace(record, messages=messages, chosen=clean(record.chosen), rejected=clean(record.rejected))


def _has_gap(record: Record) -> bool:
    answers = [record.chosen, record.rejected] if record.kind == "preferences" else []
    return not all([*answers, *(message.content for message in record.messages)])
