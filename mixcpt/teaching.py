"""Where the frozen teacher's final hidden states come from while a run trains: the network itself, or the cache.

The teacher is the original base; where a run continues another it can be that other run, which is never cached.

With the cache every state is rounded to bf16 before anything is made of it, computed just now or read. So a run sees
the same numbers whether its segments were at hand or not, and a stopped run goes on exactly: teacher.json in its folder
keeps what the cache held for it at its first start. What this gives up: two runs with the same seed, one that found
states which another mixture had computed and one that found none, differ as far as bf16 states of the same segment in
other batches do, in their last digit.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixcpt import teachercache
from mixcpt.coverage import cover, keys_of
from mixcpt.errors import Damaged
from mixcpt.mixture import Mixture
from mixcpt.packing import IGNORED, build_row, pack, pad_rows
from mixcpt.runs import Run
from mixcpt.stages import Stage
from mixcpt.teacher import evaluating, final_hidden, teacher_mode
from mixcpt.teachercache import Origin, segment_key
from mixcpt.teacherstore import Store
from mixcpt.workspace import Workspace, read_json, write_json

Say = Callable[[str], None]
_COMPUTE = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float16: "fp16"}


class Piece(NamedTuple):
    """A segment in a batch: row `row`, from token `start` to before `end`."""

    row: int
    start: int
    end: int


class Teacher(Protocol):
    """Gives the teacher's states of a batch."""

    def states(self, model: nn.Module, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        """Final hidden states [rows * tokens, width] of the frozen original inside `model`.

        Args:
            ids, positions, labels: [rows, tokens]; where a whole segment's labels do not count, its states may be any.
        """

    def figures(self) -> dict[str, float]:
        """What there is to record of the step that has just ended; counts anew from then on."""

    def close(self) -> None:
        """Let go of files."""


class LiveTeacher:
    """The network itself, with its adapter switched off."""

    def states(self, model: nn.Module, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        with teacher_mode(model):
            return final_hidden(model, ids, positions).flatten(0, 1)

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


class RunTeacher:
    """The network as the run that is continued left it: the adapter's numbers of then are lent to it for a pass.

    model: with that run's adapter, before anything is trained. A copy of the adapter is kept, 4 bytes a number.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._then = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}

    def states(self, model: nn.Module, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        with self._lent(), evaluating(model), torch.no_grad(), _without_kept_casts(ids.device.type):
            return final_hidden(model, ids, positions).flatten(0, 1)

    @contextlib.contextmanager
    def _lent(self) -> Iterator[None]:
        now = {name: parameter for name, parameter in self.model.named_parameters() if name in self._then}
        kept = {name: parameter.data for name, parameter in now.items()}
        try:
            for name, parameter in now.items():
                parameter.data = self._then[name]
            yield
        finally:
            for name, parameter in now.items():
                parameter.data = kept[name]

    def figures(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


def _without_kept_casts(device: str) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision as it is, but with weights cast anew: a cast that autocast keeps for the step would be that of
    the numbers lent here, and the student would take it for its own."""
    return torch.autocast(
        device,
        dtype=torch.get_autocast_dtype(device),
        enabled=torch.is_autocast_enabled(device),
        cache_enabled=False,
    )


class CachedTeacher:
    """States from the cache; what it lacks is computed, alone where the rest of a batch is at hand, and kept there."""

    def __init__(self, store: Store):
        self.store = store
        self._read = 0

    def states(self, model: nn.Module, ids: Tensor, positions: Tensor, labels: Tensor) -> Tensor:
        on_host = ids.cpu().numpy()
        pieces = segments_of(positions.cpu().numpy(), labels.cpu().numpy())
        keys = [segment_key(on_host[row, start:end]) for row, start, end in pieces]
        there = {key: self.store.find(key) for key in dict.fromkeys(keys)}
        missing = {key: piece for piece, key in zip(pieces, keys, strict=True) if there[key] is None}
        self._read += sum(end - start for (_, start, end), key in zip(pieces, keys, strict=True) if key not in missing)
        if len(missing) == len(pieces):
            whole = _rounded(model, ids, positions)
            bits = _bits(whole)
            self.store.add([(key, bits[row, start:end]) for key, (row, start, end) in missing.items()])
            return whole.flatten(0, 1)
        if missing:
            computed = _alone(model, {key: on_host[row, start:end] for key, (row, start, end) in missing.items()})
            self.store.add(list(computed.items()))
            there |= computed
        joined = np.zeros((*ids.shape, self.store.width), np.uint16)
        for (row, start, end), key in zip(pieces, keys, strict=True):
            joined[row, start:end] = there[key]
        return torch.from_numpy(joined.view(np.int16)).view(torch.bfloat16).to(ids.device).flatten(0, 1)

    def figures(self) -> dict[str, float]:
        """cached_tokens: of the step's tokens, those whose states were at hand."""
        read, self._read = self._read, 0
        return {"cached_tokens": read}

    def close(self) -> None:
        self.store.close()


def segments_of(positions: np.ndarray, labels: np.ndarray) -> list[Piece]:
    """The segments of a batch in which a label counts; padding is none. Positions are 0 where a segment begins.

    Args:
        positions, labels: [rows, tokens], the labels moved one to the left.
    """
    pieces = []
    for row, counted in enumerate(labels != IGNORED):
        starts = np.flatnonzero(positions[row] == 0).tolist()
        ends = [*starts[1:], positions.shape[1]]
        pieces += [Piece(row, start, end) for start, end in zip(starts, ends, strict=True) if counted[start:end].any()]
    return pieces


def _alone(model: nn.Module, missing: dict[bytes, np.ndarray]) -> dict[bytes, np.ndarray]:
    """States by key of segments' ids by key, computed in rows of their own, no longer than the longest must be."""
    ids = list(missing.values())
    longest = max(len(one) for one in ids)
    packed = pack([len(one) for one in ids], longest)
    rows = [build_row([(number, ids[number]) for number in row]) for row in packed]
    device = next(model.parameters()).device
    padded, positions, _ = (torch.from_numpy(array).to(device) for array in pad_rows(rows, pad_id=0))
    bits = _bits(_rounded(model, padded, positions))
    keys = list(missing)
    computed = {}
    for number, row in enumerate(rows):
        for segment in packed[number]:
            (places,) = np.nonzero(row.segment == segment)
            computed[keys[segment]] = bits[number, places[0] : places[-1] + 1]
    return computed


def _rounded(model: nn.Module, ids: Tensor, positions: Tensor) -> Tensor:
    """The live teacher's states [rows, tokens, width] as the cache would give them: bf16."""
    with teacher_mode(model):
        return final_hidden(model, ids, positions).to(torch.bfloat16)


def _bits(states: Tensor) -> np.ndarray:
    """bf16 states as uint16 on the host: the same bits."""
    bits: np.ndarray = states.contiguous().cpu().view(torch.int16).numpy().view(np.uint16)
    return bits


def teacher_for(
    workspace: Workspace, run: Run, origin: Origin, width: int, mixture: Mixture, model: nn.Module, say: Say
) -> Teacher:
    """The teacher of a run: cached where its settings say so and the cache may take any room, and then to its end. It
    is said how much of the mixture is at hand. `width` is that of the states; `model` is as the run begins with it."""
    stage = run.config
    assert isinstance(stage, Stage)
    if stage.objective.needs_run:
        return RunTeacher(model)
    path = run.folder / "teacher.json"
    kept = read_json(path) if path.exists() else None
    if kept is None and (run.read_metrics() or not _wanted(workspace, stage, say)):
        return LiveTeacher()  # a run that began without stays so
    seen = None
    if kept is not None:  # another origin: a library was changed meanwhile
        seen = kept["seen"] if kept["origin"] == origin.folder else {}
    store = Store(workspace, origin, owner=run.id, width=width, seen=seen, say=say)
    if kept is None:
        write_json(path, {"origin": origin.folder, "seen": store.snapshot()})
    segments = keys_of(mixture)
    store.claim(segments.keys)
    say(cover(segments, store).words())
    return CachedTeacher(store)


def _wanted(workspace: Workspace, stage: Stage, say: Say) -> bool:
    try:
        return stage.uses_teacher_cache and teachercache.limit(workspace) > 0
    except Damaged as problem:
        say(f"training without the teacher cache: {problem}")
        return False


def origin_of(name: str, fingerprint: str, base: PreTrainedModel, device: str, precision: str) -> Origin:
    """What the states of a loaded base depend on besides the segment."""
    quantised = getattr(base.config, "quantization_config", None) if precision == "nf4" else None
    compute = _COMPUTE[quantised.bnb_4bit_compute_dtype] if quantised else ""
    return Origin(name, fingerprint, device, precision, compute)
