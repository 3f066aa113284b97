"""LoRA layers in fewer passes: PEFT's own layers are the reference, in value, gradient, and where they take over."""

import copy
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import LoraModel, PeftModel
from test_models import build, save
from torch import Tensor, nn

from mixcpt import doctor
from mixcpt.config import AdapterConfig
from mixcpt.lowrank import streamline
from mixcpt.models import attach_adapter, load_base, quiet

IDS = torch.arange(3, 35).view(2, 16)
LAYERS = {"llama": 14, "gpt2": 8, "gemma3": 14}
"""Adapted linear layers of two decoder layers; GPT-2's are transposed (Conv1D) with a bias."""


def adapted(model: Any, **settings: Any) -> PeftModel:
    model.requires_grad_(False)
    found = attach_adapter(model, AdapterConfig(rank=4, alpha=12.0, **settings), seed=1)
    torch.manual_seed(2)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return found


def learned(model: PeftModel, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    return learned_on("cpu", model, autocast)


def learned_on(device: str, model: PeftModel, autocast: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and the gradient of every adapter weight; the first layers have a gradient only through those above."""
    model.zero_grad()
    ids = IDS.to(device)
    with torch.autocast(device, torch.bfloat16, enabled=autocast):
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference of a gradient, relative to that gradient's largest entry."""
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max()) for n in expected)


@pytest.mark.parametrize("family", LAYERS)
def test_value_and_gradients_are_those_of_peft(family: str) -> None:
    plain = adapted(build(family))
    fast = copy.deepcopy(plain)
    assert streamline(fast) == LAYERS[family]
    loss, gradients = learned(plain)
    found, ours = learned(fast)
    assert found.item() == pytest.approx(loss.item(), rel=1e-6)
    assert len(ours) == 2 * LAYERS[family] and distance(ours, gradients) < 1e-5


def test_in_bf16_it_is_as_near_to_fp32_as_peft_is() -> None:
    exact_loss, exact = learned(adapted(build("llama")))
    plain = adapted(build("llama", torch.bfloat16))
    fast = copy.deepcopy(plain)
    streamline(fast)
    loss, gradients = learned(plain, autocast=True)
    found, ours = learned(fast, autocast=True)
    assert all(gradient.dtype == torch.float32 for gradient in ours.values())
    assert abs(found - exact_loss) < 0.01 and distance(ours, exact) < 1.5 * distance(gradients, exact)
    assert abs(loss - exact_loss) < 0.01


def test_four_bits_train_the_same_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cpu_precision", lambda: "fp32")
    folder = save("llama", tmp_path / "model")
    losses, gradients = [], []
    for fast in (False, True):
        model = adapted(load_base(folder, "cpu", "nf4"))
        assert (streamline(model) if fast else 14) == 14
        loss, found = learned(model)
        losses.append(loss.item())
        gradients.append(found)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and distance(gradients[1], gradients[0]) < 0.02


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(model: PeftModel) -> int:
        seen: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        noting = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
        with noting, torch.autocast("cpu", torch.bfloat16):
            model(input_ids=IDS, labels=IDS, use_cache=False)
        return sum(seen.values())

    plain = adapted(build("llama", torch.bfloat16))
    fast = copy.deepcopy(plain)
    streamline(fast)
    assert kept(fast) < 0.9 * kept(plain)


def test_switched_off_it_is_the_base(monkeypatch: pytest.MonkeyPatch) -> None:
    base = build("llama")
    with torch.no_grad():
        expected = base(input_ids=IDS).logits
        model = adapted(base)
        streamline(model)
        assert not torch.equal(model(input_ids=IDS).logits, expected)
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, expected)


@pytest.mark.parametrize("way", ["dropout", "two adapters", "merged"])
def test_where_it_is_not_one_plain_adapter_peft_takes_over(way: str) -> None:
    plain = adapted(build("llama"), **({"dropout": 0.3} if way == "dropout" else {})).train()
    if way == "two adapters":
        with quiet():
            plain.add_adapter("two", plain.peft_config["default"])
        cast(LoraModel, plain.base_model).set_adapter(["default", "two"])
    fast = copy.deepcopy(plain)
    streamline(fast)
    if way == "merged":
        plain.merge_adapter()
        fast.merge_adapter()
    outcomes = []
    for model in (plain, fast):
        torch.manual_seed(3)
        with torch.no_grad():
            outcomes.append(model(input_ids=IDS).logits)
    assert torch.equal(*outcomes)


def test_a_frozen_second_adapter_takes_turns_with_the_first() -> None:
    plain = adapted(build("llama"))
    with quiet():
        plain.add_adapter("ref", plain.peft_config["default"])
    fast = copy.deepcopy(plain)
    streamline(fast)
    for name in ("ref", "default"):
        logits = []
        for model in (plain, fast):
            model.set_adapter(name)
            with torch.no_grad():
                logits.append(model(input_ids=IDS).logits)
        assert torch.allclose(logits[0], logits[1], atol=1e-5)


def test_activations_may_be_recomputed() -> None:
    model = adapted(build("llama")).train()
    streamline(model)
    _, expected = learned(model)
    model.activation_checkpointing_enable()
    model.enable_input_require_grads()
    _, found = learned(model)
    assert distance(found, expected) < 1e-6
