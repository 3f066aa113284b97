"""What is measured on the way: held-out bits per byte of the field and of general text, and the distance to the base.

    bits per byte = sum of -log2 p(token) over the predicted tokens / UTF-8 bytes of those tokens.
Unlike loss per token this does not depend on how finely a tokenizer cuts. But between models with other tokenizers it
can be compared only where both read the same text, and the limits and the cuts into pieces are in tokens. A piece
begins with the tokenizer's BOS, as in training; without a BOS nothing comes before its first token, so neither that
token nor its bytes are counted. The same pieces are read every time, packed into rows like training text. It gives up
this: a character whose bytes the edge of a piece parts (only where tokens are parts of characters) counts whole, with
the piece that its first byte is in.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mixcpt.builtin import open_source
from mixcpt.config import MeasureConfig, MixtureConfig
from mixcpt.corpus import Corpus, Side
from mixcpt.heads import output_head
from mixcpt.lssd import Head, token_losses
from mixcpt.mixture import validation_documents
from mixcpt.packing import Row, build_row, cut, pack
from mixcpt.teacher import evaluating, final_hidden, teacher_mode
from mixcpt.token_table import text_of
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

PROMPTS = "builtin/instructions"


@dataclass(frozen=True)
class Sample:
    """A fixed set of held-out pieces, packed; `piece_bytes[i]` are the predicted bytes of piece i."""

    rows: list[Row]
    piece_bytes: list[int]
    documents: list[str]
    """Per piece, the id of the document it comes from."""
    texts: list[str]
    """Per piece, what is read of its document."""
    spans: list[np.ndarray]
    """Per piece, where each predicted token stands in its text: [tokens, 2], start and end in characters."""

    @property
    def tokens(self) -> int:
        return sum(len(row.ids) for row in self.rows)


def sample(
    corpus: Corpus,
    indices: list[int],
    split: Side,
    tokenizer: TextTokenizer,
    config: MixtureConfig,
    limit: int,
    pieces_each: int | None = None,
) -> Sample:
    """The first pieces of the listed documents, up to `limit` tokens, BOS included (the last is shortened to it).

    Args:
        pieces_each: at most so many of one document, so that a few long ones do not fill the limit; None takes all.
    """
    segments: list[tuple[int, np.ndarray]] = []
    piece_bytes: list[int] = []
    documents: list[str] = []
    texts: list[str] = []
    spans: list[np.ndarray] = []
    left, opening = limit, tokenizer.opening
    held = corpus.documents(split)
    for index in indices:
        if left < 2:
            break
        text = text_of(held[index], config)
        ids, offsets = tokenizer.encode_with_offsets(text)
        for start, length in cut(len(ids), config.row_tokens - len(opening))[:pieces_each]:
            end = start + min(length, left - len(opening))
            piece = np.concatenate([opening, ids[start:end]])
            if len(piece) < 2:  # the limit is filled, or this is a document's last token
                break
            segments.append((len(segments), piece))
            known = start + 1 - len(opening)  # tokens of the document up to here are not predicted
            predicted = text[offsets[known - 1][1] if known else 0 : offsets[end - 1][1]]
            piece_bytes.append(len(predicted.encode("utf-8")))
            documents.append(held[index].id)
            first = min(offsets[start - 1][1], offsets[start][0]) if start else 0
            texts.append(text[first : offsets[end - 1][1]])
            spans.append(np.array(offsets[known:end], dtype=np.int32) - first)
            left -= len(piece)
    packed = pack([len(ids) for _, ids in segments], config.row_tokens)
    return Sample(
        [build_row([segments[number] for number in row]) for row in packed], piece_bytes, documents, texts, spans
    )


class Measures:
    """The samples of one run and the way to take them under any state of its model."""

    def __init__(self, workspace: Workspace, tokenizer: TextTokenizer, config: MeasureConfig, mixture: MixtureConfig):
        self.domain = self._domain(workspace, tokenizer, config, mixture)
        self.general = self._heldout(workspace, config.general, tokenizer, mixture, config.general_tokens)
        self.prompts = self._heldout(workspace, PROMPTS, tokenizer, mixture, config.prompt_tokens)
        self._teacher: list[Tensor] = []
        self._teacher_head: Head

    @staticmethod
    def _heldout(
        workspace: Workspace, source: str, tokenizer: TextTokenizer, mixture: MixtureConfig, limit: int
    ) -> Sample:
        corpus = open_source(workspace, source, tokenizer)
        return sample(corpus, list(range(len(corpus.documents("heldout")))), "heldout", tokenizer, mixture, limit)

    @staticmethod
    def _domain(
        workspace: Workspace, tokenizer: TextTokenizer, config: MeasureConfig, mixture: MixtureConfig
    ) -> Sample:
        """The domain sources' pieces, each source given an equal part of the limit."""
        names = mixture.domain_sources()
        parts = []
        for name in names:
            corpus, limit = open_source(workspace, name, tokenizer), config.domain_tokens // len(names)
            if config.on == "validation":
                indices = sorted(validation_documents(corpus, mixture.seed))
                parts.append(sample(corpus, indices, "train", tokenizer, mixture, limit))
            else:
                parts.append(Measures._heldout(workspace, name, tokenizer, mixture, limit))
        return _join(parts)

    def take(self, model: nn.Module) -> dict[str, float]:
        """Domain and general bits per byte, and KL(base || model) in nats per token on general prompts.

        A sample without text leaves its figure out. The base's states on the prompts are computed once and kept.
        """
        figures: dict[str, float] = {}
        head = output_head(model)
        with evaluating(model):
            for name, pieces in (("domain", self.domain), ("general", self.general)):
                if pieces.rows:
                    figures[f"{name}_bits_per_byte"] = bits_per_byte(model, head, pieces)
            if self.prompts.rows:
                figures["prompt_kl"] = self._prompt_kl(model, head)
        return figures

    def _prompt_kl(self, model: nn.Module, head: Head) -> float:
        if not self._teacher:
            with teacher_mode(model):
                self._teacher = [hidden(model, row)[0] for row in self.prompts.rows]
                self._teacher_head = output_head(model)
        nats, counts = kl_by_piece(model, head, self.prompts, self._teacher, self._teacher_head)
        return float(nats.sum() / counts.sum())


