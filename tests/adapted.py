"""Runs with an adapter drawn at random, on a model of two layers: what can be asked without any training."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import psutil
import torch

from mixcpt import models
from mixcpt.config import AdapterConfig
from mixcpt.processes import find_process
from mixcpt.runs import Run, Runs
from mixcpt.settings import validate
from mixcpt.stages import AnyStage, Stage, follow
from mixcpt.wire import read_address
from mixcpt.workspace import Workspace

FP32 = {"precision": "fp32", "device": "cpu"}
MIXTURE = {"sources": [{"source": "builtin/atlas", "share": 1, "domain": True}]}


def roomy_model(tiny_model_folder: Path, target: Path) -> Path:
    """The tiny model with room for thousands of tokens, so that an answer can take long."""
    shutil.copytree(tiny_model_folder, target)
    settings = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(settings | {"max_position_embeddings": 16_384}))
    return target


def adapted_run(
    workspace: Workspace,
    model_folder: Path,
    *,
    seed: int = 0,
    strength: float = 0.1,
    stage: Literal["cpt", "sft", "dpo"] = "cpt",
    parent: Run | None = None,
    name: str = "",
    **results: Any,
) -> Run:
    """A finished run of `stage`; the same seed draws the same adapter."""
    first = {"model": {"name": str(model_folder), **FP32}, "mixture": MIXTURE, "adapter": {"rank": 4}}
    made: AnyStage = validate(Stage, first, "the test")
    if stage != "cpt":
        made = follow(made, stage)
    run = Runs(workspace).create(made, experiment="test", name=name, parent=parent.id if parent else None)
    write_adapter(run, model_folder, seed, strength)
    run.write_results("training", {"finished": "2026-01-01T00:00:00Z", "tokens": 0, "seconds": 1.0, **results})
    return run


def write_adapter(run: Run, model_folder: Path, seed: int, strength: float = 0.1) -> None:
    """Replaces the run's adapter."""
    base = models.load_base(model_folder, "cpu", "fp32")
    adapted = models.attach_adapter(base, AdapterConfig(rank=4, dropout=0.5), 0)  # answers must not see the dropout
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = strength * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(run.adapter))


def end_process(workspace: Workspace) -> None:
    """End the workspace's inference process, when there is one, and wait until it is gone."""
    address = read_address(workspace)
    process = find_process(address.pid, address.started) if address else None
    if process:
        process.terminate()
        try:
            process.wait(20)
        except psutil.TimeoutExpired:
            process.kill()
