"""How good is the estimate that is shown before a run? Measured beside estimated, in processes of their own.

    python bench/estimate.py [--model smollm2-135m] [--tokens 4096] [--samples 24] [--first N]

Trains a few steps of each shape (in bf16, where it says nothing else) and prints peak memory and seconds, estimated and
measured, with their ratio. Stage two learns from `--samples` samples drawn by chance, so nothing is scored.
Run it on a quiet machine; the medians of several runs are what counts.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mixcpt.stages import AnyStage

SHAPES: tuple[dict[str, object], ...] = (
    {"training.rows_per_step": 1, "training.rows_at_once": 1},
    {"training.rows_per_step": 2, "training.rows_at_once": 2},
    {"training.rows_per_step": 4, "training.rows_at_once": 4},
    {"training.rows_per_step": 4, "training.rows_at_once": 4, "training.checkpoint_activations": True},
    {"objective.retention": "none"},
    {"model.precision": "fp32"},
    {"model.precision": "nf4"},
    {"stage": "sft"},
    {"stage": "sft", "training.samples_at_once": 4},
    {"stage": "sft", "training.samples_at_once": 4, "training.checkpoint_activations": True},
    {"stage": "dpo"},
    {"stage": "dpo", "training.samples_at_once": 4},
)


def stage_with(model: str, tokens: int, samples: int, changes: dict[str, object]) -> "AnyStage":
    """The stage that `changes` name ("stage": cpt unless it is sft or dpo), with the dotted ones among them."""
    from mixcpt.settings import override, validate
    from mixcpt.stages import Stage, follow

    plain = {
        "model": {"name": model, "precision": "bf16"},
        "mixture": {"budget_tokens": tokens, "sources": [{"source": "builtin/atlas", "share": 1, "domain": True}]},
        "training": {"teacher_cache": False},  # else every shape but the first would find its texts cached
        "measures": {"every_steps": 0, "domain_tokens": 100, "general_tokens": 100, "prompt_tokens": 100},
        "evaluation": {"tasks": []},
    }
    first = validate(Stage, plain, "the benchmark")
    dotted = {name: value for name, value in changes.items() if name != "stage"}
    if "stage" not in changes:
        return override(first, dotted)
    rule = {"samples.rule": {"strategy": "random", "count": samples}, "samples.max_tokens": 256}
    return follow(first, "dpo" if changes["stage"] == "dpo" else "sft", rule | dotted)


def measure(model: str, tokens: int, samples: int, changes: dict[str, object]) -> None:
    """One shape, in this process: prints a JSON line."""
    from mixcpt.alignment import align
    from mixcpt.outlook import estimate_run
    from mixcpt.runs import Runs
    from mixcpt.stages import Stage
    from mixcpt.training import train
    from mixcpt.workspace import Workspace

    workspace = Workspace()
    run = Runs(workspace).create(stage_with(model, tokens, samples, changes), experiment="bench-estimate")
    do = train if isinstance(run.config, Stage) else align
    results = do(workspace, run, say=lambda text: None)
    estimated = estimate_run(workspace, run)
    losses = run.losses()
    first, last = losses[0], losses[-1]  # the first step warms up, and the last may be a short one
    seconds = sum(record["seconds"] for record in losses[1:]) * last["tokens"] / (last["tokens"] - first["tokens"])
    Runs(workspace).delete(run)
    found = {"seconds": seconds, "memory": results["peak_memory_bytes"]}
    print(json.dumps({"estimated": [estimated.seconds, estimated.memory_bytes], "parts": estimated.parts, **found}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=24)
    parser.add_argument("--first", type=int, default=len(SHAPES), help="of the shapes only the first N")
    parser.add_argument("--only", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only is not None:
        return measure(options.model, options.tokens, options.samples, options.only)
    print(f"{'shape':72} {'memory est.':>11} {'measured':>9} {'ratio':>6} {'s est.':>7} {'measured':>9} {'ratio':>6}")
    for changes in SHAPES[: options.first]:
        sizes = ["--tokens", str(options.tokens), "--samples", str(options.samples)]
        arguments = ["--model", options.model, *sizes, "--only", json.dumps(changes)]
        with tempfile.TemporaryFile("w+") as errors:
            done = subprocess.run(
                [sys.executable, str(Path(__file__)), *arguments], stdout=subprocess.PIPE, stderr=errors, text=True
            )
            if done.returncode:
                errors.seek(0)
                print(f"{json.dumps(changes)}: {errors.read().strip().splitlines()[-1]}")
                continue
        row = json.loads(done.stdout.splitlines()[-1])
        seconds, memory = row["estimated"]
        print(
            f"{json.dumps(changes):72} {memory / 1e9:8.2f} GB {row['memory'] / 1e9:6.2f} GB "
            f"{memory / row['memory']:6.2f} "
            f"{seconds:7.1f} {row['seconds']:9.1f} {seconds / row['seconds']:6.2f}"
        )


if __name__ == "__main__":
    main()
