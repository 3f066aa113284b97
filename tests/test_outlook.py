"""What a stage needs on this machine, against what is free of it."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace

import pytest
from made import made_chain, made_child
from test_machine import PLAIN
from tiny import recipe

from mixcpt import doctor, machine, outlook
from mixcpt.drafts import default_stage
from mixcpt.errors import NotFound, TooLittle
from mixcpt.settings import override
from mixcpt.stages import follow
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


def test_a_run_is_estimated_by_what_it_has_chosen(workspace: Workspace, quick_machine: None) -> None:
    """So it goes on although its selection was deleted."""
    make_model(workspace)
    cpt, *_ = made_chain(workspace)
    run = made_child(workspace, cpt, changes={"samples": {"selection": "gone"}}, state="paused")
    assert outlook.estimate_run(workspace, run).seconds > 0
    assert outlook.estimate_run(workspace, cpt) == outlook.estimate_stage(workspace, cpt.config)
    waiting = made_child(workspace, cpt, changes={"samples": {"selection": "gone"}}, state="queued")
    with pytest.raises(NotFound, match="no selection 'gone'"):
        outlook.estimate_run(workspace, waiting)


def test_the_effort_of_a_step_by_hand(workspace: Workspace) -> None:
    """A linear layer of 64 * 64 and a head of 64 * 257: 8,192 and 32,896 operations a token. The student's body goes
    forward and backward and so does the head, the teacher's goes forward, its body not for the cached half."""
    make_model(workspace)
    stage = override(default_stage(), {"model.device": "cpu", "model.precision": "fp32"})
    folder = workspace.models / "smollm2-135m"
    assert outlook.effort(workspace, stage, folder, "cpu", "fp32") is None
    machine.keep(workspace, PLAIN)
    found = outlook.effort(workspace, stage, folder, "cpu", "fp32")
    assert found is not None and found.gflops == PLAIN.timings.fp32 == 200
    done = 100 * (2 * 8192 + 2 * 32896 + 32896) + 50 * 8192
    assert found.share(100, 50, seconds=2.0) == pytest.approx(done / (2 * 200e9))
    sft = outlook.effort(workspace, follow(stage, "sft"), folder, "cpu", "fp32")
    assert sft is not None
    assert sft.share(100, 0, seconds=2.0) == pytest.approx(100 * (2 * 8192 + 3 * 32896) / (2 * 200e9))


def make_model(workspace: Workspace) -> None:
    """The built-in model, as far as estimates look at it."""
    folder = workspace.models / "smollm2-135m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"vocab_size": 257, "hidden_size": 64, "num_hidden_layers": 1}))
    (folder / "mixcpt.json").write_text("{}")
    header = json.dumps({"a": {"dtype": "BF16", "shape": [64, 64], "data_offsets": [0, 0]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
