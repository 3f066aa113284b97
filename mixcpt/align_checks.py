"""What is worth knowing before a run of stage two starts: what it continues, under which template, and what it learns
from. The checks that every stage has are in `mixcpt.flight`.

It looks at what the source holds, not at what a score will choose from it: that is known only after the scoring.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mixcpt.builtin import find_source
from mixcpt.corpus import Corpus
from mixcpt.errors import BadInput, MixcptError, NotFound
from mixcpt.estimate import SampleSizes
from mixcpt.flight import LONG_SECONDS, Finding, Flight, long_words
from mixcpt.jobs import MOVING, Jobs
from mixcpt.readings import candidates
from mixcpt.requirements import selection_facts
from mixcpt.runs import Run, Runs
from mixcpt.sizes import sample_sizes
from mixcpt.stages import Dpo, Sft
from mixcpt.stamps import Kept

FEW_SAMPLES = 16
MANY_TIMES = 5
HIGH_RATES = {"sft": 1e-3, "dpo": 2e-4}
USUAL_RATES = {"sft": 2e-4, "dpo": 5e-5}
_USUAL_COUNT = 64
_TOO_LONG_SHARE = 0.2


@dataclass
class Aligned(Flight):
    """A stage of stage two with what its checks want to know about it."""

    stage: Sft

    @cached_property
    def sizes(self) -> SampleSizes | None:
        """None while the selection is gone or damaged."""
        try:
            return sample_sizes(self.workspace, self.stage)
        except BadInput:
            return None

    @cached_property
    def corpus(self) -> Corpus | None:
        """The source of a rule, as far as it is there and holds samples."""
        config = self.stage.samples
        if config.selection is not None:
            return None
        try:
            found = find_source(self.workspace, config.source)
        except NotFound:
            return None
        return found if found and found.manifest.kind != "documents" else None


def _parent(flight: Aligned) -> Iterator[Finding]:
    parent, is_dpo = flight.parent, isinstance(flight.stage, Dpo)
    if parent is None:
        yield Finding(
            "warning" if is_dpo else "note",
            "It starts from the base model itself, so nothing of a knowledge stage is in it: choose a run to continue.",
        )
        return
    state = parent.state(Jobs(flight.workspace))
    if state in MOVING:
        yield Finding("note", f"{parent.title} is {state}: this run waits for its training.")
    elif state == "paused":
        yield Finding("warning", f"{parent.title} is paused, and this run waits for its training: resume it.")
    if is_dpo and not isinstance(parent.config, Sft):
        yield Finding(
            "warning",
            "DPO comes straight after the knowledge stage here, so the model learns which answers are better before it "
            "was shown how to answer: do SFT first, then DPO.",
        )


def _template(flight: Aligned) -> Iterator[Finding]:
    stage, parent = flight.stage, flight.parent
    if parent is None or stage.template == "auto" or not isinstance(parent.config, Sft):
        return
    before = _template_of(flight, parent)
    if before != stage.template:
        yield Finding(
            "warning",
            f"{parent.title} learned to answer under the template {before!r}, but this run uses {stage.template!r}, so "
            "the model would half unlearn what it knows: keep the parent's (automatic).",
            {"template": "auto"},
        )


def _template_of(flight: Aligned, run: Run) -> str:
    """The name of the template that a run of stage two saves; "own" is the model's."""
    for one in reversed(Runs(flight.workspace).lineage(run)):
        config = one.config
        if isinstance(config, Sft) and config.template != "auto":
            return config.template
    return "own"


def _selection(flight: Aligned) -> Iterator[Finding]:
    name, parent = flight.stage.samples.selection, flight.parent
    if name is None:
        return
    try:
        facts = selection_facts(flight.workspace, name)
    except MixcptError:  # `check_ready` tells
        return
    under = facts["scores"].get("run")
    if under != (parent.id if parent else None):
        yield Finding(
            "note",
            f"The selection {name} was scored under {under or 'the base'}, not under what this run continues: what was "
            "easy there may not be easy here.",
        )


