"""Adapters on one base: each is exactly what it would be alone, at any strength, in any order."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import adapted_run, write_adapter
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from mixcpt import machine, models, resident
from mixcpt.errors import BadFile, BadInput, TooLittle
from mixcpt.prompts import base_of
from mixcpt.resident import Resident, release_memory
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

IDS = torch.arange(10, 60).unsqueeze(0)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("resident") / "home")


@pytest.fixture(scope="module")
def runs(home: Workspace, tiny_model_folder: Path) -> list[Run]:
    return [adapted_run(home, tiny_model_folder, seed=seed) for seed in (1, 2)]


@pytest.fixture
def held(home: Workspace, runs: list[Run]) -> Resident:
    return Resident(base_of(home, runs[0], ""))


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(input_ids=IDS, use_cache=False).logits
    return found


def alone(folder: Path, run: Run | None = None) -> Tensor:
    """The logits of the base, or of the run, in a model that holds nothing else."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return logits((PeftModel.from_pretrained(model, str(run.adapter)) if run else model).eval())


def test_base_and_runs_are_what_they_are_alone_in_any_order(
    held: Resident, runs: list[Run], tiny_model_folder: Path
) -> None:
    expected = {
        None: alone(tiny_model_folder),
        0: alone(tiny_model_folder, runs[0]),
        1: alone(tiny_model_folder, runs[1]),
    }
    assert not torch.equal(expected[0], expected[1]) and not torch.equal(expected[0], expected[None])
    for number in (None, 0, 1, None, 1, 0, 0, None, None, 0):
        held.use(None if number is None else runs[number])
        assert torch.equal(logits(held.model), expected[number]), number
    assert held.runs == [runs[1].id, runs[0].id]


def test_strength_zero_is_the_base_and_one_is_the_run_exactly(
    held: Resident, runs: list[Run], tiny_model_folder: Path
) -> None:
    for strength, expected in ((1.0, alone(tiny_model_folder, runs[0])), (0.0, alone(tiny_model_folder))):
        held.use(runs[0], 0.4)
        held.use(runs[0], strength)
        assert torch.equal(logits(held.model), expected)


@pytest.mark.parametrize("strength", [1e-6, 0.3, 0.75])
def test_strength_between_scales_what_was_learned(
    held: Resident, runs: list[Run], tiny_model_folder: Path, strength: float
) -> None:
    """Against an adapter whose second matrices are scaled by hand."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.float32)
    scaled = PeftModel.from_pretrained(model, str(runs[1].adapter)).eval()
    with torch.no_grad():
        for name, parameter in scaled.named_parameters():
            if "lora_B" in name:
                parameter.mul_(strength)
    held.use(runs[0], 0.9)
    held.use(runs[1], strength)
    torch.testing.assert_close(logits(held.model), logits(scaled), atol=2e-5, rtol=1e-4)
    assert not torch.equal(logits(held.model), alone(tiny_model_folder))


def test_an_adapter_that_was_replaced_is_loaded_again(
    home: Workspace, tiny_model_folder: Path, held: Resident, runs: list[Run]
) -> None:
    run = adapted_run(home, tiny_model_folder, seed=3)
    held.use(runs[0])
    held.use(run)
    before = logits(held.model)
    write_adapter(run, tiny_model_folder, seed=4)
    held.use(None)
    held.use(run)
    after = logits(held.model)
    assert torch.equal(after, alone(tiny_model_folder, run)) and not torch.equal(after, before)
    held.use(runs[0])
    assert torch.equal(logits(held.model), alone(tiny_model_folder, runs[0]))


def test_only_some_adapters_are_held_and_the_others_come_again(
    home: Workspace, tiny_model_folder: Path, held: Resident, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "ADAPTERS", 2)
    third = adapted_run(home, tiny_model_folder, seed=5)
    for run in (*runs, third):
        held.use(run)
    assert held.runs == [runs[1].id, third.id]
    held.use(runs[0])
    assert held.runs == [third.id, runs[0].id]
    assert torch.equal(logits(held.model), alone(tiny_model_folder, runs[0]))


def test_nothing_can_be_trained_on_it(held: Resident, runs: list[Run]) -> None:
    for run in (runs[0], None, runs[1]):
        held.use(run)
        assert not any(parameter.requires_grad for parameter in held.model.parameters())
        assert not any(module.training for module in held.model.modules())


def test_a_run_without_an_adapter_is_refused_and_does_no_harm(
    home: Workspace, tiny_model_folder: Path, held: Resident, runs: list[Run]
) -> None:
    bare = adapted_run(home, tiny_model_folder)
    (bare.adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(BadInput, match="no finished adapter"):
        held.use(bare)
    held.use(runs[0])
    assert not held.broken and torch.equal(logits(held.model), alone(tiny_model_folder, runs[0]))


@pytest.fixture
def other_model(tiny_model_folder: Path, tmp_path: Path) -> Iterator[Path]:
    """A model of the same family with other widths."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((tiny_model_folder / file).read_bytes())
    settings = LlamaConfig.from_pretrained(tiny_model_folder, hidden_size=32, intermediate_size=64)
    LlamaForCausalLM(settings).save_pretrained(tmp_path)
    yield tmp_path


def test_an_adapter_of_another_model_is_refused_and_the_base_is_given_up(
    home: Workspace, other_model: Path, held: Resident, runs: list[Run]
) -> None:
    held.use(runs[0])
    with pytest.raises(BadFile, match="does not fit"):
        held.use(adapted_run(home, other_model))
    assert held.broken


def test_too_little_memory_is_told_before_anything_is_loaded(
    home: Workspace, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "memory_gb", lambda: (8.0, 0.2))
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(TooLittle, match=r"needs about 0\.\d GB of memory, but 0\.2 GB are free"):
        Resident(base_of(home, runs[0], ""))


def test_an_adapter_too_large_for_the_memory_is_refused_and_the_base_goes_on(
    held: Resident, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a run is that trained embeddings and head."""
    monkeypatch.setattr(machine, "memory_gb", lambda: (8.0, 1e-6))
    with pytest.raises(TooLittle, match=f"The adapter of {runs[0].id} needs about"):
        held.use(runs[0])
    assert not held.broken and held.runs == []


def test_memory_is_given_back_without_a_model() -> None:
    release_memory()


def test_it_is_the_same_in_four_bits(home: Workspace, runs: list[Run], tiny_model_folder: Path) -> None:
    """Strength and switching, over layers that are quantised; the expected is loaded alone, as training does."""
    held = Resident(replace(base_of(home, runs[0], ""), precision="nf4"))

    def alone_in_four_bits(run: Run | None) -> Tensor:
        base = models.load_base(tiny_model_folder, "cpu", "nf4")
        return logits(models.load_adapter(base, run.adapter, trainable=False) if run else base)

    for number in (1, None, 0):
        run = None if number is None else runs[number]
        held.use(run)
        assert torch.equal(logits(held.model), alone_in_four_bits(run)), number
    held.use(runs[0], 0.5)
    half = logits(held.model)
    held.use(runs[0], 0.0)
    assert torch.equal(logits(held.model), alone_in_four_bits(None)) and not torch.equal(half, logits(held.model))
