"""Sources and shares into one packed stream of rows, and an honest count of what it holds.

Shares are met in *tokens*, to within one segment a source. A small source repeats (every epoch in a new order) until
its share is full. Sources are interleaved evenly, so any stretch of the stream has nearly the mixture's shares. The
same inputs and seed give the same rows. Where the tokenizer has a BOS every segment begins with it, and it counts as a
token: counts are of what the model reads.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, count
from typing import Any

import numpy as np

from mixcpt.builtin import find_source, open_source
from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.corpus import Corpus
from mixcpt.errors import BadCorpus
from mixcpt.packing import Row, build_row, cut_all, pack
from mixcpt.token_table import TokenTable, is_tokenised, tokenise
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

VALIDATION_SHARE = 0.1
_NOTHING = np.array([], dtype=np.int32)


@dataclass(frozen=True)
class SourceReport:
    """What one source gives to a mixture. Tokens include end tokens; epochs = tokens used / tokens there are."""

    source: str
    kind: str
    domain: bool
    requested_share: float
    realised_share: float
    tokens: int
    available_tokens: int
    documents: int
    available_documents: int
    epochs: float


@dataclass(frozen=True, slots=True)
class Segment:
    """Where a stretch of a row comes from: a piece of one document in its `epoch`-th reading (from 0).

    `start` counts in the document's tokens; `length` is what lies in the row, the BOS included.
    """

    source: int
    document: int
    start: int
    length: int
    epoch: int


class Mixture:
    """A realised mixture: rows by index, where each token comes from, and the count per source.

    Args:
        exclude: per source name, document indices (of the train split) that must not be read.
        opening: ids that every segment begins with (`TextTokenizer.opening`).
    """

    def __init__(
        self,
        config: MixtureConfig,
        corpora: dict[str, Corpus],
        tables: dict[str, TokenTable],
        exclude: dict[str, set[int]] | None = None,
        opening: np.ndarray = _NOTHING,
    ):
        self.config = config
        self.opening = opening
        self.corpora = corpora
        self.tables = tables
        self.sources = list(config.target_tokens())
        kept_out = exclude or {}
        drawn = [
            _draw(name, tables[name], target, config, kept_out.get(name, set()), len(opening))
            for name, target in config.target_tokens().items()
        ]
        self.segments = _interleave(drawn, list(config.target_tokens().values()))
        self._packed = pack(self.segments[:, 3].tolist(), config.row_tokens)
        self.available = [len(pool) for _, pool in drawn]
        self._available_tokens = [
            _read_once(tables[name].lengths[pool], config.row_tokens, len(opening))
            for name, (_, pool) in zip(self.sources, drawn, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, index: int) -> Row:
        return build_row([(number, self.segment_ids(number)) for number in self._packed[index]])

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    def segment(self, number: int) -> Segment:
        source, document, start, length, epoch = (int(value) for value in self.segments[number])
        return Segment(source, document, start, length, epoch)

    def source_of(self, row: Row) -> np.ndarray:
        """Per token of a row, the index in `sources` of where it comes from."""
        source: np.ndarray = self.segments[row.segment, 0]
        return source

    def segment_ids(self, number: int) -> np.ndarray:
        """The token ids of one segment, its BOS included."""
        segment = self.segment(number)
        document = self.tables[self.sources[segment.source]][segment.document]
        end = segment.start + segment.length - len(self.opening)
        return np.concatenate([self.opening, document[segment.start : end]])

    @property
    def tokens(self) -> int:
        return int(self.segments[:, 3].sum())

    @property
    def fullness(self) -> float:
        """Share of the rows' places that hold a token rather than padding."""
        return self.tokens / (len(self) * self.config.row_tokens)

    def report(self) -> list[SourceReport]:
        requested = self.config.target_tokens()
        reports = []
        for number, name in enumerate(self.sources):
            mine = self.segments[self.segments[:, 0] == number]
            tokens = int(mine[:, 3].sum())
            reports.append(
                SourceReport(
                    source=name,
                    kind=self.corpora[name].manifest.kind,
                    domain=name in self.config.domain_sources(),
                    requested_share=requested[name] / sum(requested.values()),
                    realised_share=tokens / self.tokens,
                    tokens=tokens,
                    available_tokens=self._available_tokens[number],
                    documents=len(np.unique(mine[:, 1])),
                    available_documents=self.available[number],
                    epochs=tokens / self._available_tokens[number],
                )
            )
        return reports

    @cached_property
    def row_lengths(self) -> list[int]:
        """Tokens of each row."""
        order = np.fromiter(chain.from_iterable(self._packed), dtype=np.int64, count=len(self.segments))
        starts = np.cumsum([0, *(len(row) for row in self._packed[:-1])])
        lengths: list[int] = np.add.reduceat(self.segments[order, 3], starts).tolist()
        return lengths

    def fingerprint(self) -> str:
        """Hash of every row's ids and positions, in order: equal fingerprints mean equal training data."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256()
        for row in self:
            digest.update(row.ids.tobytes())
            digest.update(row.positions.tobytes())
        return digest.hexdigest()[:16]

    def summary(self) -> dict[str, object]:
        """What a run keeps of its mixture."""
        return {
            "rows": len(self),
            "tokens": self.tokens,
            "fullness": round(self.fullness, 4),
            "sources": [asdict(report) for report in self.report()],
            "fingerprint": self.fingerprint(),
        }


def realise(
    workspace: Workspace,
    config: MixtureConfig,
    tokenizer: TextTokenizer,
    *,
    validation: bool = False,
    should_stop: Callable[[], None] = lambda: None,
) -> Mixture:
    """Open the sources (built-in ones are made when missing), tokenise them, draw, interleave and pack.

    Raises:
        NotFound: a source does not exist. BadCorpus: a source has nothing to draw from.
    """
    corpora = {name: open_source(workspace, name, tokenizer) for name in config.target_tokens()}
    tables = {name: tokenise(corpus, tokenizer, config, should_stop=should_stop) for name, corpus in corpora.items()}
    kept_out = (
        {name: validation_documents(corpora[name], config.seed) for name in config.domain_sources() if name in corpora}
        if validation
        else {}
    )
    return Mixture(config, corpora, tables, kept_out, tokenizer.opening)


def is_ready(workspace: Workspace, config: MixtureConfig, tokenizer: TextTokenizer) -> bool:
    """Whether `realise` would find every corpus made and tokenised, and so answer at once. Reads no document.

    Raises:
        NotFound: a source does not exist.
    """
    corpora = [find_source(workspace, name) for name in config.target_tokens()]
    return all(corpus and is_tokenised(corpus, tokenizer, config) for corpus in corpora)


def needs(config: MixtureConfig) -> dict[str, Any]:
    """All of a mixture that its sources' tokens depend on: two mixtures with equal needs are prepared by one job."""
    return {
        "sources": sorted(config.target_tokens()),
        "joiner": config.joiner,
        "preference_text": config.preference_text,
        "template": config.template,
    }


