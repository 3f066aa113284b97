"""Stage two: SFT on chosen answers, DPO on chosen pairs. TRL trains; samples, masks, reference and measures are ours.

Both train on the one adapter that the chain has had from its first stage (a second one on top would make DPO train
nothing, silently). What they read is rendered by us, token by token, so the label mask that is shown before the launch
is the one that is trained on, and text that looks like a turn mark cannot act as one.

DPO's reference is a frozen copy of the adapter it starts from, which TRL keeps under the name "ref": the result of the
parent run, never silently the base. It is looked at again after the training: it must not have moved.

It gives up packing and padding-free batches: a sample is a row, and rows of a batch are padded.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoTokenizer, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from mixcpt import models, samples
from mixcpt.measures import Measures
from mixcpt.outlook import effort, estimate_run
from mixcpt.readings import some_reasons
from mixcpt.runs import Run, Runs
from mixcpt.samples import Sample
from mixcpt.scoring import adapter_fingerprint, score_as_asked
from mixcpt.selection import Selection
from mixcpt.stages import Dpo, Sft
from mixcpt.templates import ChatTemplate
from mixcpt.trainer import Check, Loaded, Progress, Recorder, Watched, begin, carry_through, load, options, results_of
from mixcpt.workspace import Workspace, building, write_atomic

if TYPE_CHECKING:
    from mixcpt.worker import JobContext

REFERENCE = "ref"
"""The name that TRL gives to the frozen copy of the adapter."""


class Aligned(Watched):
    """What both trainers share: the loss of each part of a step is looked at and kept until the step has ended."""

    def __init__(self, **arguments: Any):
        super().__init__(**arguments)
        self.losses: list[tuple[float, int]] = []  # (loss, rows) of each part

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        value = (loss[0] if isinstance(loss, tuple) else loss).item()
        self.require_finite("loss", value)
        self.losses.append((value, len(inputs["input_ids"])))
        return loss

    def create_model_card(self, *arguments: Any, **more: Any) -> None:
        """Nothing: a card is made when a run is exported."""


class SftTrainer(Aligned, SFTTrainer):
    """TRL's SFTTrainer on ids and labels of our own. The loss of a step is the mean over all its learned tokens."""

    def step_figures(self) -> dict[str, float]:
        """loss: nats per learned token."""
        loss = sum(part for part, _ in self.losses)  # each is divided by the tokens of the whole step already
        self.losses.clear()
        self._metrics["train"].clear()
        return {"loss": loss}


class DpoTrainer(Aligned, DPOTrainer):
    """TRL's DPOTrainer on ids of our own."""

    def _prepare_dataset(self, dataset: Dataset, *arguments: Any, **more: Any) -> Dataset:
        """As it is: it holds prompt_ids, chosen_ids and rejected_ids already."""
        return dataset

    def step_figures(self) -> dict[str, float]:
        """loss: of DPO, log 2 where nothing is preferred yet. Rewards in nats times beta, over the step's pairs: margin
        is that of chosen over rejected; accuracy is the share of pairs where it is above 0."""
        rows = sum(count for _, count in self.losses)  # two a pair

        def mean(values: list[float]) -> float:
            return sum(value * count for value, (_, count) in zip(values, self.losses, strict=True)) / max(rows, 1)

        seen = self._metrics["train"]
        figures = {
            "loss": mean([loss for loss, _ in self.losses]),
            "margin": mean(seen["rewards/margins"]),
            "accuracy": mean(seen["rewards/accuracies"]),
            "chosen_reward": mean(seen["rewards/chosen"]),
            "rejected_reward": mean(seen["rewards/rejected"]),
        }
        self.losses.clear()
        seen.clear()
        return figures


