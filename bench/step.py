"""Whole training steps on real documents: ours, the usual set-up, and TRL's plain SFT trainer, in the same run.

    python bench/step.py [--model smollm2-135m] [--steps 6] [--rows 2] [--row-tokens 512] [--repeats 3]

Every arm reads the same documents of the built-in sources in the same order and trains the same adapter, in a process
of its own (so its peak memory is its own), and the arms take turns. *usual* is what is written today: a second copy of
the model as the teacher, a padded batch of the documents of each step, whole fp32 logits of both, a clone for the swap,
and kl_div. *trl* is SFTTrainer with plain cross-entropy on the same documents, padded. The first step of each warms up
and is left out. Tokens are those of documents; padding is none. The steps are the first of a mixture of ordinary
length, whose rows are as full as those of a real run.

`floor` is the time that the arithmetic takes at this machine's matrix-product speed, measured between the arms; `share`
is floor over time. LSSD over CE is shown beside the ratio of their arithmetic.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt.processes import THREADS

os.environ.update(THREADS | os.environ)  # as a run is started, for all arms

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from mixcpt.mixture import Mixture
    from mixcpt.stages import Stage
    from mixcpt.workspace import Workspace

MIXTURE = 40_000
"""Tokens of the mixture whose first steps are taken."""
ARMS = ("ce", "lssd", "warm", "usual", "trl")
WORDS = {
    "ce": "ours, CE alone",
    "lssd": "ours, LSSD",
    "warm": "ours, LSSD, teacher cached",
    "usual": "usual set-up, LSSD",
    "trl": "TRL SFTTrainer, CE alone",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--models", type=Path, help="a workspace's models folder to take the model from")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp32", "nf4"))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--rows", type=int, default=2, help="rows of a step")
    parser.add_argument("--row-tokens", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(measure(options)))
        return
    with tempfile.TemporaryDirectory() as home:
        found, speeds = take_turns(options, home)
    print_table(options, found, statistics.median(speeds))


def take_turns(options: argparse.Namespace, home: str) -> tuple[dict[str, list[dict[str, float]]], list[float]]:
    """What each arm measured in each of its turns, and the machine's matrix-product speeds (FLOP/s) between them."""
    import torch

    from mixcpt.modelstore import ensure_model
    from mixcpt.workspace import Workspace

    kind = torch.float32 if options.precision == "fp32" else torch.bfloat16
    workspace = Workspace(home)
    if options.models:
        (workspace.models / options.model).symlink_to(options.models.absolute() / options.model)
    ensure_model(workspace, options.model)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in options.arms}
    speeds = []
    for turn in range(options.repeats):
        for arm in options.arms:
            command = [sys.executable, __file__, *sys.argv[1:], "--arm", arm, "--home", home]
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{arm} failed:\n{done.stderr[-2000:]}")
            found[arm].append(json.loads(done.stdout.strip().rpartition("\n")[2]))
            speeds.append(matrix_speed(kind))
            print(f"turn {turn + 1}, {arm}: {found[arm][-1]['speed']:,.0f} tokens/s", file=sys.stderr)
    return found, speeds


def matrix_speed(kind: "torch.dtype", device: str = "cpu", side: int = 2048) -> float:
    """FLOP/s of a large matrix product in that type; the best of some."""
    import torch

    matrix = torch.randn(side, side, device=device).to(kind)
    return 2 * side**3 / min(timed(lambda: matrix @ matrix, device) for _ in range(8))


