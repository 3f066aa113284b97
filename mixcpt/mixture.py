"""Sources and shares into one packed stream of rows, and an honest count of what it holds.

Shares are met in *tokens*, to within one segment a source. A small source repeats (every epoch in a new order) until
its share is full. Sources are interleaved evenly, so any stretch of the stream has nearly the mixture's shares. The
same inputs and seed give the same rows. Where the tokenizer has a BOS every segment begins with it, and it counts as a
token: counts are of what the model reads.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from mixcpt.builtin import find_source, open_source
from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.corpus import Corpus, Side
from mixcpt.documents import Document
from mixcpt.errors import BadCorpus, BadInput
from mixcpt.packing import Row, build_row, cut_all, pack
from mixcpt.records import Message, Record
from mixcpt.templates import ChatTemplate, choose_template
from mixcpt.tokens import TextTokenizer
from mixcpt.unify import unify
from mixcpt.workspace import Workspace, locked

VALIDATION_SHARE = 0.1
_NOTHING = np.array([], dtype=np.int32)


@dataclass(frozen=True)
class TokenTable:
    """Token ids of many texts, flat: text i is `ids[offsets[i]:offsets[i + 1]]`, its end token included."""

    ids: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> np.ndarray:
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)


def text_of(document: Document, config: MixtureConfig) -> str:
    """The unified text of one document, instruction or preference pair, as the mixture trains on it."""
    if document.kind == "documents":
        return document.text
    record = Record.from_json(document.record)
    return unify(record, joiner=config.joiner, preference=config.preference_text)


def tokenise(
    corpus: Corpus,
    tokenizer: TextTokenizer,
    config: MixtureConfig,
    split: Side = "train",
    should_stop: Callable[[], None] = lambda: None,
    progress: Callable[[float], None] = lambda fraction: None,
) -> TokenTable:
    """Token ids of every document of a split, the end-of-sequence token closing each; kept on disk beside the corpus.

    The table is read memory-mapped, so opening it a second time costs nothing. `progress` is told the share (0 to 1)
    of the documents that are done.
    """
    ids_path, offsets_path = _table_paths(corpus, tokenizer, config, split)
    with locked(corpus.folder / ".tokens.lock"):
        if not offsets_path.exists():
            pieces = _encode(corpus, tokenizer, config, split, should_stop, progress)
            _write_table(pieces, ids_path, offsets_path)
    return TokenTable(np.load(ids_path, mmap_mode="r"), np.load(offsets_path, mmap_mode="r"))


def _table_paths(corpus: Corpus, tokenizer: TextTokenizer, config: MixtureConfig, split: Side) -> tuple[Path, Path]:
    """Where the ids and the offsets of a corpus lie, by all that they depend on."""
    settings = f"{split}|{tokenizer.fingerprint}|{corpus.manifest.fingerprint}"
    if corpus.manifest.kind != "documents":
        settings += f"|{config.joiner}|{config.preference_text}"
        if config.template != "none":
            settings += f"|{_template(tokenizer, config).fingerprint}"
    key = hashlib.sha256(settings.encode()).hexdigest()[:16]
    return corpus.folder / f"tokens-{key}.ids.npy", corpus.folder / f"tokens-{key}.offsets.npy"


def _encode(
    corpus: Corpus,
    tokenizer: TextTokenizer,
    config: MixtureConfig,
    split: Side,
    should_stop: Callable[[], None],
    progress: Callable[[float], None],
) -> list[np.ndarray]:
    documents, end = corpus.documents(split), np.array([tokenizer.eos_id], dtype=np.int32)
    pieces: list[np.ndarray] = []
    chat = corpus.manifest.kind != "documents" and config.template != "none"
    for first in range(0, len(documents), 500):
        should_stop()
        progress(first / len(documents))
        if chat:
            template = _template(tokenizer, config)
            pieces += [_chat_ids(document, template) for document in documents[first : first + 500]]
            continue
        texts = [text_of(document, config) for document in documents[first : first + 500]]
        pieces += [np.concatenate([ids, end]) for ids in tokenizer.encode(texts)]
    return pieces


@lru_cache(4)
def _loaded(folder: Path, name: str, fingerprint: str) -> ChatTemplate:
    found = choose_template(folder, name)
    assert found is not None, "a template that is named is found or refused"
    return found


def _template(tokenizer: TextTokenizer, config: MixtureConfig) -> ChatTemplate:
    """The chat template in which instructions and pairs are read.

    Raises:
        BadInput: the model has none of its own.
    """
    if tokenizer.folder is None:
        raise BadInput("A mixture in a chat template needs the tokenizer of a model's folder: read it from there.")
    return _loaded(tokenizer.folder, config.template, tokenizer.fingerprint)


def _chat_ids(document: Document, template: ChatTemplate) -> np.ndarray:
    """The ids of a conversation in the template, its end token included and what every segment begins with left out.
    One that the template cannot take is its end token alone, which nothing is drawn from."""
    record, end = Record.from_json(document.record), template.tokenizer.eos_id
    messages = list(record.messages)
    if record.kind == "preferences":
        messages.append(Message("assistant", record.chosen))
    try:
        ids = template.render(messages).ids
    except BadInput:
        return np.array([end], dtype=np.int32)
    opening = template.tokenizer.opening
    if len(opening) and ids[0] == opening[0]:
        ids = ids[1:]
    return ids if ids[-1] == end else np.append(ids, np.int32(end))


def _write_table(pieces: list[np.ndarray], ids_path: Path, offsets_path: Path) -> None:
    """The offsets are renamed into place last: their presence says that the table is whole."""
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces])]).astype(np.int64)
    ids = np.concatenate(pieces) if pieces else np.array([], dtype=np.int32)
    for path, array in ((ids_path, ids), (offsets_path, offsets)):
        temporary = path.with_name("." + path.name)
        np.save(temporary, array)
        temporary.replace(path)


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
    return all(corpus and _table_paths(corpus, tokenizer, config, "train")[1].exists() for corpus in corpora)


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
