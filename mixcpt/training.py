"""The knowledge stage: packed rows in, adapter and forgetting curve out.

A subclass of transformers' Trainer keeps checkpoints, resume and accumulation; ours are the loss, the data order, the
measures on the way, and the promise that a stopped run goes on exactly where it was. It gives up shuffling: the mixture
is already a seeded stream, read once from front to back.
"""

import contextlib
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from mixcpt import models
from mixcpt.lssd import Head, Objective, chunked_loss
from mixcpt.measures import Measures
from mixcpt.mixture import Mixture, realise
from mixcpt.optimisation import ObjectiveConfig, TrainingConfig
from mixcpt.outlook import estimate_stage
from mixcpt.packing import IGNORED, Row, pad_rows
from mixcpt.runs import Run, Runs
from mixcpt.stages import Stage
from mixcpt.teacher import check_isolation, final_hidden
from mixcpt.teaching import Teacher, origin_of, teacher_for
from mixcpt.tokens import TextTokenizer
from mixcpt.trainer import Check, Progress, Recorder, Watched, begin, carry_through, load, options, results_of
from mixcpt.worker import JobContext
from mixcpt.workspace import Workspace, building


class Rows(Dataset[Row]):
    """The mixture's rows as a torch dataset."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, index: int) -> Row:
        return self.mixture[index]


def collate(rows: list[Row], pad_id: int) -> dict[str, Tensor]:
    """Rows to tensors [rows, longest]: input_ids, position_ids, labels and shift_labels (labels moved one to the left).
    No attention mask: its mere presence would let packed documents see each other.
    """
    ids, positions, labels = (torch.from_numpy(array) for array in pad_rows(rows, pad_id))
    shifted = torch.full_like(labels, IGNORED)
    shifted[:, :-1] = labels[:, 1:]
    return {"input_ids": ids, "position_ids": positions, "labels": labels, "shift_labels": shifted}


def objective_of(config: ObjectiveConfig) -> Objective:
    return Objective(
        ce_weight=config.ce_weight,
        retention_weight=config.retention_weight if config.retention != "none" else 0.0,
        temperature=config.temperature,
        swap=config.retention == "lssd",
    )


class MixTrainer(Watched):
    """Trainer whose loss is `lssd.chunked_loss` on final hidden states, divided once by the step's counted tokens."""

    def __init__(self, *, head: Head, objective: Objective, teacher: Teacher, chunk: int, **arguments: Any):
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count a whole step's tokens and not divide again
        self.head: Head = head
        self.objective: Objective = objective
        self.teacher: Teacher = teacher
        self.chunk: int = chunk
        self.sums = torch.zeros(4, dtype=torch.float64)  # total, ce, retention, tokens of the step so far

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        ids, positions, labels = inputs["input_ids"], inputs["position_ids"], inputs["shift_labels"]
        teacher = None
        if self.objective.needs_teacher:
            teacher = self.teacher.states(model, ids, positions, labels)
        hidden = final_hidden(model, ids, positions).flatten(0, 1)
        sums = chunked_loss(hidden, teacher, labels.flatten(), self.head, self.objective, self.chunk)
        self.require_finite("loss", sums.total.item())
        self.sums += torch.tensor([sums.total.item(), sums.ce.item(), sums.retention.item(), sums.tokens])
        counted = num_items_in_batch if num_items_in_batch is not None else sums.tokens
        return sums.total / max(int(counted), 1)

    def step_figures(self) -> dict[str, float]:
        total, ce, retention, counted = self.sums.tolist()
        self.sums.zero_()
        figures = {"loss": total / max(counted, 1), "ce": ce / max(counted, 1)}
        if self.objective.needs_teacher:
            figures["retention"] = retention / max(counted, 1)
        return figures | self.teacher.figures()


def arguments(config: TrainingConfig, folder: Path, device: str, precision: str) -> TrainingArguments:
    return TrainingArguments(
        per_device_train_batch_size=config.rows_at_once,
        gradient_accumulation_steps=config.accumulation,
        remove_unused_columns=False,
        label_names=["labels"],
        **options(config, folder, device, precision),
    )


def tokens_by_step(mixture: Mixture, rows_per_step: int) -> list[int]:
    """Tokens read by the end of each step, from step 0 on; the last step may have fewer rows."""
    read = list(accumulate(mixture.row_lengths, initial=0))
    return [*read[:-1:rows_per_step], read[-1]]


def train(
    workspace: Workspace,
    run: Run,
    *,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
    say: Callable[[str], None] = print,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> dict[str, Any]:
    """Train `run` from its start or its last whole checkpoint; writes started.json, metrics, adapter/ and results.json.

    Raises:
        Interrupted: asked to stop; a checkpoint was written first. Diverged: the loss or the gradient is no number any
        more. BadInput: what the run began with has changed. TooLittle, Unavailable: it cannot be done, and why.
    """
    config = run.config
    assert isinstance(config, Stage)
    progress(None, "preparing the model")
    folder = models.ensure_model(workspace, config.model.name)
    tokenizer = TextTokenizer.from_folder(folder)
    check()
    progress(None, "preparing the mixture")
    mixture = realise(
        workspace, config.mixture, tokenizer, validation=config.measures.on == "validation", should_stop=check
    )
    measures = Measures(workspace, tokenizer, config.measures, config.mixture)
    check()
    device, precision = begin(workspace, run, folder, {"mixture": mixture.fingerprint()})
    loaded = load(run, folder, device, precision, progress, say)
    check_isolation(loaded.model, tokenizer.vocabulary)

    origin = origin_of(config.model.name, models.model_fingerprint(folder), loaded.base, device, precision)
    recorder = Recorder(
        run, tokens_by_step(mixture, config.training.rows_per_step), measures, loaded.head, progress, check
    )
    width = loaded.head.weight.shape[1]
    with contextlib.closing(teacher_for(workspace, run, origin, width, mixture, say)) as teacher:
        trainer = MixTrainer(
            model=loaded.model,
            args=arguments(config.training, run.folder / "checkpoints", device, precision),
            train_dataset=Rows(mixture),
            data_collator=lambda rows: collate(rows, tokenizer.eos_id),
            callbacks=[recorder, *callbacks],
            head=loaded.head,
            objective=objective_of(config.objective),
            teacher=teacher,
            chunk=config.training.loss_chunk,
        )
        carry_through(trainer, recorder, loaded, say)
    with building(run.adapter) as unfinished:
        loaded.model.save_pretrained(str(unfinished), safe_serialization=True)
    results = results_of(run, mixture.tokens, loaded) | {"mixture": mixture.summary()}
    run.write_results("training", results)
    return results


def run_job(context: JobContext) -> str:
    """The `train` job of a knowledge stage: from the start or from its last checkpoint."""
    run = Runs(context.workspace).get(str(context.job.run))
    assert isinstance(run.config, Stage)
    needed = estimate_stage(context.workspace, run.config)
    context.say(f"estimated: {needed.words()}")
    results = train(context.workspace, run, progress=context.progress, check=context.check, say=context.say)
    final = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in results["final"].items())
    return f"{results['tokens']:,} tokens in {results['seconds'] / 60:.1f} minutes; {final}"
