"""What a stage needs on this machine, against what is free of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import recipe

from mixcpt import doctor, outlook
from mixcpt.config import override
from mixcpt.errors import TooLittle
from mixcpt.workspace import Workspace


def test_only_free_memory_of_the_gpu_counts(
    workspace: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = SimpleNamespace(memory_gb=141.0, memory_free_gb=0.001)
    with_gpu = SimpleNamespace(cuda=gpu, precision="bf16")
    monkeypatch.setattr(doctor, "machine", lambda workspace: with_gpu)
    stage = override(recipe(tiny_model_folder).cpt, {"model.device": "auto", "model.precision": "auto"})
    with pytest.raises(TooLittle, match=r"0\.0 GB are free"):
        outlook.estimate_stage(workspace, stage)
    gpu.memory_free_gb = 100.0
    outlook.estimate_stage(workspace, stage)
