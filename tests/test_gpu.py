"""What only a GPU can show: the loss, four bits and a whole training there. Skipped without one."""

# mypy: allow-untyped-calls

import copy
from pathlib import Path

import pytest
import torch
from loss_loop import case
from test_lowrank import adapted, distance, learned_on
from test_models import save
from test_training import new_run, quiet, stage

from mixcpt.lowrank import streamline
from mixcpt.lssd import Head, Objective, chunked_loss, plain_loss
from mixcpt.models import load_base
from mixcpt.training import train
from mixcpt.workspace import Workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU that PyTorch can use"),
]


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_the_chunked_loss_on_a_gpu_is_the_plain_one(kind: torch.dtype, tolerance: float) -> None:
    hidden, teacher, labels, head = case(n=300, width=64, vocabulary=4099, dtype=kind)
    expected = plain_loss(head.logits(hidden), head.logits(teacher), labels, Objective())
    moved = hidden.cuda().requires_grad_()
    found = chunked_loss(moved, teacher.cuda(), labels.cuda(), Head(head.weight.cuda()), Objective(), chunk=128)
    found.total.backward()
    assert found.total.item() == pytest.approx(expected.total.item(), rel=tolerance)
    assert moved.grad is not None and bool(torch.isfinite(moved.grad).all())


def test_four_bits_on_a_gpu_train_the_same_adapter(tmp_path: Path) -> None:
    plain = adapted(load_base(save("llama", tmp_path / "model"), "cuda", "nf4"))
    fast = copy.deepcopy(plain)
    assert streamline(fast) == 14
    loss, expected = learned_on("cuda", plain, autocast=True)
    found, gradients = learned_on("cuda", fast, autocast=True)
    assert found.item() == pytest.approx(loss.item(), rel=1e-2) and distance(gradients, expected) < 0.1


@pytest.mark.parametrize("precision", ["nf4", "bf16"])
def test_a_run_trains_on_a_gpu(small_corpora: Workspace, tiny_model_folder: Path, precision: str) -> None:
    config = stage(tiny_model_folder, model__precision=precision, model__device="cuda", mixture__budget_tokens=1200)
    results = train(small_corpora, new_run(small_corpora, config), say=quiet)
    assert (results["device"], results["precision"]) == ("cuda", precision)
    assert results["final"]["domain_bits_per_byte"] < results["base"]["domain_bits_per_byte"]
