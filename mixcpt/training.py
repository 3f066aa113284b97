"""One training stage: packed rows in, adapter and forgetting curve out.

A subclass of transformers' Trainer keeps checkpoints, resume and accumulation; ours are the loss, the data order, the
measures on the way, and the promise that a stopped run goes on exactly where it was. It gives up shuffling: the mixture
is already a seeded stream, read once from front to back.
"""

import math
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixcpt import models
from mixcpt.config import ObjectiveConfig, TrainingConfig
from mixcpt.errors import Diverged, Interrupted
from mixcpt.lssd import Head, Objective, chunked_loss
from mixcpt.measures import Measures
from mixcpt.mixture import Mixture, realise
from mixcpt.packing import IGNORED, Row
from mixcpt.recipes import estimate_stage
from mixcpt.runs import Run, Runs
from mixcpt.teacher import check_isolation, final_hidden, teacher_mode
from mixcpt.tokens import TextTokenizer
from mixcpt.worker import JobContext
from mixcpt.workspace import Workspace, now, read_json, write_json

Check = Callable[[], None]
Progress = Callable[[float | None, str], None]


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

    Padding stands last, with positions that restart (so nothing attends to it) and labels that do not count. No
    attention mask: its mere presence would let packed documents see each other.
    """
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    positions = torch.zeros_like(ids)
    labels = torch.full_like(ids, IGNORED)
    for number, row in enumerate(rows):
        length = len(row.ids)
        ids[number, :length] = torch.from_numpy(row.ids)
        positions[number, :length] = torch.from_numpy(row.positions)
        positions[number, length:] = torch.arange(longest - length)
        labels[number, :length] = torch.from_numpy(row.labels)
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


class MixTrainer(Trainer):
    """Trainer whose loss is `lssd.chunked_loss` on final hidden states, divided once by the step's counted tokens."""

    def __init__(self, *, head: Head, objective: Objective, chunk: int, **arguments: Any):
        super().__init__(**arguments)
        self.model_accepts_loss_kwargs = True  # makes the Trainer count a whole step's tokens and not divide again
        self.head: Head = head
        self.objective: Objective = objective
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
            with teacher_mode(model):
                teacher = final_hidden(model, ids, positions).flatten(0, 1)
        hidden = final_hidden(model, ids, positions).flatten(0, 1)
        sums = chunked_loss(hidden, teacher, labels.flatten(), self.head, self.objective, self.chunk)
        if not torch.isfinite(sums.total):
            raise Diverged(
                f"The loss became {sums.total.item()} at step {self.state.global_step + 1}: lower the learning rate "
                f"({self.args.learning_rate:g}) and resume or start again; the last good checkpoint is kept."
            )
        self.sums += torch.tensor([sums.total.item(), sums.ce.item(), sums.retention.item(), sums.tokens])
        counted = num_items_in_batch if num_items_in_batch is not None else sums.tokens
        return sums.total / max(int(counted), 1)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        mark_complete(Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}")


def mark_complete(checkpoint: Path) -> None:
    """Write the completion marker, last of all: the names and sizes of what the checkpoint holds."""
    sizes = {path.name: path.stat().st_size for path in sorted(checkpoint.iterdir()) if path.name != "complete.json"}
    write_json(checkpoint / "complete.json", {"files": sizes, "written": now()})


def is_whole(checkpoint: Path) -> bool:
    """True when every file of the completion marker is there in its size."""
    sizes = read_json(checkpoint / "complete.json")["files"]
    return all((checkpoint / name).is_file() and (checkpoint / name).stat().st_size == s for name, s in sizes.items())


