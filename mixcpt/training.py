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
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from mixcpt import models
from mixcpt.config import ModelConfig, ObjectiveConfig, TrainingConfig
from mixcpt.errors import BadInput, Diverged, Interrupted, Unavailable
from mixcpt.lssd import Head, Objective, chunked_loss
from mixcpt.measures import Measures
from mixcpt.mixture import Mixture, realise
from mixcpt.packing import IGNORED, Row
from mixcpt.recipes import estimate_stage
from mixcpt.runs import Run, Runs
from mixcpt.teacher import check_isolation, final_hidden, teacher_mode
from mixcpt.tokens import TextTokenizer
from mixcpt.worker import JobContext
from mixcpt.workspace import Workspace, building, now, read_json, write_json

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
        self._require_finite("loss", sums.total.item())
        self.sums += torch.tensor([sums.total.item(), sums.ce.item(), sums.retention.item(), sums.tokens])
        counted = num_items_in_batch if num_items_in_batch is not None else sums.tokens
        return sums.total / max(int(counted), 1)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The last that the Trainer asks for before the optimizer's step: a bad gradient never reaches the weights."""
        norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))  # type: ignore[no-untyped-call]
        self._require_finite("gradient", norm)
        return norm

    def _require_finite(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise Diverged(
                f"The {what} became {value} at step {self.state.global_step + 1}: start again with a lower learning "
                f"rate (now {self.args.learning_rate:g}); the last good checkpoint is kept."
            )

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        checkpoint = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        (checkpoint / "training_args.bin").unlink(missing_ok=True)  # a pickle that nothing reads
        mark_complete(checkpoint)


def mark_complete(checkpoint: Path) -> None:
    """Write the completion marker, last of all: the files that the checkpoint holds, at any depth, and their sizes."""
    marker = checkpoint / "complete.json"
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file() and path != marker]
    sizes = {path.relative_to(checkpoint).as_posix(): path.stat().st_size for path in files}
    write_json(marker, {"files": sizes, "written": now()})


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
        rows, read = run.config.training.rows_per_step, list(accumulate(mixture.row_lengths, initial=0))
        self.tokens = [*read[:-1:rows], read[-1]]
        """Tokens read by the end of each step, from step 0 on; the last step may have fewer rows."""
        self.started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            self._measure(0)
        self.started = time.perf_counter()

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
            "memory_bytes": peak_memory(args.device),
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
        started = time.perf_counter()
        figures = self.measures.take(self.trainer.model, self.head)
        seconds = time.perf_counter() - started
        self.run.append({"step": step, "tokens": self.tokens[step], "seconds": seconds, "measure": figures})


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: of the GPU when training there, else of this process."""
    if device.type == "cuda":
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
    """Train `run` from its start or its last whole checkpoint; writes started.json, metrics, adapter/ and results.json.

    Raises:
        Interrupted: asked to stop; a checkpoint was written first. Diverged: the loss or the gradient is no number any
        more. BadInput: what the run began with has changed. TooLittle, Unavailable: it cannot be done, and why.
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
    device, precision = _begin(workspace, run, mixture, folder)
    progress(None, f"loading {config.model.name} ({precision} on {device})")
    base = models.load_base(folder, device, precision)
    frozen = models.frozen_digest(base)
    model = models.attach_adapter(base, config.adapter, config.training.seed)
    head = models.output_head(base)
    models.verify_head(base, head)
    check_isolation(model, tokenizer.vocabulary)
    trainable, total = models.parameter_counts(model)
    say(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.2%})")

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
    with building(run.adapter) as unfinished:
        model.save_pretrained(str(unfinished), safe_serialization=True)
    results = _results(run, mixture)
    results |= {"trainable_parameters": trainable, "total_parameters": total, "device": device, "precision": precision}
    run.write_results("training", results)
    return results


def _begin(workspace: Workspace, run: Run, mixture: Mixture, folder: Path) -> tuple[str, str]:
    """The device and precision of the run, `auto` resolved once and for all, at its first start. What it started with
    is kept in started.json; going on with anything else would give a run that is neither the one nor the other."""
    path = run.folder / "started.json"
    kept = read_json(path) if path.exists() else {}
    wanted = run.config.model.model_dump()
    wanted |= {name: kept[name] for name in ("device", "precision") if kept and wanted[name] == "auto"}
    try:
        device, precision = models.resolve(ModelConfig.model_validate(wanted), workspace)
    except Unavailable as error:
        if not kept:
            raise
        raise Unavailable(
            f"Run {run.id} began on {kept['device']} in {kept['precision']}, which cannot be had now ({error}) Resume "
            f"it where that is there, or start again with `mixcpt rerun {run.id}`."
        ) from error
    facts = {
        "mixture": mixture.fingerprint(),
        "model": models.model_fingerprint(folder),
        "device": device,
        "precision": precision,
    }
    if changed := [name for name, value in facts.items() if kept and kept[name] != value]:
        raise BadInput(
            f"The {' and the '.join(changed)} changed since run {run.id} began, so it cannot go on: start again with "
            f"`mixcpt rerun {run.id}`."
        )
    if not kept:
        write_json(path, facts)
    return device, precision


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


def _results(run: Run, mixture: Mixture) -> dict[str, Any]:
    """Times are summed from the records, so they are those of the whole run, however often it was resumed."""
    losses, curve = run.losses(), run.curve()
    training_seconds = sum(record["seconds"] for record in losses)
    measuring_seconds = sum(record.get("seconds", 0.0) for record in curve)  # older records have none
    return {
        "finished": now(),
        "steps": losses[-1]["step"],
        "tokens": mixture.tokens,
        "seconds": round(training_seconds + measuring_seconds, 1),
        "tokens_per_second": round(mixture.tokens / training_seconds, 1),
        "measure_share": round(measuring_seconds / (training_seconds + measuring_seconds), 3),
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
