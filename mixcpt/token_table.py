"""The documents of a corpus as token ids: encoded once, kept beside the corpus, read memory-mapped.

    corpora/NAME/tokens-KEY.ids.npy        the ids of all documents, one after the other, each closed by its end token
    corpora/NAME/tokens-KEY.offsets.npy    where each of them begins; there once the table is whole

KEY is a hash of all that the ids depend on: the split, the tokenizer, the corpus, and how instructions become text.
What this gives up: tables of tokenizers and corpora that are gone stay until the corpus goes.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from mixcpt.config import MixtureConfig
from mixcpt.corpus import Corpus, Side
from mixcpt.documents import Document
from mixcpt.errors import BadInput
from mixcpt.records import Message, Record
from mixcpt.templates import ChatTemplate, choose_template
from mixcpt.tokens import TextTokenizer
from mixcpt.unify import unify
from mixcpt.workspace import locked


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


def is_tokenised(corpus: Corpus, tokenizer: TextTokenizer, config: MixtureConfig, split: Side = "train") -> bool:
    """Whether `tokenise` would find its table. Reads no document."""
    return _table_paths(corpus, tokenizer, config, split)[1].exists()


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
