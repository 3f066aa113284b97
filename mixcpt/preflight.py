"""What is worth knowing before a run starts: each finding one sentence with its remedy and, where possible, the change.

Only small files are read (manifests, the model's configuration), so a page can ask at every click. It gives up
exactness where it would have to tokenise: epochs are counted with the tokens that the corpus was ingested with.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixcpt import align_checks
from mixcpt.align_checks import Aligned
from mixcpt.corpus import Corpus, corpus_names
from mixcpt.errors import NotFound
from mixcpt.figures import listed
from mixcpt.flight import LONG_SECONDS, Flight, everywhere, long_words
from mixcpt.flight import Finding as Finding
from mixcpt.machine import Machine
from mixcpt.manifest import Manifest
from mixcpt.runs import Run
from mixcpt.stages import AnyStage, Sft, Stage
from mixcpt.workspace import Workspace

FEW_TOKENS = 2_000
MANY_EPOCHS = 20
HIGH_RATE = 3e-3
USUAL_RATE = 1e-3
"""What tuning chose for every objective on abstracts; on the built-in atlas it chose twice as much
(docs/experiments.md)."""


def preflight(
    workspace: Workspace, stage: AnyStage, machine: Machine | None, parent: Run | None = None
) -> list[Finding]:
    """All findings, the gravest first; `parent` is the run that it would continue."""
    if isinstance(stage, Sft):
        aligned = Aligned(workspace, stage, machine, parent)
        own = [finding for check in align_checks.CHECKS for finding in check(aligned)]
        found = [*everywhere(aligned), *own]
    else:
        knowledge = _Knowledge(workspace, stage, machine, parent)
        found = [*everywhere(knowledge), *(finding for check in _CHECKS for finding in check(knowledge))]
    return sorted(found, key=lambda finding: ("stop", "warning", "note").index(finding.level))


@dataclass
class _Knowledge(Flight):
    """A knowledge stage with what its checks want to know about it."""

    stage: Stage

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
    def has_own_field(self) -> bool:
        return any(not name.startswith("builtin/") for name in self.stage.mixture.domain_sources())

    @cached_property
    def chain(self) -> list[Run]:
        """The runs that led here; as far as they are known where one of them is gone."""
        try:
            return self.parent.chain() if self.parent else []
        except NotFound:
            return [self.parent] if self.parent else []

    @cached_property
    def has_general(self) -> bool:
        wanted = self.stage.mixture.domain_sources()
        return any(name not in wanted for name in self.stage.mixture.target_tokens())


def _sources(flight: _Knowledge) -> Iterator[Finding]:
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


def _before(flight: _Knowledge) -> Iterator[Finding]:
    """What a run should know that continues another."""
    if flight.parent is None:
        return
    mixture = flight.stage.mixture
    earlier = {name: run for run in flight.chain for name in run.config.mixture.domain_sources()}
    for name in mixture.domain_sources():
        if run := earlier.get(name):
            yield Finding(
                "note",
                f"{name} was the field of {run.title} already, so this run reads more of the same: choose another "
                "corpus where it should learn something new.",
            )
    if lost := [name for name in earlier if name not in mixture.target_tokens()]:
        yield Finding(
            "note",
            f"Nothing of {listed(lost)} is read again, so it may be forgotten: mix a little of it in, or see "
            "afterwards what became of it (tab Adaptations of the run's page).",
        )
    if flight.stage.adapter.vocabulary:
        yield Finding(
            "note",
            "Embeddings and head, which the first run of the chain trained, are held as they are: only the adapter "
            "goes on.",
        )


def _mark_own(flight: _Knowledge) -> dict[str, Any] | None:
    """Marks the one corpus of documents that was brought by the user, where there is just one."""
    documents = {name for name, manifest in flight.manifests.items() if manifest.kind == "documents"}
    numbers = [
        number
        for number, source in enumerate(flight.stage.mixture.sources)
        if source.source in documents and not source.source.startswith("builtin/")
    ]
    return {f"mixture.sources.{numbers[0]}.domain": True} if len(numbers) == 1 else None


def _field(flight: _Knowledge) -> Iterator[Finding]:
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


def _rows(flight: _Knowledge) -> Iterator[Finding]:
    context, row_tokens = flight.context, flight.stage.mixture.row_tokens
    if context and row_tokens > context:
        yield Finding(
            "stop",
            f"A row has {row_tokens:,} tokens, but the model can look at {context:,} at most: shorten the rows.",
            {"mixture.row_tokens": context},
        )


def _training(flight: _Knowledge) -> Iterator[Finding]:
    stage = flight.stage
    if stage.training.learning_rate > HIGH_RATE:
        yield Finding(
            "warning",
            f"A learning rate of {stage.training.learning_rate:g} is high: the model may forget much or fall apart; "
            "1e-3 is usual for a small adapter.",
            {"training.learning_rate": USUAL_RATE},
        )
    elif stage.training.learning_rate > USUAL_RATE and flight.has_own_field:
        yield Finding(
            "note",
            f"A learning rate of {stage.training.learning_rate:g} suits the built-in atlas. On real abstracts "
            f"{USUAL_RATE:g} learned more, whatever held the model: take that, or let a study tune the rate.",
            {"training.learning_rate": USUAL_RATE},
        )
    if stage.objective.retention != "none" and stage.objective.retention_weight == 0:
        yield Finding(
            "warning",
            f"Retention is {stage.objective.retention}, but its weight is 0, so it does nothing: set it to 1.",
            {"objective.retention_weight": 1.0},
        )


def _length(flight: _Knowledge) -> Iterator[Finding]:
    budget, seconds = flight.stage.mixture.budget_tokens, flight.seconds
    if seconds is None or seconds <= LONG_SECONDS:
        return
    less = max(1000, int(budget * LONG_SECONDS / seconds) // 1000 * 1000)
    fix = {"mixture.budget_tokens": less} if less < budget else None
    yield Finding("note", long_words(seconds, "tokens"), fix)


_CHECKS: tuple[Callable[[_Knowledge], Iterator[Finding]], ...] = (_rows, _length, _sources, _before, _field, _training)
