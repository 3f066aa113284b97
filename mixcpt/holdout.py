"""Hold a part of a corpus out and write both sides: the documents that were named, else random ones, else sections.

What it gives up: sections are made of few documents only, and all of their text is held in memory for it.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from mixcpt.documents import SCHEMA, Documents, writer
from mixcpt.errors import BadCorpus
from mixcpt.intake import Intake, count_tokens
from mixcpt.manifest import SplitInfo, Totals
from mixcpt.split import MAX_FRACTION, choose, cut_and_choose
from mixcpt.tokens import TextTokenizer

FEW_DOCUMENTS = 20  # below this, documents are cut into sections
_SECTION_BATCH = 16  # sections written at once: with few documents they may be large

_Marked = Iterator[tuple[pa.RecordBatch, np.ndarray]]  # rows, and which of them are held out


class _Side:
    """One side on its way to disk, with its totals and a digest of its ids and texts in order."""

    def __init__(self, file: Any):
        self.totals = Totals()
        self.digest = hashlib.sha256()
        self._file = file

    def write(self, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        self._file.write_batch(batch)
        self.totals.documents += batch.num_rows
        self.totals.tokens += sum(batch.column("tokens").to_pylist())
        self.totals.bytes += sum(batch.column("bytes").to_pylist())
        for id_, text in zip(batch.column("id").to_pylist(), batch.column("text").to_pylist(), strict=True):
            self.digest.update(f"{id_}\0{text}\0".encode())


@dataclass(frozen=True)
class HoldOut:
    """What a split needs to know; `fraction` is the wanted share of tokens."""

    name: str
    intake: Intake
    tokenizer: TextTokenizer
    seed: int
    fraction: float
    should_stop: Callable[[], None]

    def write(self, documents: Documents, folder: Path) -> tuple[SplitInfo, str]:
        """Write train.arrow and heldout.arrow into `folder`; returns the split and the fingerprint of both sides.

        Raises:
            BadCorpus: no part can be held out, or a side would be empty.
        """
        held = self._held_groups()
        marked = self._whole(documents, held) if held else self._sections(documents)
        with writer(folder / "train.arrow") as train_file, writer(folder / "heldout.arrow") as heldout_file:
            train, heldout = _Side(train_file), _Side(heldout_file)
            for batch, is_held in marked:
                self.should_stop()
                train.write(batch.filter(pa.array(~is_held)))
                heldout.write(batch.filter(pa.array(is_held)))
        share = heldout.totals.tokens / max(train.totals.tokens + heldout.totals.tokens, 1)
        if not self.intake.is_split_given and not 0 < share <= MAX_FRACTION:
            raise self._impossible()
        method: Literal["documents", "sections", "given"] = "documents" if held else "sections"
        split = SplitInfo(
            seed=self.seed,
            method="given" if self.intake.is_split_given else method,
            fraction=share,
            train=train.totals,
            heldout=heldout.totals,
        )
        return split, hashlib.sha256(train.digest.digest() + heldout.digest.digest()).hexdigest()[:16]

    def _held_groups(self) -> set[int]:
        """The groups of documents to hold out; empty when documents must be cut instead."""
        intake = self.intake
        if intake.is_split_given:
            if not intake.held_groups:
                raise BadCorpus(f"None of the ids to hold out is in the corpus {self.name!r}: check heldout_ids.")
            return intake.held_groups
        if intake.kind == "documents" and len(intake.tokens) < FEW_DOCUMENTS:
            return set()
        weights = np.bincount(intake.group, weights=intake.tokens).astype(int)
        held = choose(weights.tolist(), self.fraction, self.seed)
        if not held and intake.kind != "documents":  # half a conversation is no conversation
            raise self._impossible()
        return held

    def _impossible(self) -> BadCorpus:
        documents, tokens = len(self.intake.tokens), sum(self.intake.tokens)
        return BadCorpus(
            f"The corpus {self.name!r} ({documents:,} documents, {tokens:,} tokens) is too uniform or has too few "
            f"documents to hold about {self.fraction:.0%} out unseen: add more, different text."
        )

    def _whole(self, documents: Documents, held: set[int]) -> _Marked:
        is_held = np.isin(self.intake.group, list(held))
        first = 0
        for batch in documents.batches():
            yield batch, is_held[first : first + batch.num_rows]
            first += batch.num_rows

    def _sections(self, documents: Documents) -> _Marked:
        whole = list(documents)
        pieces = cut_and_choose([one.text for one in whole], sum(self.intake.tokens), self.fraction, self.seed)
        for first in range(0, len(pieces), _SECTION_BATCH):
            some = pieces[first : first + _SECTION_BATCH]
            counts = count_tokens(self.tokenizer, [piece.text for piece in some], self.should_stop)
            rows = [
                {
                    **asdict(whole[piece.document]),
                    "id": f"{whole[piece.document].id}.{number}",
                    "text": piece.text,
                    "bytes": len(piece.text.encode("utf-8")),
                    "tokens": tokens,
                }
                for number, (piece, tokens) in enumerate(zip(some, counts, strict=True), first)
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMA), np.array([piece.held for piece in some])
