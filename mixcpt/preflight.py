"""What is worth knowing before a run starts: each finding one sentence with its remedy and, where possible, the change.

Only small files are read (manifests, the model's configuration), so a page can ask at every click. It gives up
exactness where it would have to tokenise: epochs are counted with the tokens that the corpus was ingested with.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mixcpt.config import Stage, override
from mixcpt.corpus import Corpus, corpus_names
from mixcpt.errors import MixcptError, Unavailable
from mixcpt.estimate import Estimate, Shape, adapter_parameters, estimate, minutes, require_memory, shape_of
from mixcpt.jobs import ACCELERATOR_KINDS, Jobs
from mixcpt.launching import check_ready
from mixcpt.machine import Machine, disk_free_gb, resolve
from mixcpt.manifest import Manifest
from mixcpt.modelstore import find_folder, terms_to_accept
from mixcpt.workspace import Workspace, read_json

Level = Literal["stop", "warning", "note"]
"""A run with a "stop" cannot be launched; one with a "warning" will probably disappoint."""

FEW_TOKENS = 2_000
MANY_EPOCHS = 20
HIGH_RATE = 3e-3
LONG_SECONDS = 3600
_CHECKPOINTS = 3  # of adapter and optimizer, and the finished adapter, roughly


@dataclass(frozen=True)
class Finding:
    """One sentence in plain words; `fix` are dotted changes that do what it advises."""

    level: Level
    sentence: str
    fix: dict[str, Any] | None = None


@dataclass(frozen=True)
class Outlook:
    """What a run will need here, against what is free. Bytes."""

    needed: Estimate
    free_bytes: float
    device: str
    precision: str
    shape: Shape


def outlook(workspace: Workspace, stage: Stage, machine: Machine | None) -> Outlook | None:
    """None while the model is not there, or this machine not measured.

    Raises:
        Unavailable: this machine cannot do it.
    """
    folder = find_folder(workspace, stage.model.name)
    if folder is None or machine is None:
        return None
    device, precision = resolve(stage.model, machine)
    timings = machine.timings
    gflops = {"bf16": timings.bf16}.get(precision, timings.fp32) if device == "cpu" else None
    shape = shape_of(folder)
    needed = estimate(stage, shape, device=device, precision=precision, gflops=gflops)
    gpu = machine.cuda if device == "cuda" else None
    free = gpu.memory_free_gb if gpu else machine.memory_available_gb
    return Outlook(needed, free * 1e9, device, precision, shape)


def preflight(workspace: Workspace, stage: Stage, machine: Machine | None) -> list[Finding]:
    """All findings, the gravest first."""
    flight = _Flight(workspace, stage, machine)
    found = [finding for check in _CHECKS for finding in check(flight)]
    return sorted(found, key=lambda finding: ("stop", "warning", "note").index(finding.level))


@dataclass
class _Flight:
    """A stage with what the checks want to know about it."""

    workspace: Workspace
    stage: Stage
    machine: Machine | None

    @cached_property
    def jobs_before(self) -> int:
        """Runs, however many jobs each of them has, and the jobs that belong to none."""
        looks = Jobs(self.workspace).snapshot()
        busy = [job for job, status in looks if job.kind in ACCELERATOR_KINDS and status.state in ("queued", "running")]
        return len({job.run or job.id for job in busy})

    @cached_property
    def manifests(self) -> dict[str, Manifest]:
        """Of the mixture's sources that are corpora by now; a built-in one becomes one when it is first used."""
        there = set(corpus_names(self.workspace))
        names = {name: name.replace("/", "-") for name in self.stage.mixture.target_tokens()}
        return {name: Corpus.open(self.workspace, folder).manifest for name, folder in names.items() if folder in there}

    @cached_property
    def field(self) -> dict[str, Manifest]:
        wanted = self.stage.mixture.domain_sources()
        return {name: manifest for name, manifest in self.manifests.items() if name in wanted}

    @cached_property
    def has_general(self) -> bool:
        wanted = self.stage.mixture.domain_sources()
        return any(name not in wanted for name in self.stage.mixture.target_tokens())


def _readiness(flight: _Flight) -> Iterator[Finding]:
    try:
        check_ready(flight.workspace, flight.stage)
    except MixcptError as problem:
        yield Finding("stop", str(problem))


def _model(flight: _Flight) -> Iterator[Finding]:
    name = flight.stage.model.name
    folder = find_folder(flight.workspace, name)
    if folder is None and not terms_to_accept(flight.workspace, name) and not Path(name).is_absolute():
        yield Finding(
            "note", f"The model {name} is not here yet: it will be fetched when the run starts, or fetch it now."
        )
    if folder is None:
        return
    context = _context(folder)
    if context and flight.stage.mixture.row_tokens > context:
        yield Finding(
            "stop",
            f"A row has {flight.stage.mixture.row_tokens:,} tokens, but the model can look at {context:,} at most: "
            "shorten the rows.",
            {"mixture.row_tokens": context},
        )


def _context(folder: Path) -> int | None:
    """Tokens that the model can look at, where its configuration tells."""
    config = read_json(folder / "config.json")
    most = config.get("text_config", config).get("max_position_embeddings")
    return int(most) if most else None


def _sources(flight: _Flight) -> Iterator[Finding]:
    stage = flight.stage
    mixture = stage.mixture
    if not any(source.domain and source.share > 0 for source in mixture.sources):
        yield Finding(
            "warning",
            "No source is marked as your field, so nothing tells whether the model gets better in it: mark one.",
            _mark_own(flight),
        )
    if not flight.has_general and not stage.objective.needs_teacher:
        yield Finding(
            "warning",
            "Neither general text nor a retention objective holds the model back, so it will probably forget: mix in "
            "general text, or learn with LSSD.",
            {"objective.retention": "lssd", "objective.retention_weight": 1.0},
        )
    if stage.measures.general in mixture.target_tokens():
        yield Finding(
            "warning",
            f"Forgetting is measured on {stage.measures.general}, which is also trained on, so it will look smaller "
            "than it is: measure it on other text.",
            {"measures.general": "builtin/general"} if stage.measures.general != "builtin/general" else None,
        )