def align(
    workspace: Workspace,
    run: Run,
    *,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
    say: Callable[[str], None] = print,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> dict[str, Any]:
    """Train an sft or dpo run from its start or its last whole checkpoint; writes samples, started.json, metrics,
    adapter/ (with the chat template) and results.json.

    Raises:
        Interrupted: asked to stop; a checkpoint was written first. Diverged: the loss or the gradient is no number any
        more. BadInput: samples, template or parent cannot be used, or have changed since the run began. TooLittle,
        Unavailable: it cannot be done, and why.
    """
    stage = run.config
    assert isinstance(stage, Sft)
    parent = Runs(workspace).get(run.info.parent) if run.info.parent else None
    origin = parent.require_adapter() if parent else None
    progress(None, "preparing the samples")
    folder = models.ensure_model(workspace, stage.model.name)
    template = samples.template_for(stage, folder, parent)
    learned = _samples(workspace, run, stage, template, progress, check, say)
    tokens = samples.tokens_by_step(learned, stage)
    measures = Measures(workspace, template.tokenizer, stage.measures, stage.mixture)
    check()
    pinned = {
        "samples": samples.fingerprint(learned),
        "template": template.fingerprint,
        "parent": adapter_fingerprint(origin) if origin else "",
    }
    device, precision = begin(workspace, run, folder, pinned, {"tokens": tokens[-1], "steps": len(tokens) - 1})
    loaded = load(run, folder, device, precision, progress, say, origin)

    reached = effort(workspace, stage, folder, device, precision)
    recorder = Recorder(run, tokens, measures, progress, check, reached)
    trainer = _trainer(run, stage, loaded, folder, learned, (recorder, *callbacks))
    reference = _reference_weights(loaded.model)
    carry_through(trainer, recorder, loaded, say)
    _require_fixed(loaded.model, reference)
    _save(run, loaded.model, template)
    results = results_of(run, tokens[-1], loaded)
    run.write_results("training", results)
    return results


def _samples(
    workspace: Workspace,
    run: Run,
    stage: Sft,
    template: ChatTemplate,
    progress: Progress,
    check: Check,
    say: Callable[[str], None],
) -> list[Sample]:
    """What the run learns from: pinned in its folder at its first start, found there from then on."""
    if samples.kept_facts(run):
        selection = samples.kept_selection(run)
    elif samples.needs_scores(stage):
        selection = _scored(workspace, run, stage, progress, check)
    else:
        selection = samples.choose(workspace, stage, template)
    found, left_out = samples.render(selection, template, stage.samples.max_tokens)
    if not samples.kept_facts(run):
        samples.keep(run, selection, found, left_out, template.name)
        if left_out:
            say(f"left out {len(left_out):,} of the chosen samples: {some_reasons(left_out.values())}")
    say(samples.facts_in_words(samples.kept_facts(run) or {}))
    return found


def _scored(workspace: Workspace, run: Run, stage: Sft, progress: Progress, check: Check) -> Selection:
    """The rule's choice among samples scored under the parent; what a `score` job did before is found in its cache."""
    table = score_as_asked(workspace, samples.score_payload(stage, run.info.parent), progress, check)
    selection = Selection.of(table, stage.samples.rule)
    samples.require_kind(selection, stage, f"The source {stage.samples.source!r}")
    selection.require_rows()
    return selection


def _trainer(
    run: Run,
    stage: Sft,
    loaded: Loaded,
    folder: Path,
    learned: list[Sample],
    callbacks: tuple[TrainerCallback, ...],
) -> SftTrainer | DpoTrainer:
    """The trainer over the samples in their order. TRL rounds the adapter of a 4-bit model to 16 bits, in which small
    steps vanish, so its weights are put back as they were."""
    config, model = stage.training, loaded.model
    common = options(config, run.folder / "checkpoints", loaded.device, loaded.precision) | {
        "per_device_train_batch_size": config.samples_at_once,
        "gradient_accumulation_steps": config.accumulation,
        "max_length": None,  # what is too long was left out
    }
    ordered = [learned[index] for index in samples.order(len(learned), config.epochs, config.seed)]
    steps = math.ceil(len(ordered) / config.samples_per_step)
    common["warmup_steps"] = int(config.warmup * steps)  # rounded down: the first step of a warm-up learns nothing
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    given: dict[str, Any] = {"model": model, "processing_class": tokenizer, "callbacks": [*callbacks]}
    trainer: SftTrainer | DpoTrainer
    with models.quiet():
        if isinstance(stage, Dpo):
            arguments = DPOConfig(beta=stage.preference.beta, **common)
            trainer = DpoTrainer(args=arguments, train_dataset=Dataset.from_list(_pairs(ordered)), **given)
        else:
            plain = SFTConfig(packing=False, dataset_kwargs={"skip_prepare_dataset": True}, **common)
            trainer = SftTrainer(args=plain, train_dataset=Dataset.from_list(_answers(ordered)), **given)
    for name, parameter in model.named_parameters():
        if name in before:
            parameter.data = before[name]
    return trainer


def _answers(ordered: list[Sample]) -> list[dict[str, list[int]]]:
    return [
        {"input_ids": sample.answers[0].ids.tolist(), "labels": samples.labels_of(sample).tolist()}
        for sample in ordered
    ]


def _pairs(ordered: list[Sample]) -> list[dict[str, list[int]]]:
    rows = []
    for sample in ordered:
        chosen, rejected = sample.answers
        rows.append(
            {
                "prompt_ids": chosen.prompt.tolist(),
                "chosen_ids": chosen.ids[chosen.response.start : chosen.response.end].tolist(),
                "rejected_ids": rejected.ids[rejected.response.start : rejected.response.end].tolist(),
            }
        )
    return rows


def _reference_weights(model: PeftModel) -> dict[str, Tensor]:
    """A copy of the reference's adapter; empty where there is none."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if f".{REFERENCE}." in n}


def _require_fixed(model: PeftModel, reference: dict[str, Tensor]) -> None:
    now = _reference_weights(model)
    if now.keys() != reference.keys() or not all(torch.equal(now[name], reference[name]) for name in now):
        raise RuntimeError("the reference of DPO changed during training; this is a bug, please report it")


def _save(run: Run, model: PeftModel, template: ChatTemplate) -> None:
    """The adapter in plain PEFT's form, with the chat template under which it is to be asked."""
    if REFERENCE in model.peft_config:
        model.delete_adapter(REFERENCE)
    with building(run.adapter) as unfinished:
        model.save_pretrained(str(unfinished), safe_serialization=True)
        write_atomic(unfinished / "chat_template.jinja", template.source)


def run_job(context: "JobContext") -> str:
    """The `train` job of a later stage: from the start or from its last checkpoint."""
    run = Runs(context.workspace).get(str(context.job.run))
    needed = estimate_run(context.workspace, run)
    context.say(f"estimated: {needed.words()}")
    results = align(context.workspace, run, progress=context.progress, check=context.check, say=context.say)
    last = run.losses()[-1]
    reached = f"loss {last['loss']:.3f}" + (f", margin {last['margin']:.2f}" if "margin" in last else "")
    final = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in results["final"].items())
    return f"{results['steps']:,} steps in {results['seconds'] / 60:.1f} minutes; {reached}; {final}"
