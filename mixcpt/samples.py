"""The samples that a run of stage two learns from: chosen once, kept with the run, rendered and put in order.

    runs/<id>/samples.json      where they come from: the rule in words, counts, the template, what was left out and why
    runs/<id>/samples.jsonl     the samples with their scores, in the order in which they were chosen

A run pins its samples at its first start, so a selection that is changed or deleted later changes nothing of it.
Nothing here needs a model, except for scores that are not there yet: those a `score` job makes beforehand
(`score_payload`).
It gives up packing: a sample is a row of its own.
"""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from mixcpt.builtin import open_source
from mixcpt.errors import BadInput, NotFound
from mixcpt.packing import IGNORED
from mixcpt.readings import Reader, Reading, some_reasons
from mixcpt.records import Kind, Message, Record
from mixcpt.runs import Run
from mixcpt.scores import ScoredSample, read_samples, write_samples
from mixcpt.selection import Rule, Selection, open_selection
from mixcpt.settings import override
from mixcpt.stages import Dpo, Sft
from mixcpt.templates import NAMED, ChatTemplate, Rendered, choose_template
from mixcpt.workspace import Workspace, read_json, write_json


@dataclass(frozen=True)
class Sample:
    """A sample as training reads it. `answers` is one conversation for SFT; for DPO the chosen and the rejected one."""

    id: str
    record: Record
    answers: tuple[Rendered, ...]

    @property
    def tokens(self) -> int:
        return sum(len(answer.ids) for answer in self.answers)

    @property
    def learned_tokens(self) -> int:
        """Tokens whose label counts."""
        return sum(int(mask_of(self, number).sum()) for number in range(len(self.answers)))


def mask_of(sample: Sample, number: int = 0) -> np.ndarray:
    """True where a label counts (bool, one a token): every answer of the assistant with its end of turn; of a pair only
    the answers that are compared."""
    return sample.answers[number].mask(every_turn=len(sample.answers) == 1)


def labels_of(sample: Sample) -> np.ndarray:
    """The ids of an SFT sample where the label counts, else `IGNORED` (int64)."""
    ids = sample.answers[0].ids.astype(np.int64)
    return np.where(mask_of(sample), ids, IGNORED)


def kind_of(stage: Sft) -> Kind:
    return "preferences" if isinstance(stage, Dpo) else "instructions"


def needs_scores(stage: Sft) -> bool:
    return stage.samples.selection is None and stage.samples.rule.strategy in ("easiest", "hardest")


_FORMS = {"template": ("template",), "plain": ("plain",), "alignment": ("template", "plain"), "ifd": ("plain", "alone")}


def forms_of(score: str) -> tuple[str, ...]:
    """The forms (`readings.FORMS`) in which an instruction sample has to be read for a score; of pairs it says nothing,
    for they are read in one form."""
    return next((forms for part, forms in _FORMS.items() if part in score.split("_")), _FORMS["template"])


def score_payload(stage: Sft, parent: str | None) -> dict[str, Any]:
    """The payload of the `score` job that a stage needs before it can choose its samples by score. Answers are read in
    the forms that it takes and no others."""
    payload: dict[str, Any] = {
        "source": stage.samples.source,
        "run": parent,
        "template": None if stage.template == "auto" else stage.template,
        "max_tokens": stage.samples.max_tokens,
        "limit": stage.samples.candidates,
        "what": list(forms_of(str(stage.samples.rule.score))),
    }
    if parent is None:
        payload["model"] = stage.model.model_dump(mode="json")
    if isinstance(stage, Dpo):
        payload["beta"] = stage.preference.beta
    return payload


def template_for(stage: Sft, folder: Path, parent: Run | None) -> ChatTemplate:
    """The chat template of a stage, for the model in `folder`.

    Raises:
        BadInput: none is chosen, and neither the parent nor the model has one.
    """
    name = None if stage.template == "auto" else stage.template
    template = choose_template(folder, name, parent.adapter if parent else None)
    if template is None:
        raise BadInput(
            f"{stage.model.name} has no chat template, as base models do: set template to one of {', '.join(NAMED)}."
        )
    return template