class Recorder(TrainerCallback):
    """Writes a line of metrics a step, takes the measures when they are due, and listens for a request to stop."""

    def __init__(self, run: Run, mixture: Mixture, measures: Measures, head: Head, progress: Progress, check: Check):
        self.run, self.measures, self.head = run, measures, head
        self.progress, self.check = progress, check
        self.trainer: MixTrainer
        self.interrupted: Interrupted | None = None
        self.every = run.config.measures.every_steps
        rows = run.config.training.rows_per_step
        lengths = [len(row.ids) for row in mixture]
        self.tokens = [sum(lengths[: step * rows]) for step in range(math.ceil(len(lengths) / rows) + 1)]
        self.started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.started = time.perf_counter()
        if state.global_step == 0:
            self._measure(0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        seconds, self.started = time.perf_counter() - self.started, time.perf_counter()
        total, ce, retention, counted = self.trainer.sums.tolist()
        self.trainer.sums.zero_()
        read = self.tokens[step] - self.tokens[step - 1]
        record = {
            "step": step,
            "tokens": self.tokens[step],
            "loss": total / max(counted, 1),
            "ce": ce / max(counted, 1),
            "learning_rate": self.trainer.optimizer.param_groups[0]["lr"] if self.trainer.optimizer else 0.0,
            "seconds": seconds,
            "tokens_per_second": read / seconds,
            "memory_bytes": peak_memory(),
        }
        if self.trainer.objective.needs_teacher:
            record["retention"] = retention / max(counted, 1)
        self.run.append(record)
        if step == state.max_steps or (self.every and step % self.every == 0):
            self._measure(step)
        self.progress(step / state.max_steps, f"step {step} of {state.max_steps}, loss {record['loss']:.3f}")
        try:
            self.check()
        except Interrupted as interruption:
            self.interrupted = interruption
            control.should_save = control.should_training_stop = True
        self.started = time.perf_counter()

    def _measure(self, step: int) -> None:
        assert isinstance(self.trainer.model, nn.Module)
        figures = self.measures.take(self.trainer.model, self.head)
        self.run.append({"step": step, "tokens": self.tokens[step], "measure": figures})


def peak_memory() -> int:
    """The most memory used so far, in bytes: of the GPU when training there, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def arguments(config: TrainingConfig, folder: Path, device: str, precision: str) -> TrainingArguments:
    schedule = {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule)
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=config.rows_at_once,
        gradient_accumulation_steps=config.accumulation,
        num_train_epochs=1,
        learning_rate=config.learning_rate,
        lr_scheduler_type=schedule,
        warmup_steps=config.warmup,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_gradient_norm,
        optim="adamw_torch",
        train_sampling_strategy="sequential",
        activation_checkpointing=config.checkpoint_activations,
        save_strategy="steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=device == "cpu",
        bf16=precision == "bf16" or (precision == "nf4" and device == "cuda"),
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=["labels"],
    )


def train(
    workspace: Workspace,
    run: Run,
    *,
    progress: Progress = lambda fraction, message: None,
    check: Check = lambda: None,
    say: Callable[[str], None] = print,
    callbacks: tuple[TrainerCallback, ...] = (),
) -> dict[str, Any]:
    """Train `run` from its start or its last whole checkpoint; writes metrics, adapter/ and results.json.

    Raises:
        Interrupted: asked to stop; a checkpoint was written first. Diverged: the loss is no number any more.
        TooLittle, Unavailable, BadInput: it cannot be done, and why.
    """
    config = run.config
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
    device, precision = models.resolve(config.model, workspace)
    progress(None, f"loading {config.model.name} ({precision} on {device})")
    base = models.load_base(folder, device, precision)
    frozen = models.frozen_digest(base)
    model = models.attach_adapter(base, config.adapter, config.training.seed)
    head = models.output_head(base)
    models.verify_head(base, head)
    check_isolation(model, tokenizer.vocabulary)
    trainable, total = models.parameter_counts(model)
    say(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.2%})")

    started = time.perf_counter()
    recorder = Recorder(run, mixture, measures, head, progress, check)
    trainer = MixTrainer(
        model=model,
        args=arguments(config.training, run.folder / "checkpoints", device, precision),
        train_dataset=Rows(mixture),
        data_collator=lambda rows: collate(rows, tokenizer.eos_id),
        callbacks=[recorder, *callbacks],
        head=head,
        objective=objective_of(config.objective),
        chunk=config.training.loss_chunk,
    )
    recorder.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_resume_point(run, say))
    if recorder.interrupted is not None:
        raise recorder.interrupted
    if models.frozen_digest(base) != frozen:
        raise RuntimeError("the frozen base weights changed during training; this is a bug, please report it")
    model.save_pretrained(str(run.adapter), safe_serialization=True)
    results = _results(run, mixture, measures, time.perf_counter() - started)
    results |= {"trainable_parameters": trainable, "total_parameters": total, "device": device, "precision": precision}
    run.write_results("training", results)
    return results


def _resume_point(run: Run, say: Callable[[str], None]) -> str | None:
    """The newest whole checkpoint; torn ones and metrics beyond it are set aside."""
    whole = [checkpoint for checkpoint in run.checkpoints() if is_whole(checkpoint)]
    for path in sorted((run.folder / "checkpoints").glob("checkpoint-*")):
        if path not in whole:
            say(f"{path.name} is torn and is not used")
            shutil.rmtree(path)
    step = int(whole[-1].name.rsplit("-", 1)[1]) if whole else 0
    if run.read_metrics():
        run.append({"event": "resume", "step": step or -1})
    if not whole:
        return None
    say(f"resuming from step {step}")
    return str(whole[-1])


def _results(run: Run, mixture: Mixture, measures: Measures, seconds: float) -> dict[str, Any]:
    losses, curve = run.losses(), run.curve()
    training_seconds = sum(record["seconds"] for record in losses)
    return {
        "finished": now(),
        "steps": losses[-1]["step"],
        "tokens": mixture.tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(mixture.tokens / training_seconds, 1),
        "measure_share": round(measures.seconds / (measures.seconds + training_seconds), 3),
        "peak_memory_bytes": max(record["memory_bytes"] for record in losses),
        "base": curve[0]["measure"],
        "final": curve[-1]["measure"],
        "mixture": mixture.summary(),
    }


def run_job(context: JobContext) -> str:
    """The `train` job: its run, from the start or from its last checkpoint."""
    run = Runs(context.workspace).get(str(context.job.run))
    needed = estimate_stage(context.workspace, run.config)
    context.say(f"estimated: {needed.words()}")
    results = train(context.workspace, run, progress=context.progress, check=context.check, say=context.say)
    final = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in results["final"].items())
    return f"{results['tokens']:,} tokens in {results['seconds'] / 60:.1f} minutes; {final}"
