"""One row of a mixture, token by token, with where each comes from and what the model is asked to do with it.

It shows the row that the trainer reads, taken from the same `Mixture`, so nothing here can differ from training.
"""

import zlib
from dataclasses import dataclass

import numpy as np

from mixcpt.mixture import Mixture, Segment
from mixcpt.packing import IGNORED
from mixcpt.records import Record
from mixcpt.token_table import text_of
from mixcpt.tokens import TextTokenizer

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
EXCERPT_CHARACTERS = 20_000
_LONGEST_CHARACTER = 4  # bytes of UTF-8, so at most as many tokens


@dataclass(frozen=True, slots=True)
class PreviewToken:
    """One token of a row.

    `text` is what it stands for, bytes that are only a part of a character as \\xNN. `position` counts in its piece
    from 0. `place` counts in the document's tokens from 0; None for the BOS, which is no part of it. `is_masked`:
    nothing is asked about this token, it is context only.
    """

    text: str
    id: int
    position: int
    place: int | None
    segment: int
    is_begin: bool
    is_end: bool
    is_masked: bool


@dataclass(frozen=True, slots=True)
class PreviewSegment:
    """A piece of one document in a row.

    `number` is that of the source in the mixture, `name` what the document is called (its file), `start` the piece's
    first token in the document, `reading` how often the source is read by then, from 1. `tokens` counts the BOS too.
    """

    number: int
    source: str
    kind: str
    domain: bool
    document: int
    name: str
    start: int
    tokens: int
    reading: int


@dataclass(frozen=True, slots=True)
class RowPreview:
    """Row `number` (from 0); `room` is how many places at its end stay empty."""

    number: int
    tokens: list[PreviewToken]
    segments: list[PreviewSegment]
    room: int

    @property
    def fingerprint(self) -> int:
        """Another number for other tokens."""
        return zlib.crc32(np.array([token.id for token in self.tokens], dtype=np.int64).tobytes())


@dataclass(frozen=True, slots=True)
class Origin:
    """A document as it came, as (role, text) turns, and as the plain text that is trained on.

    `place` is the share of its tokens (0 to 1) that lies before the piece.
    """

    turns: list[tuple[str, str]]
    unified: str
    place: float


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a text of `total` characters, from its character `start` (from 0) on."""

    text: str
    start: int
    total: int


def preview(mixture: Mixture, tokenizer: TextTokenizer, row: int) -> RowPreview:
    """Row `row` (from 0) of a mixture.

    Raises:
        IndexError: the mixture has no such row.
    """
    if not 0 <= row < len(mixture):
        raise IndexError(f"row {row} of {len(mixture)}")
    content = mixture[row]
    firsts = np.flatnonzero(content.positions == 0)
    pieces = [mixture.segment(int(number)) for number in content.segment[firsts]]
    tokens: list[PreviewToken] = []
    for number, (first, piece) in enumerate(zip(firsts, pieces, strict=True)):
        part = slice(first, first + piece.length)
        masked = (content.labels[part] == IGNORED).tolist()
        tokens += _tokens(content.ids[part].tolist(), masked, number, piece.start, len(mixture.opening), tokenizer)
    segments = [_segment(mixture, piece) for piece in pieces]
    return RowPreview(row, tokens, segments, mixture.config.row_tokens - len(tokens))


def origin(mixture: Mixture, segment: PreviewSegment) -> Origin:
    """The whole document that a piece is taken from."""
    document = mixture.corpora[segment.source].documents("train")[segment.document]
    unified = text_of(document, mixture.config)
    place = segment.start / len(mixture.tables[segment.source][segment.document])
    if document.kind == "documents":
        return Origin([("document", document.text)], unified, place)
    record = Record.from_json(document.record)
    turns = [(message.role, message.content) for message in record.messages]
    if document.kind == "preferences":
        turns += [("chosen", record.chosen), ("rejected", record.rejected)]
    return Origin(turns, unified, place)


def excerpt(text: str, place: float, limit: int = EXCERPT_CHARACTERS) -> Excerpt:
    """At most `limit` characters of a text, around the share `place` (0 to 1) of it. Tokens differ in length, so the
    place is about right, not exact."""
    start = max(0, min(round(place * len(text)) - limit // 4, len(text) - limit))
    return Excerpt(text[start : start + limit], start, len(text))


def readings(epochs: float) -> str:
    """How often a source is read: "repeats 6.2 times", "is read once", "is read to 12 %"."""
    if epochs < 0.995:
        return f"is read to {100 * epochs:.2g} %"
    return "is read once" if epochs < 1.05 else f"repeats {epochs:,.1f} times"


def shown(tokenizer: TextTokenizer, ids: list[int]) -> list[str]:
    """Each token as text, the bytes of a character that several tokens share as \\xNN.

    Where a document is cut within a character its bytes cannot be told, and U+FFFD stands for them.
    """
    texts = tokenizer.pieces(ids)
    for first in range(len(ids)):
        for end in range(first + 2, min(first + _LONGEST_CHARACTER, len(ids)) + 1):
            if _UNKNOWN not in texts[first]:
                break
            whole = tokenizer.decode(ids[first:end])
            if _UNKNOWN not in whole:
                texts[first:end] = _bytes(whole.encode(), texts[first:end])
    return texts


def _bytes(whole: bytes, texts: list[str]) -> list[str]:
    """The bytes of `whole`, dealt out to the tokens that make it up. Alone, each byte that goes on with a character
    shows as one U+FFFD, so all sizes are known but the first, which is what remains."""
    sizes = [sum(1 if letter == _UNKNOWN else len(letter.encode()) for letter in text) for text in texts[1:]]
    ends = np.cumsum([len(whole) - sum(sizes), *sizes]).tolist()
    parts = [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    return [part.decode("utf-8", errors="backslashreplace") for part in parts]


def _tokens(
    ids: list[int], masked: list[bool], segment: int, start: int, opening: int, tokenizer: TextTokenizer
) -> list[PreviewToken]:
    return [
        PreviewToken(
            text=text,
            id=id,
            position=position,
            place=None if position < opening else start + position - opening,
            segment=segment,
            is_begin=position < opening,
            is_end=id == tokenizer.eos_id,
            is_masked=masked[position],
        )
        for position, (id, text) in enumerate(zip(ids, shown(tokenizer, ids), strict=True))
    ]


def _segment(mixture: Mixture, piece: Segment) -> PreviewSegment:
    source = mixture.sources[piece.source]
    corpus = mixture.corpora[source]
    document = corpus.documents("train")[piece.document]
    return PreviewSegment(
        number=piece.source,
        source=source,
        kind=corpus.manifest.kind,
        domain=source in mixture.config.domain_sources(),
        document=piece.document,
        name=document.file + (f", line {document.line}" if document.line else ""),
        start=piece.start,
        tokens=piece.length,
        reading=piece.epoch + 1,
    )
