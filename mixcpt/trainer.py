"""What the trainer of every stage has: numbers that stay finite, checkpoints that are whole, and a line a step.

`Watched` is mixed into transformers' Trainer or one of TRL's; `Recorder` writes the metrics, takes the measures when
they are due, and listens for a request to stop. A stopped run goes on exactly where it was: `begin` pins what it began
with, `resume_point` finds its last whole checkpoint. `load` and `carry_through` are the same in every stage: the base
with its one adapter, trained until it is done or asked to stop, and the base proved untouched.
"""

import math
import resource
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from mixcpt import models
from mixcpt.config import ModelConfig
from mixcpt.errors import BadConfig, BadInput, Diverged, Interrupted, Unavailable
from mixcpt.lowrank import streamline
from mixcpt.lssd import Head
from mixcpt.measures import Measures
from mixcpt.optimisation import OptimiserConfig
from mixcpt.outlook import Effort
from mixcpt.progress import cached_share, peak_share
from mixcpt.runs import Run
from mixcpt.stages import Stage
from mixcpt.teacher import teacher_mode
from mixcpt.workspace import Workspace, now, read_json, write_json

Check = Callable[[], None]
Progress = Callable[[float | None, str], None]


class Watched(Trainer):
    """A Trainer that stops before a number that is none reaches the weights, and marks its whole checkpoints."""

    gradient_norm: float = 0.0
    """Of the step that is being made, before clipping."""

    def step_figures(self) -> dict[str, float]:
        """The figures of the step that has just ended, "loss" among them; counts anew from then on."""
        raise NotImplementedError(f"{type(self).__name__} says nothing of its steps")

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> float:
        """The last that the Trainer asks for before the optimizer's step: a bad gradient never reaches the weights."""
        norm = float(super()._get_grad_norm(model, grad_norm=grad_norm))  # type: ignore[no-untyped-call]
        self.require_finite("gradient", norm)
        self.gradient_norm = norm
        return norm

    def require_finite(self, what: str, value: float) -> None:
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
    """Writes a line of metrics a step, takes the measures when they are due, and listens for a request to stop.

    tokens: those read by the end of each step, from step 0 on. effort: by which each step's share of this machine's
    peak is told.
    """

    def __init__(
        self,
        run: Run,
        tokens: Sequence[int],
        measures: Measures,
        progress: Progress,
        check: Check,
        effort: Effort | None = None,
    ):
        self.run, self.measures = run, measures
        self.progress, self.check = progress, check
        self.trainer: Watched
        self.interrupted: Interrupted | None = None
        self.every = run.config.measures.every_steps
        self.tokens, self.effort = tokens, effort
        self.started = time.perf_counter()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            if self.run.info.parent:  # it starts from what was learned before; its figures are against the base
                with teacher_mode(self._model):
                    self._measure(0, under="base")
            self._measure(0)
        self.started = time.perf_counter()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        step = state.global_step
        seconds, self.started = time.perf_counter() - self.started, time.perf_counter()
        figures = self.trainer.step_figures()
        read = self.tokens[step] - self.tokens[step - 1]
        record = {
            "step": step,
            "tokens": self.tokens[step],
            **figures,
            "gradient_norm": self.trainer.gradient_norm,
            "learning_rate": self.trainer.optimizer.param_groups[0]["lr"] if self.trainer.optimizer else 0.0,
            "seconds": seconds,
            "tokens_per_second": read / seconds,
            "memory_bytes": peak_memory(args.device),
        }
        if self.effort:
            record["peak_share"] = self.effort.share(read, figures.get("cached_tokens", 0), seconds)
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

    def _measure(self, step: int, **more: str) -> None:
        started = time.perf_counter()
        figures = self.measures.take(self._model)
        seconds = time.perf_counter() - started
        self.run.append({"step": step, "tokens": self.tokens[step], "seconds": seconds, "measure": figures} | more)

    @property
    def _model(self) -> nn.Module:
        assert isinstance(self.trainer.model, nn.Module)
        return self.trainer.model


