"""What a run learned and what it lost: where held-out text changed most, token by token, against the base. No torch.

The change of a token is its loss under the run minus its loss under the base, in nats: below 0 the run expects it more.
Single tokens are noisy, so changes are **summed over sentences** (ours): a line, or a sentence in it; one of more than
`LONGEST` tokens is parted evenly. Sums over sentences add up to the whole change of a text, so each can be told as its
share of all that was gained (or lost) there. A summary counts every token: by text and by kind of token, with a paired
bootstrap over documents.

What this gives up: the largest of many changes is partly luck and would be smaller on a second look; only the summary
says how much is true of the text as a whole. And nothing here tells why: a sentence may have become likelier for its
words, or for its form.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from mixcpt import token_losses
from mixcpt.errors import NotFound
from mixcpt.measured import DOMAIN, FEW, GENERAL_PART, Interval
from mixcpt.runs import Run
from mixcpt.sentences import stretches
from mixcpt.stamps import Kept
from mixcpt.statistics import leaves_out_zero, paired_ratio_interval
from mixcpt.token_kinds import KINDS
from mixcpt.token_losses import TokenLosses

LONGEST = 40
"""Tokens: a longer sentence is parted."""
SAME = 0.1
"""Nats: a token whose loss moved less, by a tenth of its probability, counts as unchanged."""
BEFORE, AFTER = 32, 12
"""Tokens of context that are shown around a sentence."""
_DRAWS = 2000


@dataclass(frozen=True)
class Span:
    """A sentence of held-out text.

    text: place in `Changes.texts`. first, last: its tokens there, last excluded. base, run: nats in all. share: of all
    that the sentences of its part gained (lost), from 0 to 1.
    """

    text: int
    source: str
    part: str
    kind: str
    document: str
    first: int
    last: int
    base: float
    run: float
    share: float
    words: str

    @property
    def tokens(self) -> int:
        return self.last - self.first

    @property
    def change(self) -> float:
        """Nats in all: below 0 it was learned."""
        return self.run - self.base


@dataclass(frozen=True)
class Token:
    """One token in its context: text, and nats under base and run; None where nothing was predicted. is_inside: of the
    sentence itself."""

    text: str
    base: float | None
    run: float | None
    is_inside: bool


@dataclass(frozen=True)
class Line:
    """A line of the summary: tokens of one text, or of one kind of token in one part; `base` and `run` in nats a token.

    interval: 95 % of run minus base, paired bootstrap over documents. better, worse: shares of the tokens whose loss
    fell or rose by more than `SAME`.
    """

    part: str
    name: str
    tokens: int
    documents: int
    base: float
    run: float
    interval: Interval
    better: float
    worse: float

    @property
    def change(self) -> float:
        return self.run - self.base

    @property
    def verdict(self) -> str:
        """What the change says, and no more than it carries."""
        if self.documents < 2:
            return "of one document only, so nothing can be told"
        few = f", of {self.documents} documents only" if self.documents < FEW else ""
        if not leaves_out_zero(self.interval):
            return f"the same within noise{few}"
        better, worse = ("learned", "got worse") if self.part == DOMAIN else ("got better", "forgot")
        return (better if self.change < 0 else worse) + few


@dataclass(frozen=True)
class Changes:
    """Everything that is known of one run. `spans` are all sentences in reading order."""

    run: str
    texts: tuple[TokenLosses, ...]
    spans: tuple[Span, ...]
    lines: tuple[Line, ...]
    """By text, then by kind of token: the field, then general text."""

    def learned(self, part: str = "") -> list[Span]:
        """The sentences that became likelier, the largest change first; of one part where it is named."""
        found = [span for span in self.spans if span.change < 0 and part in ("", span.part)]
        return sorted(found, key=lambda span: span.change)

    def lost(self, part: str = "") -> list[Span]:
        """The sentences that became less likely, the largest change first."""
        found = [span for span in self.spans if span.change > 0 and part in ("", span.part)]
        return sorted(found, key=lambda span: -span.change)

    def one_learned(self) -> Span | None:
        """What the run is introduced by: the largest gain in its field, else in any text."""
        return next(iter([*self.learned(DOMAIN), *self.learned()]), None)

    def one_lost(self) -> Span | None:
        """The largest loss in general text, else in any text."""
        return next(iter([*self.lost(GENERAL_PART), *self.lost()]), None)

    def in_context(self, span: Span) -> list[Token]:
        """The sentence's tokens with those around it in the same document, which join to its text without a gap."""
        text = self.texts[span.text]
        piece = int(text.piece[span.first])
        own = np.flatnonzero(text.piece == piece)
        first, last = max(int(own[0]), span.first - BEFORE), min(int(own[-1]) + 1, span.last + AFTER)
        found: list[Token] = []
        whole, end = text.texts[piece], int(text.spans[first - 1, 1]) if first > own[0] else 0
        if end < text.spans[first, 0] and whole[end : text.spans[first, 0]].strip():
            found.append(Token(whole[end : text.spans[first, 0]], None, None, False))
            end = int(text.spans[first, 0])
        for place in range(first, last):
            base, run, inside = float(text.base[place]), float(text.run[place]), span.first <= place < span.last
            stop = int(text.spans[place, 1])
            if stop <= end and found and found[-1].base is not None and found[-1].run is not None:
                before = found.pop()  # a further part of the same character
                assert before.base is not None and before.run is not None
                found.append(Token(before.text, before.base + base, before.run + run, before.is_inside))
                continue
            found.append(Token(whole[end:stop], base, run, inside))
            end = max(end, stop)
        return found


