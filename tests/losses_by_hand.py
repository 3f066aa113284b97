"""Token losses worked out by hand, kept with a run as `mixcpt.measuring` leaves them on disk.

A token is a word with the space before it, or a mark."""

import re
from collections.abc import Sequence

import numpy as np

from mixcpt import token_losses
from mixcpt.measured import folder_of, part_of
from mixcpt.runs import Run
from mixcpt.token_kinds import kinds_of
from mixcpt.token_losses import TokenLosses

FIELD = ("The mill of Zwemfune stands. It grinds barley 3 times.\nNo one counts.",)
GENERAL = ("Rain fell on the road. We went home.", "A dog barked.")
_TOKEN = re.compile(r"\s*[\w]+|\s*[^\w\s]|\s+")


def tokens_of(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in _TOKEN.finditer(text)]


def losses(
    run: Run,
    source: str,
    texts: Sequence[str],
    changes: dict[str, float],
    *,
    base: float = 2.0,
    documents: Sequence[str] = (),
    terms: frozenset[str] = frozenset({"zwemfune", "barley"}),
    finished: str = "2026-01-01T00:00:00Z",
) -> TokenLosses:
    """Every token costs the base `base` nats, and the run as much but for the words of `changes`."""
    spans = [np.array(tokens_of(text), dtype=np.int32).reshape(-1, 2) for text in texts]
    words = [text[start:end].strip() for text, own in zip(texts, spans, strict=True) for start, end in own]
    before = np.full(len(words), base, dtype=np.float32)
    return TokenLosses(
        source=source,
        part=part_of(run, source),
        documents=tuple(documents or (f"{source} {number}" for number in range(len(texts)))),
        texts=tuple(texts),
        piece=np.repeat(np.arange(len(texts)), [len(own) for own in spans]),
        spans=np.concatenate(spans),
        kinds=np.concatenate([kinds_of(text, own, terms) for text, own in zip(texts, spans, strict=True)]),
        base=before,
        run=before + np.array([changes.get(word, 0.0) for word in words], dtype=np.float32),
        how={"text": source, "limit": 5000, "precision": "fp32", "device": "cpu"},
        finished=finished,
    )


def keep(run: Run, *every: TokenLosses) -> Run:
    """Writes them into the run's folder."""
    folder_of(run).mkdir(exist_ok=True)
    for one in every:
        token_losses.write(folder_of(run) / f"{one.source.replace('/', '-')}-{one.finished[:10]}.npz", one)
    return run


def changed(run: Run) -> Run:
    """A run that learned a town's name and some barley, forgot the road, and got a little better at a dog."""
    field = losses(run, "builtin/atlas", FIELD, {"Zwemfune": -1.5, "barley": -0.5, "counts": 0.25})
    general = losses(run, "builtin/general", GENERAL, {"road": 1.0, "home": 0.5, "dog": -0.25})
    return keep(run, field, general)
