"""The knowledge stage: packed rows in, adapter and forgetting curve out.

A subclass of transformers' Trainer keeps checkpoints, resume and accumulation; ours are the loss, the data order, the
measures on the way, and the promise that a stopped run goes on exactly where it was. It gives up shuffling: the mixture
is already a seeded stream, read once from front to back.
"""

import contextlib
import shutil
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments

from mixcpt import models, vocabulary
from mixcpt.compiled import compile_layers
from mixcpt.lssd import Head, Objective, TokenWeights, chunked_loss
from mixcpt.measures import Measures
from mixcpt.mixture import Mixture, realise
from mixcpt.optimisation import ObjectiveConfig, TrainingConfig
from mixcpt.outlook import effort, estimate_stage
from mixcpt.packing import IGNORED, Row, pad_rows
from mixcpt.runs import Run, Runs
from mixcpt.scoring import adapter_fingerprint
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


Weigh = Callable[[Row], np.ndarray]
"""The factors [tokens, 2] of a row's tokens, on cross-entropy and on retention."""


def collate(rows: list[Row], pad_id: int, weigh: Weigh | None = None) -> dict[str, Tensor]:
    """Rows to tensors [rows, longest]: input_ids, position_ids, labels and shift_labels (labels moved one to the left);
    with `weigh` also ce_factors and retention_factors, which belong to shift_labels.
    No attention mask: its mere presence would let packed documents see each other.
    """
    ids, positions, labels = (torch.from_numpy(array) for array in pad_rows(rows, pad_id))
    shifted = torch.full_like(labels, IGNORED)
    shifted[:, :-1] = labels[:, 1:]
    batch = {"input_ids": ids, "position_ids": positions, "labels": labels, "shift_labels": shifted}
    if weigh is not None:
        factors = torch.zeros(2, *labels.shape)
        for number, row in enumerate(rows):
            factors[:, number, : len(row.ids) - 1] = torch.from_numpy(weigh(row)[1:].T)
        batch |= {"ce_factors": factors[0], "retention_factors": factors[1]}
    return batch


def weigher(config: Stage, mixture: Mixture) -> Weigh | None:
    """How the tokens of `mixture` are weighed, each by its source; None when all count alike."""
    factors = config.factors()
    table = np.array([factors[name] for name in mixture.sources], dtype=np.float32)
    return None if (table == 1).all() else lambda row: table[mixture.source_of(row)]


def objective_of(config: ObjectiveConfig) -> Objective:
    return Objective(
        ce_weight=config.ce_weight,
        retention_weight=config.retention_weight if config.retention != "none" else 0.0,
        temperature=config.temperature,
        swap=config.retention == "lssd",
        reverse=config.retention == "mol",
    )