def _mark_own(flight: _Flight) -> dict[str, Any] | None:
    """Marks the one corpus of documents that was brought by the user, where there is just one."""
    documents = {name for name, manifest in flight.manifests.items() if manifest.kind == "documents"}
    numbers = [
        number
        for number, source in enumerate(flight.stage.mixture.sources)
        if source.source in documents and not source.source.startswith("builtin/")
    ]
    return {f"mixture.sources.{numbers[0]}.domain": True} if len(numbers) == 1 else None


def _field(flight: _Flight) -> Iterator[Finding]:
    mixture = flight.stage.mixture
    for name, manifest in flight.field.items():
        tokens = manifest.split.train.tokens
        if mixture.domain_documents:
            tokens = round(tokens * min(1, mixture.domain_documents / max(1, manifest.split.train.documents)))
        if tokens < FEW_TOKENS:
            yield Finding(
                "warning",
                f"{name} has only {tokens:,} tokens to learn from, so the model will learn it by heart rather than "
                "understand it: add documents.",
            )
        epochs = mixture.target_tokens()[name] / max(1, tokens)
        if epochs > MANY_EPOCHS:
            less = max(64, round(mixture.budget_tokens * MANY_EPOCHS / epochs))
            yield Finding(
                "warning",
                f"{name} will be read {epochs:.0f} times, far more often than helps: train on fewer tokens, or add "
                "documents.",
                {"mixture.budget_tokens": less},
            )
        yield from _row_length(mixture.row_tokens, name, manifest)


def _row_length(row_tokens: int, name: str, manifest: Manifest) -> Iterator[Finding]:
    lengths, seen = manifest.lengths, 0
    for upper, number in zip(lengths.edges[1:], lengths.counts, strict=True):
        seen += number
        if seen >= 0.9 * sum(lengths.counts):
            if upper <= row_tokens // 4 and upper >= 16:
                yield Finding(
                    "note",
                    f"Nine in ten documents of {name} are shorter than {upper:,} tokens, but a row has {row_tokens:,}: "
                    "they are packed together and kept apart; shorter rows give more and smaller steps.",
                    {"mixture.row_tokens": max(64, 2 * upper)} if 2 * upper < row_tokens else None,
                )
            return


def _training(flight: _Flight) -> Iterator[Finding]:
    stage = flight.stage
    if stage.training.learning_rate > HIGH_RATE:
        yield Finding(
            "warning",
            f"A learning rate of {stage.training.learning_rate:g} is high: the model may forget much or fall apart; "
            "1e-3 is usual for a small adapter.",
            {"training.learning_rate": 1e-3},
        )
    if stage.objective.retention != "none" and stage.objective.retention_weight == 0:
        yield Finding(
            "warning",
            f"Retention is {stage.objective.retention}, but its weight is 0, so it does nothing: set it to 1.",
            {"objective.retention_weight": 1.0},
        )


def _measures(flight: _Flight) -> Iterator[Finding]:
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


def _machine(flight: _Flight) -> Iterator[Finding]:
    try:
        here = outlook(flight.workspace, flight.stage, flight.machine)
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
    seconds = here.needed.seconds
    if seconds > LONG_SECONDS:
        less = max(1000, int(flight.stage.mixture.budget_tokens * LONG_SECONDS / seconds) // 1000 * 1000)
        yield Finding(
            "note",
            f"Training will take about {minutes(seconds)}. It can be paused and resumed; fewer tokens take less.",
            {"mixture.budget_tokens": less} if less < flight.stage.mixture.budget_tokens else None,
        )
    needed_gb = _CHECKPOINTS * 16 * adapter_parameters(flight.stage, here.shape) / 1e9
    if needed_gb > (free := disk_free_gb(flight.workspace)):
        yield Finding(
            "stop",
            f"The run will write about {needed_gb:.1f} GB, but the disk has {free:.1f} GB free: free some space, or "
            "take a lower LoRA rank.",
        )


def _memory(flight: _Flight, here: Outlook) -> Iterator[Finding]:
    known = {"device": here.device, "precision": here.precision}
    try:
        require_memory(flight.stage, here.shape, here.needed, here.free_bytes, **known)
    except MixcptError as problem:
        # Whoever waits in the queue may find more memory by then.
        yield Finding("warning" if flight.jobs_before else "stop", str(problem), _lighter(flight.stage, here))


def _lighter(stage: Stage, here: Outlook) -> dict[str, Any] | None:
    """The least change of how it is computed, not of what, under which it fits."""
    for change in ({"training.rows_at_once": 1}, {"training.rows_at_once": 1, "training.checkpoint_activations": True}):
        needed = estimate(
            override(stage, change), here.shape, device=here.device, precision=here.precision, gflops=None
        )
        if needed.memory_bytes <= here.free_bytes:
            return change
    return None


def _queue(flight: _Flight) -> Iterator[Finding]:
    if number := flight.jobs_before:
        jobs = "one job" if number == 1 else f"{number} jobs"
        yield Finding("note", f"There {'is' if number == 1 else 'are'} {jobs} before it: it starts when they are done.")


_CHECKS: tuple[Callable[[_Flight], Iterator[Finding]], ...] = (
    _readiness,
    _model,
    _machine,
    _sources,
    _field,
    _training,
    _measures,
    _queue,
)
