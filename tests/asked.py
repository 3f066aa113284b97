"""Questions, and runs to ask them: their adapters were not trained, but drawn at random, which is all it takes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from mixcpt import models
from mixcpt.config import AdapterConfig
from mixcpt.runs import Run, Runs
from mixcpt.settings import validate
from mixcpt.stages import Stage
from mixcpt.workspace import Workspace

QUESTIONS: list[dict[str, Any]] = [
    {"question": "The capital of the north is", "choices": ["Aldermoor", "Brack", "Corwen"], "answer": 0},
    {"question": "Who keeps the blue book?", "choices": ["the miller", "the smith"], "answer": 1},
    {"question": "Größe in €:", "choices": ["fünf", "zehn", "elf", "zwölf 😀"], "answer": 0},
    {"question": "One and one is", "choices": ["2", "3"], "answer": 0},
    {"question": 'It\'s a "quoted" {{ brace }} question', "choices": ["it's", 'a "b"', "[c]"], "answer": 2},
    {"question": "Rain came", "choices": ["late", "early", "never"], "answer": 0},
]
MORE = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "answer": n % 2} for n in range(8)]


def write(path: Path, questions: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(question, ensure_ascii=False) + "\n" for question in questions))
    return path


def new_run(
    home: Workspace, model: Path, seed: int, evaluation: dict[str, Any], precision: str = "fp32", scale: float = 0.1
) -> Run:
    """A run that asks what `evaluation` says; `scale` is how far its adapter changes the base."""
    stage = {
        "model": {"name": str(model), "precision": precision, "device": "cpu"},
        "mixture": {"sources": [{"source": "builtin/atlas", "share": 1, "domain": True}]},
        "evaluation": evaluation,
    }
    run = Runs(home).create(validate(Stage, stage, "the test"), experiment="test")
    adapted = models.attach_adapter(models.load_base(model, "cpu", "fp32"), AdapterConfig(rank=4), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(run.adapter))
    return run


def plain_lm_eval(arguments: list[str], folder: Path) -> dict[str, Any]:
    """What the plain `lm_eval` command answers, offline, started in `folder`: per task its figures."""
    command = [sys.executable, "-m", "lm_eval", *arguments, "--output_path", str(folder / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (written,) = (folder / "out").rglob("results_*.json")
    results: dict[str, Any] = json.loads(written.read_text())["results"]
    return results