def timed(do: Callable[[], Any], device: str) -> float:
    """Seconds that it takes, until the device is done with it."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    do()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def print_table(options: argparse.Namespace, found: dict[str, list[dict[str, float]]], flops: float) -> None:
    def median(arm: str, what: str) -> float:
        return statistics.median(turn[what] for turn in found[arm])

    print(
        f"{options.model}, {options.precision}, {options.rows} rows of {options.row_tokens} tokens, {options.steps} "
        f"steps, medians of {options.repeats}; large matrix products {flops / 1e9:,.0f} GFLOP/s\n"
    )
    print("| arm | tokens/s | against usual | peak memory | against usual | floor a token | share of peak |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for arm in options.arms:
        speed, memory, needed = median(arm, "speed"), median(arm, "memory"), median(arm, "operations")
        against = (speed / median("usual", "speed"), memory / median("usual", "memory")) if "usual" in found else None
        faster, smaller = (f"{against[0]:.2f}", f"{against[1]:.0%}") if against else ("", "")
        floor = needed / flops
        print(
            f"| {WORDS[arm]} | {speed:,.0f} | {faster} | {memory / 1e9:.2f} GB | {smaller} | {floor * 1000:.2f} ms | "
            f"{floor * speed:.0%} |"
        )
    for arm in ("lssd", "warm"):
        if arm in found and "ce" in found:
            time_ratio = median("ce", "speed") / median(arm, "speed")
            arithmetic = median(arm, "operations") / median("ce", "operations")
            print(f"\n{WORDS[arm]} over {WORDS['ce']}: time {time_ratio:.2f}, arithmetic {arithmetic:.2f}")


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One arm, in this process: tokens/s without the first step, peak memory in bytes, operations a token."""
    from mixcpt.workspace import Workspace

    workspace = Workspace(options.home)
    stage = stage_of(options)
    if options.arm in ("usual", "trl"):
        tokens, seconds = (usual if options.arm == "usual" else trl)(workspace, stage, options.steps)
    else:
        tokens, seconds = ours(workspace, stage, options.steps)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"speed": sum(tokens[1:]) / sum(seconds[1:]), "memory": memory, "operations": operations(workspace, stage)}


def stage_of(options: argparse.Namespace) -> "Stage":
    from mixcpt.settings import validate
    from mixcpt.stages import Stage

    plain = options.arm in ("ce", "trl")
    return validate(
        Stage,
        {
            "model": {"name": options.model, "precision": options.precision, "device": "cpu"},
            "mixture": {
                "budget_tokens": max(MIXTURE, options.steps * options.rows * options.row_tokens),
                "row_tokens": options.row_tokens,
                "sources": [
                    {"source": "builtin/atlas", "share": 60, "domain": True},
                    {"source": "builtin/replay", "share": 40},
                ],
            },
            "objective": {"retention": "none" if plain else "lssd"},
            "training": {
                "rows_per_step": options.rows,
                "rows_at_once": options.rows,
                "teacher_cache": options.arm == "warm",
            },
            "measures": {"every_steps": 0, "domain_tokens": 1, "general_tokens": 0, "prompt_tokens": 0},
            "evaluation": {"tasks": []},
        },
        "the benchmark",
    )


def operations(workspace: "Workspace", stage: "Stage") -> float:
    """Floating-point operations a token, of matrix products."""
    from mixcpt import estimate

    shape = estimate.shape_of(workspace.models / stage.model.name)
    return estimate.operations(stage, shape, 1, cached=float(stage.training.teacher_cache))