def _samples(flight: Aligned) -> Iterator[Finding]:
    sizes, config = flight.sizes, flight.stage.samples
    if sizes is None:
        return
    wanted = config.rule.count
    if config.selection is None and wanted is not None and sizes.count < wanted:
        yield Finding(
            "note",
            f"{wanted:,} samples are asked for, but there are only {sizes.count:,} to choose from.",
            {"samples.rule.count": sizes.count},
        )
    if sizes.count < FEW_SAMPLES:
        more = {"samples.rule.count": _USUAL_COUNT} if wanted is not None and wanted < FEW_SAMPLES else None
        yield Finding(
            "warning",
            f"{_counted(sizes.count)} is very little to learn from: take at least {FEW_SAMPLES}, better "
            f"{_USUAL_COUNT}.",
            more if config.selection is None else None,
        )


def _counted(count: int) -> str:
    return "One sample" if count == 1 else f"{count} samples"


def _left_out(flight: Aligned) -> Iterator[Finding]:
    corpus, limit = flight.corpus, flight.stage.samples.candidates
    if corpus is None:
        return
    if corpus.manifest.kind == "preferences":
        manifest = str(corpus.folder / "manifest.json")
        same, among = _UNDECIDED.get(f"{manifest} {limit}", [manifest], lambda: _undecided(corpus, limit))
        if same:
            yield Finding(
                "note",
                f"{same:,} of {among:,} pairs have the same answer as chosen and rejected: they are left out.",
            )
    yield from _too_long(flight, corpus)


_UNDECIDED: Kept[tuple[int, int]] = Kept()


def _undecided(corpus: Corpus, limit: int | None) -> tuple[int, int]:
    """How many of the candidates have equal answers, and how many there are."""
    pairs = [(record.chosen.strip(), record.rejected.strip()) for _, record in candidates(corpus, limit)]
    return sum(chosen == rejected for chosen, rejected in pairs), len(pairs)


def _too_long(flight: Aligned, corpus: Corpus) -> Iterator[Finding]:
    lengths, most = corpus.manifest.lengths, flight.stage.samples.max_tokens
    longer = sum(count for edge, count in zip(lengths.edges[:-1], lengths.counts, strict=True) if edge >= most)
    share = longer / max(1, sum(lengths.counts))
    if share < _TOO_LONG_SHARE:
        return
    room = min(2 * most, flight.context or 2 * most)
    yield Finding(
        "warning",
        f"At least {share:.0%} of the samples are longer than {most:,} tokens, which are left out: allow longer ones.",
        {"samples.max_tokens": room} if room > most else None,
    )


def _context(flight: Aligned) -> Iterator[Finding]:
    context, most = flight.context, flight.stage.samples.max_tokens
    if context and most > context:
        yield Finding(
            "stop",
            f"A sample may have {most:,} tokens, but the model can look at {context:,} at most: allow no longer ones.",
            {"samples.max_tokens": context},
        )


def _training(flight: Aligned) -> Iterator[Finding]:
    stage = flight.stage
    rate, usual = stage.training.learning_rate, USUAL_RATES[stage.stage]
    if rate > HIGH_RATES[stage.stage]:
        yield Finding(
            "warning",
            f"A learning rate of {rate:g} is high for {stage.stage.upper()}: the model may forget much or fall apart; "
            f"{usual:g} is usual.",
            {"training.learning_rate": usual},
        )
    if stage.training.epochs > MANY_TIMES:
        yield Finding(
            "warning",
            f"Every sample is read {stage.training.epochs} times, so the model will learn the samples by heart: read "
            "them up to three times.",
            {"training.epochs": 3},
        )


def _length(flight: Aligned) -> Iterator[Finding]:
    seconds, sizes = flight.seconds, flight.sizes
    if seconds is None or sizes is None or seconds <= LONG_SECONDS:
        return
    yield Finding("note", long_words(seconds, "samples"), _fewer(flight.stage, sizes, LONG_SECONDS / seconds))


def _fewer(stage: Sft, sizes: SampleSizes, share: float) -> dict[str, Any] | None:
    """Changes under which so large a share of the work is left; scoring all candidates is a part of it."""
    if stage.samples.selection is not None or stage.samples.rule.strategy == "by-hand":
        return None
    fix: dict[str, Any] = {}
    if sizes.candidates > _USUAL_COUNT and sizes.scored_tokens:
        fix["samples.candidates"] = max(_USUAL_COUNT, int(sizes.candidates * share))
    if stage.samples.rule.count is not None:
        fix["samples.rule.count"] = max(FEW_SAMPLES, int(sizes.count * share))
    return fix or None


CHECKS: tuple[Callable[[Aligned], Iterator[Finding]], ...] = (
    _parent,
    _template,
    _selection,
    _samples,
    _left_out,
    _context,
    _training,
    _length,
)