def choose(workspace: Workspace, stage: Sft, template: ChatTemplate) -> Selection:
    """The selection of a stage that names one or that chooses without scores.

    Raises:
        NotFound: the selection or the source is gone. BadInput: it is of the other kind, or has no rows.
    """
    config = stage.samples
    if config.selection is not None:
        selection = open_selection(workspace, config.selection)
        where = f"The selection {config.selection!r}"
    else:
        selection = _unscored(workspace, stage, template)
        where = f"The source {config.source!r}"
    require_kind(selection, stage, where)
    selection.require_rows(config.selection or "")
    return selection


def require_kind(selection: Selection, stage: Sft, where: str) -> None:
    """Raises BadInput when the samples are of a kind that the stage does not learn from; `where` names them."""
    if selection.kind != kind_of(stage):
        raise BadInput(f"{where} holds {selection.kind}, but {stage.stage} learns from {kind_of(stage)}: take another.")


def _unscored(workspace: Workspace, stage: Sft, template: ChatTemplate) -> Selection:
    """Every candidate without a score, for rules by chance and for all."""
    config = stage.samples
    corpus = open_source(workspace, config.source, template.tokenizer)
    reader = _reader(template, config.max_tokens)
    samples = [_unscored_sample(reading) for reading in reader.read(corpus, config.candidates)]
    info = {"source": config.source, "kind": corpus.manifest.kind, "run": None, "template": None}
    return Selection(info, samples, config.rule)


def _unscored_sample(reading: Reading) -> ScoredSample:
    canonical, texts = replace(reading.record, meta={}).to_json(), reading.texts
    if reading.reason:
        return ScoredSample(reading.id, canonical, 0, 0, {}, reading.reason)
    answer = texts[0].span.end - texts[0].span.start
    return ScoredSample(reading.id, canonical, sum(len(text.ids) for text in texts), answer, {})


def _reader(template: ChatTemplate, max_tokens: int) -> Reader:
    return Reader(template.tokenizer, template, max_tokens, forms=("template",))


def render(selection: Selection, template: ChatTemplate, max_tokens: int) -> tuple[list[Sample], dict[str, str]]:
    """The chosen samples as training reads them, and why others (by id) cannot be.

    Raises:
        BadInput: none of them can be.
    """
    reader = _reader(template, max_tokens)
    samples: list[Sample] = []
    left_out: dict[str, str] = {}
    for row in selection.rows():
        record = row.parsed
        try:
            reader.texts(record)  # refuses what cannot be trained on, with the reason
            samples.append(Sample(row.id, record, _answers(record, template)))
        except BadInput as problem:
            left_out[row.id] = str(problem)
    if not samples:
        raise BadInput(
            f"None of the {len(selection.ids):,} chosen samples can be trained on ({some_reasons(left_out.values())}): "
            "choose others, or allow longer ones (samples.max_tokens)."
        )
    return samples, left_out


def _answers(record: Record, template: ChatTemplate) -> tuple[Rendered, ...]:
    if record.kind == "preferences":
        return tuple(
            template.render([*record.messages, Message("assistant", answer)])
            for answer in (record.chosen, record.rejected)
        )
    return (template.render(record.messages),)


def keep(run: Run, selection: Selection, samples: Sequence[Sample], left_out: dict[str, str], template: str) -> None:
    """Pin the samples of a run in its folder; samples.json is written last."""
    rows = {row.id: row for row in selection.rows()}
    write_samples(run.folder / "samples.jsonl", [rows[sample.id] for sample in samples])
    counts = selection.counts()
    facts = {
        "selection": run.config.samples.selection if isinstance(run.config, Sft) else None,
        "source": selection.info["source"],
        "kind": selection.kind,
        "scored_under": selection.info["run"],
        "rule": selection.rule.words(),
        "candidates": counts.candidates,
        "kept_by_hand": counts.kept_by_hand,
        "discarded_by_hand": counts.discarded_by_hand,
        "samples": len(samples),
        "tokens": sum(sample.tokens for sample in samples),
        "learned_tokens": sum(sample.learned_tokens for sample in samples),
        "left_out": left_out,
        "template": template,
        "fingerprint": fingerprint(samples),
    }
    write_json(run.folder / "samples.json", facts)