def ours(workspace: "Workspace", stage: "Stage", count: int) -> tuple[list[int], list[float]]:
    """Tokens and seconds of each step. With the teacher's cache the first turn only fills it, and another follows."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    from mixcpt.runs import Runs
    from mixcpt.training import train

    class Stop(TrainerCallback):
        def on_step_end(
            self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
        ) -> None:
            control.should_training_stop = state.global_step >= count

    run = Runs(workspace).create(stage, experiment="bench-step")
    train(workspace, run, say=lambda text: None, callbacks=(Stop(),))
    steps = run.losses()
    if stage.training.teacher_cache and sum(step["cached_tokens"] for step in steps) < 0.9 * steps[-1]["tokens"]:
        return ours(workspace, stage, count)
    read = [step["tokens"] for step in steps]
    return [b - a for a, b in itertools.pairwise([0, *read])], [step["seconds"] for step in steps]


def documents(workspace: "Workspace", stage: "Stage", count: int) -> Iterator[list["Tensor"]]:
    """The segments of the rows of each of the first steps, as they are packed by us."""
    import torch

    mixture = mixture_of(workspace, stage)
    at_once = stage.training.rows_per_step
    for first in range(0, min(len(mixture), count * at_once), at_once):
        rows = [mixture[index] for index in range(first, min(first + at_once, len(mixture)))]
        yield [
            torch.from_numpy(row.ids[row.segment == number]).long()
            for row in rows
            for number in dict.fromkeys(row.segment)
        ]


def mixture_of(workspace: "Workspace", stage: "Stage") -> "Mixture":
    from mixcpt.mixture import realise
    from mixcpt.tokens import TextTokenizer

    return realise(workspace, stage.mixture, TextTokenizer.from_folder(workspace.models / stage.model.name))


def load(workspace: "Workspace", stage: "Stage") -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    kind = torch.float32 if stage.model.precision == "fp32" else torch.bfloat16
    return AutoModelForCausalLM.from_pretrained(workspace.models / stage.model.name, dtype=kind, local_files_only=True)


def lora(stage: "Stage") -> Any:
    from peft import LoraConfig

    adapter = stage.adapter
    return LoraConfig(task_type="CAUSAL_LM", r=adapter.rank, lora_alpha=int(adapter.alpha), target_modules="all-linear")


def usual(workspace: "Workspace", stage: "Stage", count: int) -> tuple[list[int], list[float]]:
    import torch
    from peft import get_peft_model
    from torch.nn.utils.rnn import pad_sequence

    teacher = load(workspace, stage).eval().requires_grad_(False)
    student = get_peft_model(load(workspace, stage), lora(stage)).train()
    weights = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=stage.training.learning_rate, weight_decay=0.0)
    tokens, seconds = [], []
    for parts in documents(workspace, stage, count):
        started = time.perf_counter()
        ids = pad_sequence(parts, batch_first=True)
        mask = pad_sequence([torch.ones_like(part) for part in parts], batch_first=True)
        labels = ids.masked_fill(mask == 0, -100)
        with torch.autocast("cpu", torch.bfloat16, enabled=stage.model.precision != "fp32"):
            logits = student(input_ids=ids, attention_mask=mask).logits
            with torch.no_grad():
                taught = teacher(input_ids=ids, attention_mask=mask).logits
        usual_loss(logits[:, :-1], taught[:, :-1], labels[:, 1:]).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, stage.training.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        tokens.append(sum(map(len, parts)))
        seconds.append(time.perf_counter() - started)
    return tokens, seconds


def usual_loss(student: "Tensor", teacher: "Tensor", labels: "Tensor") -> "Tensor":
    """Cross-entropy and LSSD on whole logits, as it is usually written."""
    import torch.nn.functional as F

    student, teacher = student.float().flatten(0, 1), teacher.float().flatten(0, 1).clone()
    flat = labels.flatten()
    counted = flat != -100
    index = flat.masked_fill(~counted, 0).unsqueeze(1)
    top, top_index = teacher.max(1, keepdim=True)
    at_label = teacher.gather(1, index)
    swapped = teacher.scatter(1, top_index, at_label).scatter(1, index, top)
    kl = F.kl_div(F.log_softmax(student, 1), F.softmax(swapped, 1), reduction="none").sum(1)
    return F.cross_entropy(student, flat, ignore_index=-100) + (kl * counted).sum() / counted.sum()


def trl(workspace: "Workspace", stage: "Stage", count: int) -> tuple[list[int], list[float]]:
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl.trainer.sft_config import SFTConfig
    from trl.trainer.sft_trainer import SFTTrainer

    steps = list(documents(workspace, stage, count))
    parts = [part.tolist() for step in steps for part in step]
    at_once = max(1, round(len(parts) / len(steps)))
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *arguments: Any, **more: Any) -> None:
            if not ends:
                ends.append(time.perf_counter())

        def on_step_end(self, *arguments: Any, **more: Any) -> None:
            ends.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=at_once,
            num_train_epochs=1,
            learning_rate=stage.training.learning_rate,
            max_length=stage.mixture.row_tokens,
            packing=False,
            activation_checkpointing=False,
            train_sampling_strategy="sequential",
            bf16=stage.model.precision != "fp32",
            use_cpu=True,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        trainer = SFTTrainer(
            model=load(workspace, stage),
            args=settings,
            train_dataset=Dataset.from_dict({"input_ids": parts, "labels": parts}),
            processing_class=AutoTokenizer.from_pretrained(workspace.models / stage.model.name, local_files_only=True),
            peft_config=lora(stage),
            callbacks=[Clock()],
        )
        trainer.train()
    lengths = [sum(map(len, parts[first : first + at_once])) for first in range(0, len(parts), at_once)]
    return lengths, [b - a for a, b in itertools.pairwise(ends)]


if __name__ == "__main__":
    main()
