"""What every held-out token cost the base and a run, kept beside the run's measures. No torch, no pickle.

    runs/ID/measured/KEY.npz    one text under one run at full strength: the text, its tokens, the losses of both
    measured/KEY.npz            the losses of a base alone: once per model, device and precision

A by-product of `mixcpt.measuring`, under the keys of `mixcpt.measured`. Losses are nats, -log p(token | what comes
before), of the tokens that are predicted: all but the first of a document, where the tokenizer has no BOS. What this
gives up: some ten kilobytes a text of disk, for the text stands in the file too; so it can be read when the corpus is
gone.
"""

import io
import json
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixcpt.builtin import GENERAL
from mixcpt.errors import Damaged
from mixcpt.measured import folder_of, part_of
from mixcpt.runs import Run
from mixcpt.stamps import Kept
from mixcpt.workspace import write_bytes


@dataclass(frozen=True, eq=False)
class TokenLosses:
    """The held-out tokens of one text, in reading order.

    documents, texts: per piece the document's id and what was read of it. piece: [tokens], which piece a token is of.
    spans: [tokens, 2], where it starts and ends in its piece's text, in characters. kinds: [tokens], places in
    `token_kinds.KINDS`. base, run: [tokens], nats. how: what the losses depend on, as in `measured.Taken`.
    """

    source: str
    part: str
    documents: tuple[str, ...]
    texts: tuple[str, ...]
    piece: np.ndarray
    spans: np.ndarray
    kinds: np.ndarray
    base: np.ndarray
    run: np.ndarray
    how: dict[str, Any]
    finished: str

    @property
    def change(self) -> np.ndarray:
        """Run minus base, [tokens] in nats (float64): below 0 the run expects the token more."""
        difference: np.ndarray = self.run.astype(np.float64) - self.base.astype(np.float64)
        return difference

    @property
    def kind(self) -> str:
        """In a word: the kind of general text, else what part it is."""
        return GENERAL.get(self.source, self.part)


_ARRAYS = {"piece": np.int32, "spans": np.int32, "kinds": np.uint8, "base": np.float32, "run": np.float32}
_FILES: Kept[TokenLosses] = Kept()


def paths(run: Run) -> list[Path]:
    """The files of all texts, also of those that were measured under other conditions before."""
    return sorted(folder_of(run).glob("[!.]*.npz"))


def read(run: Run) -> list[TokenLosses]:
    """Of each text what was measured last: first the field, then general text, then others. Empty where no token was
    kept.

    Raises:
        Damaged: a file is not what it should be.
    """
    newest: dict[str, TokenLosses] = {}
    for path in paths(run):
        one = _FILES.get(str(path), [str(path)], lambda path=path: _read(run, path))  # type: ignore[misc]
        if one.source not in newest or one.finished >= newest[one.source].finished:
            newest[one.source] = one
    places = {name: place for place, name in enumerate([*GENERAL])}
    order = ("field", "general")
    return sorted(
        newest.values(),
        key=lambda one: (
            order.index(one.part) if one.part in order else len(order),
            places.get(one.source, -1),
            one.source,
        ),
    )


def write(path: Path, losses: TokenLosses) -> None:
    """Keep what was measured; the part is known from the run it lies with."""
    facts = {
        "source": losses.source,
        "documents": losses.documents,
        "texts": losses.texts,
        "how": losses.how,
        "finished": losses.finished,
    }
    save(path, facts, {name: getattr(losses, name).astype(kind) for name, kind in _ARRAYS.items()})


def renew(run: Run, path: Path, finished: str) -> None:
    """Let what was kept count as measured at that time."""
    write(path, replace(_read(run, path), finished=finished))


def _read(run: Run, path: Path) -> TokenLosses:
    facts, arrays = load(path)
    try:
        losses = TokenLosses(
            source=facts["source"],
            part=part_of(run, facts["source"]),
            documents=tuple(facts["documents"]),
            texts=tuple(facts["texts"]),
            how=facts["how"],
            finished=facts["finished"],
            **{name: arrays[name] for name in _ARRAYS},
        )
        tokens = len(losses.piece)
        whole = all(len(arrays[name]) == tokens for name in _ARRAYS) and losses.spans.shape == (tokens, 2)
        if not whole or len(losses.texts) != len(losses.documents) or losses.piece.max(initial=-1) >= len(losses.texts):
            raise ValueError("its parts do not belong together")
    except (KeyError, TypeError, ValueError) as problem:
        raise Damaged(f"{path} is damaged ({problem}): move it away and measure again.") from None
    return losses


def save(path: Path, facts: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Arrays and JSON in one file, replaced whole."""
    text = np.frombuffer(json.dumps(facts, ensure_ascii=False).encode("utf-8", "surrogatepass"), dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, facts=text, **arrays)
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Raises Damaged when the file is not what `save` wrote."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        facts = json.loads(arrays.pop("facts").tobytes().decode("utf-8", "surrogatepass"))
        if not isinstance(facts, dict):
            raise ValueError("no facts")
        return facts, arrays
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as problem:
        raise Damaged(f"{path} is damaged ({problem}): move it away and measure again.") from None