class MixTrainer(Watched):
    """Trainer whose loss is `lssd.chunked_loss` on final hidden states, divided once by the step's counted tokens."""

    def __init__(
        self,
        *,
        head: Head,
        teacher_head: Head,
        objective: Objective,
        teacher: Teacher,
        chunk: int,
        vocabulary_learning_rate: float,
        **arguments: Any,
    ):
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count a whole step's tokens and not divide again
        self.head: Head = head
        self.teacher_head: Head = teacher_head
        self.vocabulary_learning_rate: float = vocabulary_learning_rate
        self.objective: Objective = objective
        self.teacher: Teacher = teacher
        self.chunk: int = chunk
        self.sums = torch.zeros(6, dtype=torch.float64)  # of the step so far: `LossSums`, in its order

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        ids, positions, labels = inputs["input_ids"], inputs["position_ids"], inputs["shift_labels"]
        weights, held = None, labels
        if "ce_factors" in inputs:
            weights = TokenWeights(inputs["ce_factors"].flatten(), inputs["retention_factors"].flatten())
            held = labels.masked_fill(inputs["retention_factors"] == 0, IGNORED)
        teacher = None
        if self.objective.needs_teacher and bool((held != IGNORED).any()):
            teacher = self.teacher.states(model, ids, positions, held)
        hidden = final_hidden(model, ids, positions).flatten(0, 1)
        labels = labels.flatten()
        sums = chunked_loss(hidden, teacher, labels, self.head, self.objective, self.chunk, self.teacher_head, weights)
        self.require_finite("loss", sums.total.item())
        self.sums += torch.tensor([sums.total.item(), *(float(each) for each in sums[1:])])
        counted = num_items_in_batch if num_items_in_batch is not None else sums.tokens
        return sums.total / max(int(counted), 1)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's, in which embedding and head, where they are trained, have a learning rate of their own and no
        decay: it pulls an adapter towards the base, but would pull these towards nothing."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        own = [parameter for parameter in vocabulary.copies(self._adapted) if parameter.requires_grad]
        mine = set(map(id, own))
        for group in optimizer.param_groups:
            group["params"] = [parameter for parameter in group["params"] if id(parameter) not in mine]
        if own:
            group = {"params": own, "lr": self.vocabulary_learning_rate, "weight_decay": 0.0}
            optimizer.add_param_group(group)
        return optimizer

    @property
    def _adapted(self) -> nn.Module:
        assert isinstance(self.model, nn.Module)
        return self.model

    def step_figures(self) -> dict[str, float]:
        total, ce, retention, counted, ce_tokens, retention_tokens = self.sums.tolist()
        self.sums.zero_()
        figures = {"loss": total / max(counted, 1)}
        if ce_tokens:  # none of the field's may lie in a step under MoL, nor any other
            figures["ce"] = ce / ce_tokens
        if self.objective.needs_teacher and retention_tokens:
            figures["retention"] = retention / retention_tokens
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
    One that continues another trains that one's adapter on.

    Raises:
        Interrupted: asked to stop; a checkpoint was written first. Diverged: the loss or the gradient is no number any
        more. BadInput: what the run began with has changed, or what it continues has no adapter. TooLittle,
        Unavailable: it cannot be done, and why.
    """
    config = run.config
    assert isinstance(config, Stage)
    parent = run.parent
    origin = parent.require_adapter() if parent else None
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
    pinned = {"mixture": mixture.fingerprint()} | ({"parent": adapter_fingerprint(origin)} if origin else {})
    device, precision = begin(workspace, run, folder, pinned)
    loaded = load(run, folder, device, precision, progress, say, origin)
    if config.training.compile_layers:
        say(f"compiling {compile_layers(loaded.model)} layers at their first use")
    check_isolation(loaded.model, tokenizer.vocabulary, config.mixture.row_tokens)

    frozen = origin_of(config.model.name, models.model_fingerprint(folder), loaded.base, device, precision)
    tokens = tokens_by_step(mixture, config.training.rows_per_step)
    reached = effort(workspace, config, folder, device, precision)
    recorder = Recorder(run, tokens, measures, progress, check, reached)
    width, weigh = loaded.head.weight.shape[1], weigher(config, mixture)
    head = models.output_head(loaded.model)
    with contextlib.closing(teacher_for(workspace, run, frozen, width, mixture, loaded.model, say)) as teacher:
        trainer = MixTrainer(
            model=loaded.model,
            args=arguments(config.training, run.folder / "checkpoints", device, precision),
            train_dataset=Rows(mixture),
            data_collator=lambda rows: collate(rows, tokenizer.eos_id, weigh),
            callbacks=[recorder, *callbacks],
            head=head,
            teacher_head=head if config.objective.needs_run else loaded.head,  # what a run trained of it is held
            objective=objective_of(config.objective),
            teacher=teacher,
            chunk=config.training.loss_chunk,
            vocabulary_learning_rate=config.training.vocabulary_learning_rate,
        )
        carry_through(trainer, recorder, loaded, say)
    with building(run.adapter) as unfinished:
        loaded.model.save_pretrained(str(unfinished), safe_serialization=True)
        if origin and (template := origin / "chat_template.jinja").is_file():  # what the chain has learned to answer in
            shutil.copyfile(template, unfinished / template.name)
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