def needing(needs: dict[str, Any]) -> MixtureConfig:
    """A mixture with these needs; whatever else is said beside them does not count."""
    sources = [SourceShare(source=name, share=1) for name in needs["sources"]]
    texts = {name: needs[name] for name in ("joiner", "preference_text", "template") if name in needs}
    return MixtureConfig(sources=sources, **texts)


def prepare(
    workspace: Workspace,
    config: MixtureConfig,
    tokenizer: TextTokenizer,
    *,
    progress: Callable[[float, str], None] = lambda fraction, message: None,
    should_stop: Callable[[], None] = lambda: None,
) -> None:
    """Make and tokenise every source of a mixture, so that `realise` answers at once.

    Raises:
        NotFound: a source does not exist.
    """
    sources = list(config.target_tokens())
    for number, name in enumerate(sources):
        done, message = number / len(sources), f"Tokenising {name}"
        progress(done, message)
        corpus = open_source(workspace, name, tokenizer)
        tokenise(
            corpus,
            tokenizer,
            config,
            should_stop=should_stop,
            progress=lambda share, done=done, message=message: progress(done + share / len(sources), message),  # type: ignore[misc]
        )


def validation_documents(corpus: Corpus, seed: int) -> set[int]:
    """A tenth of the train documents (at least one), by seed: read by tuning runs instead of the held-out part."""
    count = len(corpus.documents("train"))
    order = _generator(seed, corpus.manifest.name, "validation").permutation(count)
    return set(order[: max(1, round(count * VALIDATION_SHARE))].tolist())


def _generator(seed: int, *names: object) -> np.random.Generator:
    text = "|".join(str(name) for name in (seed, *names))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def _read_once(lengths: np.ndarray, row_tokens: int, opening: int) -> int:
    """Tokens of one reading of documents of these lengths, the opening of each of their segments included."""
    return int(lengths.sum() + opening * (-(-lengths // (row_tokens - opening))).sum())


def _draw(
    name: str, table: TokenTable, target: int, config: MixtureConfig, exclude: set[int], opening: int
) -> tuple[np.ndarray, np.ndarray]:
    """Segments of one source [n, 4] (document, start, length, epoch) up to the target, and the pool drawn from."""
    pool = np.flatnonzero(table.lengths > 1)
    pool = pool[~np.isin(pool, list(exclude))]
    if name in config.domain_sources() and config.domain_documents is not None:
        chosen = _generator(config.seed, name, "narrow").permutation(len(pool))[: config.domain_documents]
        pool = pool[np.sort(chosen)]
    if not len(pool):
        raise BadCorpus(f"The source {name!r} has no documents to draw from: add documents or set its share to 0.")
    readings: list[np.ndarray] = []
    total = 0
    for epoch in count():
        order = pool[_generator(config.seed, name, epoch).permutation(len(pool))]
        piece, start, text = cut_all(table.lengths[order], config.row_tokens - opening)
        length = text + opening
        ends = total + np.cumsum(length)
        reading = np.column_stack([order[piece], start, length, np.full(len(piece), epoch)])
        if ends[-1] >= target:
            last = int(np.searchsorted(ends, target))  # the first with which the target is met
            # Stop at whichever side of the target is nearer; but a source that was asked for gives something.
            missing = target - (ends[last] - length[last])
            is_nearer = ends[last] - target <= missing or (last == 0 and not readings)
            return np.concatenate([*readings, reading[: last + is_nearer]]), pool
        readings.append(reading)
        total = int(ends[-1])
    raise AssertionError("unreachable")


def _interleave(drawn: list[tuple[np.ndarray, np.ndarray]], targets: list[int]) -> np.ndarray:
    """All segments [n, 5] (source, document, start, length, epoch), each source spread evenly over the stream."""
    parts, keys = [], []
    for source, ((segments, _), target) in enumerate(zip(drawn, targets, strict=True)):
        ends = np.cumsum(segments[:, 2])
        keys.append((ends - segments[:, 2] / 2) / max(target, 1))
        parts.append(np.column_stack([np.full(len(segments), source, dtype=np.int64), segments]))
    return np.concatenate(parts)[np.argsort(np.concatenate(keys), kind="stable")]
