"""What a stage will need on this machine, against what it has: the estimate with the facts that it is made from.

Only small files are read: the model's configuration, manifests, what was measured of the machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mixcpt import machine
from mixcpt.coverage import Coverage, cover, coverage, known, origin_of, segments_of
from mixcpt.estimate import (
    Estimate,
    SampleSizes,
    Shape,
    estimate,
    operations,
    reading_seconds,
    require_memory,
    shape_of,
)
from mixcpt.machine import Machine
from mixcpt.modelstore import ensure_model, find_folder
from mixcpt.runs import Run
from mixcpt.sizes import pinned_sizes, sample_sizes
from mixcpt.stages import AnyStage, Sft, Stage
from mixcpt.workspace import Workspace


@dataclass(frozen=True)
class Outlook:
    """What a run will need here, against what is free. Bytes. `cover` is what the teacher cache holds for it; None
    where that plays no part or is not known."""

    needed: Estimate
    free_bytes: float
    device: str
    precision: str
    shape: Shape
    sizes: SampleSizes | None
    cover: Coverage | None = None


def outlook(workspace: Workspace, stage: AnyStage, facts: Machine | None) -> Outlook | None:
    """None while the model is not there, or this machine not measured.

    Raises:
        Unavailable: this machine cannot do it. NotFound: its selection is gone.
    """
    folder = find_folder(workspace, stage.model.name)
    return _outlook(workspace, stage, folder, facts) if folder and facts else None


def estimate_stage(workspace: Workspace, stage: AnyStage, sizes: SampleSizes | None = None) -> Estimate:
    """The estimate of one stage on this machine; the model is fetched and the machine measured when they are not yet.
    `sizes` are those of its samples where they are known already.

    Raises:
        TooLittle: it cannot fit. NotFound: its selection is gone.
    """
    folder = find_folder(workspace, stage.model.name) or ensure_model(workspace, stage.model.name)
    return _fitting(stage, _outlook(workspace, stage, folder, machine.here(workspace), sizes))


def estimate_in_turn(workspace: Workspace, stages: Sequence[AnyStage]) -> list[Estimate] | None:
    """The estimates of stages that are trained one after the other and share the teacher cache: what an earlier one
    had computed is at hand for the later ones. None while a model is not there or the machine not measured.

    Raises:
        TooLittle: one cannot fit. Unavailable: this machine cannot do it. NotFound: a selection is gone.
    """
    facts = machine.read(workspace)
    held: dict[str, set[bytes]] = {}
    found = []
    for stage in stages:
        folder = find_folder(workspace, stage.model.name)
        if facts is None or folder is None:
            return None
        here = _outlook(workspace, stage, folder, facts)
        segments = segments_of(workspace, stage, folder) if isinstance(stage, Stage) else None
        if isinstance(stage, Stage) and segments is not None:
            origin = origin_of(stage, folder, facts)
            at_hand = held.setdefault(origin.folder, set(known(workspace, origin)))
            cached = cover(segments, at_hand).saved
            at_hand.update(segments.keys)
            device, precision, gflops = _speed(stage, facts)
            needed = estimate(stage, here.shape, device=device, precision=precision, gflops=gflops, cached=cached)
            here = replace(here, needed=needed)
        found.append(_fitting(stage, here))
    return found


def estimate_run(workspace: Workspace, run: Run) -> Estimate:
    """As `estimate_stage`, of a run, by the samples that it has chosen already."""
    return estimate_stage(workspace, run.config, pinned_sizes(run))


def estimate_at_once(workspace: Workspace, stage: AnyStage) -> Estimate | None:
    """As `estimate_stage`, for pages: None while the model is not there or the machine not measured. Jobs of the kinds
    `fetch` and `doctor` see to that.

    Raises:
        TooLittle: it cannot fit. Unavailable: this machine cannot do it. NotFound: its selection is gone.
    """
    here = outlook(workspace, stage, machine.read(workspace))
    return _fitting(stage, here) if here else None


def _outlook(
    workspace: Workspace, stage: AnyStage, folder: Path, facts: Machine, sizes: SampleSizes | None = None
) -> Outlook:
    device, precision, gflops = _speed(stage, facts)
    shape = shape_of(folder)
    if isinstance(stage, Sft) and sizes is None:
        sizes = sample_sizes(workspace, stage)
    cover = coverage(workspace, stage, folder, facts, shape.width) if isinstance(stage, Stage) else None
    cached = cover.saved if cover else 0.0
    needed = estimate(stage, shape, device=device, precision=precision, gflops=gflops, sizes=sizes, cached=cached)
    needed = replace(needed, at_hand=cover.share if cover else None)
    free = facts.cuda.memory_free_gb if device == "cuda" and facts.cuda else facts.memory_available_gb
    return Outlook(needed, free * 1e9, device, precision, shape, sizes, cover)


def seconds_of_reading(workspace: Workspace, stage: AnyStage, tokens: float) -> float | None:
    """Time in which the stage's model reads so many tokens here; None while it is not there or the machine not
    measured."""
    folder, facts = find_folder(workspace, stage.model.name), machine.read(workspace)
    if folder is None or facts is None:
        return None
    device, precision, gflops = _speed(stage, facts)
    return reading_seconds(shape_of(folder), tokens, device=device, precision=precision, gflops=gflops)


def _speed(stage: AnyStage, facts: Machine) -> tuple[str, str, float | None]:
    """Device and precision of a stage here, and how fast the CPU is in it."""
    device, precision = machine.resolve(stage.model, facts)
    return device, precision, machine.peak_gflops(facts, device, precision) if device == "cpu" else None


@dataclass(frozen=True)
class Effort:
    """What a stage's steps are held against: the measured speed of matrix products here, in GFLOP/s."""

    stage: AnyStage
    shape: Shape
    gflops: float

    def share(self, tokens: int, cached: float, seconds: float) -> float:
        """Of that speed, what steps reached that read so many tokens, `cached` of them without the teacher."""
        return operations(self.stage, self.shape, tokens, cached) / (seconds * self.gflops * 1e9)


def effort(workspace: Workspace, stage: AnyStage, folder: Path, device: str, precision: str) -> Effort | None:
    """None while this machine was not measured; `folder` is that of the stage's model."""
    facts = machine.read(workspace)
    gflops = machine.peak_gflops(facts, device, precision) if facts else None
    return Effort(stage, shape_of(folder), gflops) if gflops else None


def _fitting(stage: AnyStage, here: Outlook) -> Estimate:
    known = {"device": here.device, "precision": here.precision}
    require_memory(stage, here.shape, here.needed, here.free_bytes, sizes=here.sizes, **known)
    return here.needed