def kl_by_piece(
    model: nn.Module,
    head: Head,
    pieces: Sample,
    teacher: list[Tensor],
    teacher_head: Head,
    check: Callable[[], None] = lambda: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Per piece KL(base || model) in nats (float64), summed over its predicted tokens, and how many these are.

    Args:
        teacher: the base's final states [tokens, width] of each row. check: called before each row, to stop early.
    """
    nats, counts = np.zeros(len(pieces.piece_bytes)), np.zeros(len(pieces.piece_bytes), dtype=np.int64)
    for row, states_before in zip(pieces.rows, teacher, strict=True):
        check()
        labels = torch.from_numpy(row.labels[1:]).long().to(states_before.device)
        states = hidden(model, row)[0]
        _, kl = token_losses(states[:-1], states_before[:-1], labels, head, teacher_head=teacher_head)
        np.add.at(nats, row.segment[1:], kl.double().cpu().numpy())
        np.add.at(counts, row.segment[1:], row.labels[1:] >= 0)
    return nats, counts


def bits_by_piece(model: nn.Module, head: Head, pieces: Sample, check: Callable[[], None] = lambda: None) -> np.ndarray:
    """Bits needed for each piece (float64), in the order of `pieces.piece_bytes`; `check` is called before each row."""
    return bits_of(nats_by_token(model, head, pieces, check))


def bits_of(nats: list[np.ndarray]) -> np.ndarray:
    """Sums in bits (float64) of each piece's nats."""
    return np.array([math.fsum(piece) / math.log(2) for piece in nats])


def nats_by_token(
    model: nn.Module, head: Head, pieces: Sample, check: Callable[[], None] = lambda: None
) -> list[np.ndarray]:
    """Per piece -log p of each of its predicted tokens, in nats (float32), as `pieces.spans` has them; `check` is
    called before each row."""
    found: list[np.ndarray] = [np.zeros(0, dtype=np.float32)] * len(pieces.piece_bytes)
    with evaluating(model):
        for row in pieces.rows:
            check()
            states = hidden(model, row)[0]
            labels = torch.from_numpy(row.labels[1:]).long().to(states.device)
            losses = token_losses(states[:-1], None, labels, head)[0].float().cpu().numpy()
            predicted = row.labels[1:] >= 0
            for piece in np.unique(row.segment):
                found[piece] = losses[predicted & (row.segment[1:] == piece)]
    return found


def bits_per_byte(model: nn.Module, head: Head, pieces: Sample) -> float:
    return float(bits_by_piece(model, head, pieces).sum() / sum(pieces.piece_bytes))


@torch.no_grad()
def hidden(model: nn.Module, row: Row) -> Tensor:
    """Final hidden states [1, tokens, width] of one row."""
    device = next(model.parameters()).device
    ids, positions = (torch.from_numpy(array).long().unsqueeze(0).to(device) for array in (row.ids, row.positions))
    return final_hidden(model, ids, positions)


def _join(parts: list[Sample]) -> Sample:
    """Several samples as one, pieces renumbered."""
    rows: list[Row] = []
    piece_bytes: list[int] = []
    documents: list[str] = []
    texts: list[str] = []
    spans: list[np.ndarray] = []
    for part in parts:
        rows += [Row(r.ids, r.positions, r.labels, r.segment + len(piece_bytes)) for r in part.rows]
        piece_bytes += part.piece_bytes
        documents += part.documents
        texts += part.texts
        spans += part.spans
    return Sample(rows, piece_bytes, documents, texts, spans)
