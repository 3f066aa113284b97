"""How much of what a stage reads the teacher has said already: its mixture's segments against the teacher cache.

It gives up an answer where that would take longer than a page may: for a mixture whose texts are not tokenised yet, or
one of more than twenty million tokens.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from mixcpt import builtin, machine, shards, teachercache
from mixcpt.config import MixtureConfig
from mixcpt.errors import BadInput
from mixcpt.machine import Machine
from mixcpt.mixture import Mixture, is_ready, realise
from mixcpt.modelfiles import model_fingerprint
from mixcpt.stages import Stage
from mixcpt.stamps import Stamp, stamp
from mixcpt.teachercache import Origin, segment_key
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

MOST_TOKENS = 20_000_000


@dataclass(frozen=True)
class Coverage:
    """Tokens that a stage reads, those of them whose states are at hand, and how many the teacher itself has to read:
    a segment that comes again is computed once, as far as the cache has room."""

    tokens: int
    at_hand: int
    to_compute: int

    @property
    def share(self) -> float:
        """Of the tokens, how many are at hand: 0 to 1."""
        return self.at_hand / max(1, self.tokens)

    @property
    def saved(self) -> float:
        """Share of the tokens that the teacher need not read: 0 to 1."""
        return 1 - self.to_compute / max(1, self.tokens)

    def words(self) -> str:
        return f"teacher cache: {self.share:.0%} of the tokens are at hand"


@dataclass(frozen=True)
class SegmentKeys:
    """The different segments of a mixture: their keys, and per segment its tokens and how often it is read. Those of a
    single token are left out: nothing is predicted in them."""

    keys: list[bytes]
    tokens: np.ndarray
    readings: np.ndarray


def keys_of(mixture: Mixture) -> SegmentKeys:
    """The segments of a mixture as the cache knows them."""
    _, first, readings = np.unique(mixture.segments[:, :4], axis=0, return_index=True, return_counts=True)
    tokens = mixture.segments[first, 3]
    counted = tokens > 1
    keys = [segment_key(mixture.segment_ids(number)) for number in first[counted].tolist()]
    return SegmentKeys(keys, tokens[counted], readings[counted])


def cover(segments: SegmentKeys, known: Container[bytes], room_tokens: float = float("inf")) -> Coverage:
    """What of these segments is known; the cache has room for the states of `room_tokens`."""
    tokens = segments.tokens * segments.readings
    is_known = np.fromiter((key in known for key in segments.keys), bool, len(segments.keys))
    missing, once = int(tokens[~is_known].sum()), int(segments.tokens[~is_known].sum())
    fits = min(1.0, room_tokens / max(1, int(segments.tokens.sum())))
    return Coverage(
        tokens=int(tokens.sum()),
        at_hand=int(tokens[is_known].sum()),
        to_compute=once + round((missing - once) * (1 - fits)),
    )


def coverage(workspace: Workspace, stage: Stage, folder: Path, facts: Machine, width: int) -> Coverage | None:
    """What the cache holds for `stage` on this machine; `folder` is its model's and `width` that of the states. None
    where it does not use the cache, and where that cannot be told at once. Quick when asked again.

    Raises:
        Unavailable: this machine cannot do it.
    """
    segments = segments_of(workspace, stage, folder)
    if segments is None:
        return None
    room_tokens = teachercache.limit(workspace) / (shards.BYTES * width)
    return cover(segments, known(workspace, origin_of(stage, folder, facts)), room_tokens)


def segments_of(workspace: Workspace, stage: Stage, folder: Path) -> SegmentKeys | None:
    """What `stage` would look for in the cache; `folder` is its model's. None as of `coverage`."""
    tokenizer_stamp = stamp(str(folder / "tokenizer.json"))
    if not stage.uses_teacher_cache or tokenizer_stamp is None or stage.mixture.total_tokens() > MOST_TOKENS:
        return None
    try:
        most = teachercache.limit(workspace)
        if not most or not is_ready(workspace, stage.mixture, _tokenizer(folder, tokenizer_stamp)):
            return None
    except BadInput:  # a source or an end token is missing, or the settings are damaged: others tell
        return None
    texts = tuple(builtin.fingerprint(workspace, name) for name in sorted(stage.mixture.target_tokens()))
    return _segments(
        workspace.root,
        stage.mixture.model_dump_json(),
        stage.measures.on == "validation",
        folder,
        (*texts, tokenizer_stamp),
    )


def origin_of(stage: Stage, folder: Path, facts: Machine) -> Origin:
    """Whose states `stage` would use on this machine; `folder` is its model's.

    Raises:
        Unavailable: this machine cannot do it.
    """
    device, precision = machine.resolve(stage.model, facts)
    compute = facts.computes_in(device, precision) if precision == "nf4" else ""
    return Origin(stage.model.name, model_fingerprint(folder), device, precision, compute)


def known(workspace: Workspace, origin: Origin) -> set[bytes]:
    """The keys of all segments whose states are kept."""
    folder = workspace.teacher_cache / origin.folder
    stamps = tuple((name, stamp(str(shards.index_path(folder, name)))) for name in shards.names(folder))
    return _keys_in(folder, stamps)


@lru_cache(8)
def _keys_in(folder: Path, stamps: Iterable[tuple[str, Stamp]]) -> set[bytes]:
    """Read anew when a shard came, went or grew."""
    return {entry.key for name, _ in stamps for entry in shards.read_index(folder, name)}


@lru_cache(4)
def _tokenizer(folder: Path, _: Stamp) -> TextTokenizer:
    return TextTokenizer.from_folder(folder)


@lru_cache(16)
def _segments(
    root: Path, config: str, validation: bool, folder: Path, made_of: tuple[str | tuple[int, int, int], ...]
) -> SegmentKeys:
    """Kept by the settings, the texts and the tokenizer, for all who ask."""
    tokenizer_stamp = made_of[-1]
    assert isinstance(tokenizer_stamp, tuple)
    mixture = realise(
        Workspace(root),
        MixtureConfig.model_validate_json(config),
        _tokenizer(folder, tokenizer_stamp),
        validation=validation,
    )
    return keys_of(mixture)
