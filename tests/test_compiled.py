"""Compiled layers compute what the others do; where nothing can be compiled, that is said."""

import shutil
from pathlib import Path

import pytest
import torch
from test_lowrank import adapted, distance, learned
from test_models import build
from test_training import new_run, quiet, stage
from torch import nn

from mixcpt import compiled
from mixcpt.compiled import compile_layers
from mixcpt.errors import Unavailable
from mixcpt.lowrank import streamline
from mixcpt.training import train
from mixcpt.workspace import Workspace

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler (g++) to compile with")


@needs_compiler
@pytest.mark.filterwarnings("ignore")  # PyTorch's compiler warns of its own parts
def test_compiled_layers_give_the_same_loss_and_gradients() -> None:
    model = adapted(build("llama"))
    streamline(model)
    loss, expected = learned(model)
    assert compile_layers(model) == 2
    found, gradients = learned(model)
    assert found.item() == pytest.approx(loss.item(), rel=1e-5) and distance(gradients, expected) < 1e-4


def test_without_a_compiler_it_is_one_sentence_before_anything_is_trained(
    small_corpora: Workspace, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: object, **more: object) -> None:
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    run = new_run(small_corpora, stage(tiny_model_folder, training__compile_layers=True, mixture__budget_tokens=600))
    with pytest.raises(Unavailable, match=r"cannot compile \(RuntimeError: No working C\+\+ compiler.*install a C\+\+"):
        train(small_corpora, run, say=quiet)
    assert run.losses() == []


def test_layers_that_are_not_found_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_require_compiler", lambda device: None)
    monkeypatch.setattr(compiled, "body", lambda model: nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(Unavailable, match="are not where they usually are"):
        compile_layers(build("llama"))