def words_of(span: Span) -> str:
    """How much a sentence changed, in words."""
    before, after = span.base / span.tokens, span.run / span.tokens
    gained, part = ("gained" if span.change < 0 else "lost"), {DOMAIN: "the field", GENERAL_PART: "general text"}
    return (
        f"{before:.2f} → {after:.2f} nats a token over {span.tokens} tokens: on average a token had a chance of "
        f"{percent(before)} under the base, and has {percent(after)} now. That is {span.share:.1%} of all that was "
        f"{gained} in {part.get(span.part, span.source)}"
    )


def percent(nats: float) -> str:
    """The probability that a loss in nats stands for."""
    return f"{100 * math.exp(-nats):.2g} %" if nats > 0.005 else "100 %"


_FOUND: Kept[Changes] = Kept()


def changes(run: Run) -> Changes | None:
    """What changed, from the token losses that lie with the run; None where none were kept yet.

    Raises:
        Damaged: a file is not what it should be.
    """
    files = [str(path) for path in token_losses.paths(run)]
    return _FOUND.get((str(run.folder), *files), files, lambda: _changes(run)) if files else None


def require_changes(run: Run) -> Changes:
    """As `changes`.

    Raises:
        NotFound: the run's tokens were not measured yet.
    """
    if found := changes(run):
        return found
    raise NotFound(f"The tokens of {run.id} were not measured yet: run `mixcpt measure {run.id}` first.")


def _changes(run: Run) -> Changes:
    texts = tuple(token_losses.read(run))
    spans = [span for number, text in enumerate(texts) for span in _spans(number, text)]
    return Changes(run.id, texts, tuple(_shared(spans)), tuple(_lines(texts)))


# ---- sentences -------------------------------------------------------------------------------------------------------


def _spans(number: int, text: TokenLosses) -> Iterable[Span]:
    """The sentences of one text; their shares are not known yet."""
    base, run = text.base.astype(np.float64), text.run.astype(np.float64)
    for piece, (document, whole) in enumerate(zip(text.documents, text.texts, strict=True)):
        own = np.flatnonzero(text.piece == piece)
        if not len(own):
            continue
        for first, last in _cut(whole, text.spans[own]):
            start, stop = own[0] + first, own[0] + last
            begins = int(text.spans[start - 1, 1]) if first else 0
            yield Span(
                text=number,
                source=text.source,
                part=text.part,
                kind=text.kind,
                document=document,
                first=int(start),
                last=int(stop),
                base=float(base[start:stop].sum()),
                run=float(run[start:stop].sum()),
                share=0.0,
                words=whole[begins : int(text.spans[stop - 1, 1])].strip(),
            )


def _cut(whole: str, spans: np.ndarray) -> Iterable[tuple[int, int]]:
    """The tokens of each sentence, first to last (excluded). A token is of the sentence in which it ends."""
    ends = np.array([end for _, end in stretches(whole)])
    sentence = np.searchsorted(ends, np.maximum(spans[:, 1] - 1, 0), side="right")
    edges = np.flatnonzero(np.diff(sentence, prepend=-1))
    for first, last in zip(edges.tolist(), [*edges[1:].tolist(), len(spans)], strict=True):
        parts = -(-(last - first) // LONGEST)
        inner = [_word_start(whole, spans, first + (last - first) * part // parts) for part in range(1, parts)]
        yield from pairwise([first, *inner, last])


def _word_start(whole: str, spans: np.ndarray, place: int) -> int:
    """The nearest token at or before `place`, of the ten before, that begins a word; `place` where none does."""
    near = range(place, max(0, place - LONGEST // 4), -1)
    return next((one for one in near if whole[spans[one, 0] : spans[one, 0] + 1].isspace()), place)


def _shared(spans: Sequence[Span]) -> Iterable[Span]:
    """The same with the share that each makes of all that its part gained or lost."""
    sums: dict[tuple[str, bool], float] = {}
    for span in spans:
        key = span.part, span.change < 0
        sums[key] = sums.get(key, 0.0) + span.change
    for span in spans:
        whole = sums[span.part, span.change < 0]
        yield replace(span, share=span.change / whole if whole else 0.0)


# ---- summary ---------------------------------------------------------------------------------------------------------


def _lines(texts: Sequence[TokenLosses]) -> Iterable[Line]:
    for text in texts:
        yield _line(text.part, text.source, [text], None)
    for part in (DOMAIN, GENERAL_PART):
        of_part = [text for text in texts if text.part == part]
        for place, kind in enumerate(KINDS):
            if any((text.kinds == place).any() for text in of_part):
                yield _line(part, kind, of_part, place)


def _line(part: str, name: str, texts: Sequence[TokenLosses], kind: int | None) -> Line:
    """One line, of all tokens or of those of one kind; documents are drawn whole, each with what it has of them."""
    sums, moved = [], []
    for text in texts:
        kept = np.ones(len(text.piece), dtype=bool) if kind is None else text.kinds == kind
        ids = {document: place for place, document in enumerate(dict.fromkeys(text.documents))}
        document = np.array([ids[name] for name in text.documents])[text.piece[kept]]
        weights = [np.ones(len(document)), text.base[kept].astype(np.float64), text.run[kept].astype(np.float64)]
        sums.append(np.stack([np.bincount(document, weights=values, minlength=len(ids)) for values in weights]))
        moved.append(text.change[kept])
    counts, before, after = np.concatenate(sums, axis=1)
    there, change = counts > 0, np.concatenate(moved)
    return Line(
        part=part,
        name=name,
        tokens=int(counts.sum()),
        documents=int(there.sum()),
        base=float(before.sum() / counts.sum()),
        run=float(after.sum() / counts.sum()),
        interval=paired_ratio_interval(before[there].tolist(), after[there].tolist(), counts[there].tolist(), _DRAWS),
        better=float((change < -SAME).mean()),
        worse=float((change > SAME).mean()),
    )
