"""A stage before its launch, with what the checks of `mixcpt.preflight` want to know of it; and the checks that every
stage has: is all there, does it fit into this machine, what waits before it.

Each finding is one sentence with its remedy and, where possible, the change that does it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mixcpt.errors import BadInput, MixcptError, NoTemplate, Unavailable
from mixcpt.estimate import estimate, lighter, minutes, require_memory, trained_parameters
from mixcpt.jobs import ACCELERATOR_KINDS, MOVING, Jobs
from mixcpt.launching import check_ready
from mixcpt.machine import Machine, disk_free_gb
from mixcpt.modelstore import find_folder, terms_to_accept
from mixcpt.outlook import Outlook, outlook
from mixcpt.runs import Run
from mixcpt.settings import override
from mixcpt.stages import AnyStage
from mixcpt.workspace import Workspace, read_json

Level = Literal["stop", "warning", "note"]
"""A run with a "stop" cannot be launched; one with a "warning" will probably disappoint."""

LONG_SECONDS = 3600
_CHECKPOINTS = 3  # of adapter and optimizer, and the finished adapter, roughly


@dataclass(frozen=True)
class Finding:
    """One sentence in plain words; `fix` are dotted changes that do what it advises."""

    level: Level
    sentence: str
    fix: dict[str, Any] | None = None


@dataclass
class Flight:
    """A stage with what the checks want to know about it; `parent` is the run that it would continue."""

    workspace: Workspace
    stage: AnyStage
    machine: Machine | None
    parent: Run | None = None

    @cached_property
    def jobs_before(self) -> int:
        """Runs, however many jobs each of them has, and the jobs that belong to none."""
        looks = Jobs(self.workspace).snapshot()
        busy = [job for job, status in looks if job.kind in ACCELERATOR_KINDS and status.state in MOVING]
        return len({job.run or job.id for job in busy})

    @cached_property
    def folder(self) -> Path | None:
        return find_folder(self.workspace, self.stage.model.name)

    @cached_property
    def context(self) -> int | None:
        """Tokens that the model can look at, where its configuration tells."""
        if self.folder is None:
            return None
        config = read_json(self.folder / "config.json")
        most = config.get("text_config", config).get("max_position_embeddings")
        return int(most) if most else None

    @cached_property
    def here(self) -> Outlook | None:
        """What it will need here; None while that cannot be told, or a check of what is there has told why not.

        Raises:
            Unavailable: this machine cannot do it.
        """
        try:
            return outlook(self.workspace, self.stage, self.machine)
        except BadInput:  # a selection that is gone or damaged
            return None

    @cached_property
    def seconds(self) -> float | None:
        """What the training will take, as far as that can be told."""
        try:
            return self.here.needed.seconds if self.here else None
        except Unavailable:
            return None


def everywhere(flight: Flight) -> Iterator[Finding]:
    """What is found of any stage."""
    for check in (_readiness, _model, _machine, _measures, _queue):
        yield from check(flight)


def _readiness(flight: Flight) -> Iterator[Finding]:
    try:
        check_ready(flight.workspace, flight.stage, flight.parent)
    except NoTemplate as problem:
        yield Finding("stop", str(problem), {"template": "question-answer"})
    except MixcptError as problem:
        yield Finding("stop", str(problem))


def _model(flight: Flight) -> Iterator[Finding]:
    name = flight.stage.model.name
    if flight.folder is None and not terms_to_accept(flight.workspace, name) and not Path(name).is_absolute():
        yield Finding(
            "note", f"The model {name} is not here yet: it will be fetched when the run starts, or fetch it now."
        )


def _machine(flight: Flight) -> Iterator[Finding]:
    try:
        here = flight.here
    except Unavailable as problem:
        yield Finding("stop", str(problem), {"model.device": "auto", "model.precision": "auto"})
        return
    if flight.stage.model.precision == "nf4" and here and here.device == "cpu":
        yield Finding(
            "warning",
            "QLoRA (4 bits) saves memory but is slow on a processor, about half as fast: choose Automatic, unless "
            "memory is short.",
            {"model.precision": "auto"},
        )
    if here is None:
        return
    yield from _memory(flight, here)
    needed_gb = _CHECKPOINTS * 16 * trained_parameters(flight.stage, here.shape) / 1e9
    if needed_gb > (free := disk_free_gb(flight.workspace)):
        yield Finding(
            "stop",
            f"The run will write about {needed_gb:.1f} GB, but the disk has {free:.1f} GB free: free some space, or "
            "take a lower LoRA rank.",
        )


def _memory(flight: Flight, here: Outlook) -> Iterator[Finding]:
    known = {"device": here.device, "precision": here.precision}
    try:
        require_memory(flight.stage, here.shape, here.needed, here.free_bytes, sizes=here.sizes, **known)
    except MixcptError as problem:
        # Whoever waits in the queue may find more memory by then.
        yield Finding("warning" if flight.jobs_before else "stop", str(problem), _lighter(flight.stage, here))


def _lighter(stage: AnyStage, here: Outlook) -> dict[str, Any] | None:
    """The least change of how it is computed, not of what, under which it fits."""
    for change in lighter(stage)[:2]:
        changed = override(stage, change)
        needed = estimate(
            changed, here.shape, device=here.device, precision=here.precision, gflops=None, sizes=here.sizes
        )
        if needed.memory_bytes <= here.free_bytes:
            return change
    return None


def _measures(flight: Flight) -> Iterator[Finding]:
    measures = flight.stage.measures
    for name, what in (("domain_tokens", "gain in the field"), ("general_tokens", "forgetting")):
        if measures.model_dump()[name] == 0:
            yield Finding(
                "warning",
                f"No text is set aside to measure the {what}, so the run will not show it: measure 800 tokens.",
                {f"measures.{name}": 800},
            )
    tasks = flight.stage.evaluation.tasks
    if "atlas" in tasks and "builtin/atlas" not in flight.stage.mixture.target_tokens():
        yield Finding(
            "note",
            "The run asks questions about the built-in atlas, but your mixture does not hold it: they would only "
            "measure guessing.",
            {"evaluation.tasks": [task for task in tasks if task != "atlas"]},
        )


def _queue(flight: Flight) -> Iterator[Finding]:
    if number := flight.jobs_before:
        jobs = "one job" if number == 1 else f"{number} jobs"
        yield Finding("note", f"There {'is' if number == 1 else 'are'} {jobs} before it: it starts when they are done.")


def long_words(seconds: float, less: str) -> str:
    """That a training takes long; `less` is what there should be fewer of."""
    return f"Training will take about {minutes(seconds)}. It can be paused and resumed; fewer {less} take less."