def kept_facts(run: Run) -> dict[str, Any] | None:
    """What samples.json says; None before the first start."""
    path = run.folder / "samples.json"
    facts: dict[str, Any] | None = read_json(path) if path.exists() else None
    return facts


def kept_samples(run: Run) -> list[ScoredSample]:
    """The pinned samples with their scores, in order; empty before the first start."""
    return read_samples(run.folder / "samples.jsonl") if kept_facts(run) else []


def kept_selection(run: Run) -> Selection:
    """The pinned samples as a selection of all of them.

    Raises:
        NotFound: the run has not started yet.
    """
    facts = kept_facts(run)
    if facts is None:
        raise NotFound(f"Run {run.id} has not chosen its samples yet: wait until it has started.")
    info = {"source": facts["source"], "kind": facts["kind"], "run": facts["scored_under"], "template": None}
    return Selection(info, kept_samples(run), Rule(strategy="all"))


def fingerprint(samples: Sequence[Sample]) -> str:
    """16 hex digits of all that training reads, in order."""
    digest = hashlib.sha256()
    for sample in samples:
        for number, answer in enumerate(sample.answers):
            digest.update(json.dumps([answer.ids.tolist(), mask_of(sample, number).tolist()]).encode())
    return digest.hexdigest()[:16]


def order(count: int, epochs: int, seed: int) -> list[int]:
    """Indices of `count` samples in the order of training: every epoch has each once, newly shuffled."""
    found: list[int] = []
    for epoch in range(epochs):
        found += random.Random(f"samples {seed} {epoch}").sample(range(count), count)
    return found


def tokens_by_step(samples: Sequence[Sample], stage: Sft) -> list[int]:
    """Tokens read by the end of each step, from step 0 on; the last step may have fewer samples."""
    size = stage.training.samples_per_step
    lengths = [samples[index].tokens for index in order(len(samples), stage.training.epochs, stage.training.seed)]
    read = np.cumsum([0, *(sum(lengths[at : at + size]) for at in range(0, len(lengths), size))])
    return [int(tokens) for tokens in read]


@dataclass(frozen=True)
class Batch:
    """The first step of a stage. `certain`: these are the very samples; else they are the first candidates, because the
    scores that choose are not there yet. `epoch_samples` is how many there are in all, None while that is not known."""

    samples: tuple[Sample, ...]
    certain: bool
    epoch_samples: int | None
    template: ChatTemplate
    left_out: dict[str, str]


def preview_batch(workspace: Workspace, stage: Sft, parent: Run | None) -> Batch:
    """What the trainer will read first, with its label masks, before anything is launched.

    Raises:
        BadInput, NotFound: as `choose`, `template_for` and `render`.
    """
    from mixcpt.modelstore import ensure_model

    template = template_for(stage, ensure_model(workspace, stage.model.name), parent)
    size = stage.training.samples_per_step
    if certain := not needs_scores(stage):
        selection = choose(workspace, stage, template)
    else:
        selection = choose(workspace, _first_candidates(stage, 4 * size), template)
    samples, left_out = render(selection, template, stage.samples.max_tokens)
    first = order(len(samples), 1, stage.training.seed)[:size] if certain else range(min(size, len(samples)))
    batch = tuple(samples[index] for index in first)
    return Batch(batch, certain, len(samples) if certain else None, template, left_out)


def _first_candidates(stage: Sft, count: int) -> Sft:
    """The stage with some of its candidates, unscored: enough to look at."""
    few = min(count, stage.samples.candidates or count)
    return override(stage, {"samples.rule": {"strategy": "all"}, "samples.candidates": few})


def facts_in_words(facts: dict[str, Any]) -> str:
    """Which samples a run learned from, in one sentence."""
    name = f"selection {facts['selection']}" if facts["selection"] else facts["source"]
    hand = facts["kept_by_hand"] + facts["discarded_by_hand"]
    by_hand = f", {hand} changed by hand" if hand else ""
    learned = f"{facts['learned_tokens']:,} tokens learned"
    return f"{facts['samples']:,} samples of {name} ({facts['rule']}{by_hand}), {learned}"