def peak_memory(device: torch.device) -> int:
    """The most memory used so far, in bytes: of the GPU when training there, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def options(config: OptimiserConfig, folder: Path, device: str, precision: str) -> dict[str, Any]:
    """The arguments that the trainers of all stages share; `folder` takes the checkpoints."""
    schedule = {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule)
    return {
        "output_dir": str(folder),
        "num_train_epochs": 1,
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": schedule,
        "warmup_steps": config.warmup,
        "weight_decay": config.weight_decay,
        "max_grad_norm": config.max_gradient_norm,
        "optim": "adamw_torch",
        "train_sampling_strategy": "sequential",
        "activation_checkpointing": config.checkpoint_activations,
        "save_strategy": "steps",
        "save_steps": config.checkpoint_steps,
        "save_total_limit": 2,
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": models.compute_type(device, precision) == torch.bfloat16,
        "seed": config.seed,
        "data_seed": config.seed,
        "dataloader_pin_memory": False,
    }


def begin(
    workspace: Workspace, run: Run, folder: Path, pinned: dict[str, str], noted: dict[str, int] | None = None
) -> tuple[str, str]:
    """The device and precision of the run, `auto` resolved once and for all, at its first start. What it started with
    is kept in started.json; going on with anything else would give a run that is neither the one nor the other.

    Args:
        folder: of the model. pinned: fingerprints of all that it learns from, by name. noted: what is kept beside.
    """
    path = run.folder / "started.json"
    kept = read_json(path) if path.exists() else {}
    wanted = run.config.model.model_dump()
    before = kept or _started_of_parent(workspace, run)
    wanted |= {name: before[name] for name in ("device", "precision") if before and wanted[name] == "auto"}
    try:
        device, precision = models.resolve(ModelConfig.model_validate(wanted), workspace)
    except Unavailable as error:
        if not kept:
            raise
        raise Unavailable(
            f"Run {run.id} began on {kept['device']} in {kept['precision']}, which cannot be had now ({error}) Resume "
            f"it where that is there, or start again with `mixcpt rerun {run.id}`."
        ) from error
    facts = {**pinned, "model": models.model_fingerprint(folder), "device": device, "precision": precision}
    if changed := [name for name, value in facts.items() if kept and kept[name] != value]:
        raise BadInput(
            f"The {' and the '.join(changed)} changed since run {run.id} began, so it cannot go on: start again with "
            f"`mixcpt rerun {run.id}`."
        )
    if not kept:
        write_json(path, facts | (noted or {}))
    return device, precision


def _started_of_parent(workspace: Workspace, run: Run) -> dict[str, str]:
    """What the parent began with: a chain stays in one precision, else its figures could not be compared."""
    if run.info.parent is None:
        return {}
    path = workspace.runs / run.info.parent / "started.json"
    started: dict[str, str] = read_json(path) if path.exists() else {}
    return started


@dataclass(frozen=True)
class Loaded:
    """What a run trains: the frozen base and the one adapter on it.

    model: base with adapter. head: of the base, verified; the model has its own where that is trained. digest: of the
    base's weights. trainable, total: numbers in the adapter, and in the model.
    """

    base: PreTrainedModel
    model: PeftModel
    head: Head
    digest: str
    trainable: int
    total: int
    device: str
    precision: str


def load(
    run: Run,
    folder: Path,
    device: str,
    precision: str,
    progress: Progress,
    say: Callable[[str], None],
    adapter: Path | None = None,
) -> Loaded:
    """The model in `folder` with `adapter`, or without one with a fresh one, by the run's settings and seed.

    Raises:
        BadFile: model or adapter cannot be used. BadConfig: what cannot be trained in this stage. Unavailable: head or
            embeddings of this family are not known here.
    """
    stage = run.config
    progress(None, f"loading {stage.model.name} ({precision} on {device})")
    base = models.load_base(folder, device, precision)
    digest = models.frozen_digest(base)
    head = models.output_head(base)
    models.verify_head(base, head)
    if adapter:
        model = models.load_adapter(base, adapter, trainable=True)
    else:
        if stage.adapter.vocabulary and not isinstance(stage, Stage):
            raise BadConfig(
                "adapter.vocabulary is on, but embeddings and head are trained in the knowledge stage only, and this "
                "run continues none: set it to false, or start from a run of the knowledge stage."
            )
        model = models.attach_adapter(base, stage.adapter, stage.training.seed)
    streamline(model)
    trainable, total = models.parameter_counts(model)
    say(f"trainable parameters: {trainable:,} of {total:,} ({trainable / total:.2%})")
    return Loaded(base, model, head, digest, trainable, total, device, precision)


def carry_through(trainer: Watched, recorder: Recorder, loaded: Loaded, say: Callable[[str], None]) -> None:
    """Train from the start or the last whole checkpoint to the end, and see that the base is what it was.

    Raises:
        Interrupted: asked to stop; a checkpoint was written first. Diverged: loss or gradient is no number any more.
    """
    recorder.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=resume_point(recorder.run, say))
    if recorder.interrupted is not None:
        raise recorder.interrupted
    if models.frozen_digest(loaded.base) != loaded.digest:
        raise RuntimeError("the frozen base weights changed during training; this is a bug, please report it")


def resume_point(run: Run, say: Callable[[str], None]) -> str | None:
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


def results_of(run: Run, tokens: int, loaded: Loaded) -> dict[str, Any]:
    """Times are summed from the records, so they are those of the whole run, however often it was resumed."""
    losses, curve = run.losses(), run.curve()
    training_seconds = sum(record["seconds"] for record in losses)
    measuring_seconds = sum(record.get("seconds", 0.0) for record in curve)  # older records have none
    return {
        "finished": now(),
        "steps": losses[-1]["step"],
        "tokens": tokens,
        "seconds": round(training_seconds + measuring_seconds, 1),
        "tokens_per_second": round(tokens / training_seconds, 1),
        "measure_share": round(measuring_seconds / (training_seconds + measuring_seconds), 3),
        "peak_share": peak_share(losses),
        "cached_share": cached_share(losses),
        "peak_memory_bytes": max(record["memory_bytes"] for record in losses),
        "base": curve[0]["measure"],
        "final": curve[-1]["measure"],
        "trainable_parameters": loaded.trainable,
        "total_parameters": loaded.total,
        "device": loaded.device,
        "precision": loaded.precision,
    }
