"""The teacher is exactly the frozen original, and documents packed into one row do not see each other."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from mixcpt import teacher
from mixcpt.errors import Unavailable
from mixcpt.models import quiet
from mixcpt.teacher import base_of, check_isolation, final_hidden, teacher_mode

VOCABULARY = 97
SMALL: dict[str, Any] = {"vocab_size": VOCABULARY, "num_hidden_layers": 2}
LLAMA: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "initializer_range": 0.2,
}  # fmt: skip
GPT2: dict[str, Any] = {"n_embd": 32, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}


def llama(**settings):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SMALL, **(LLAMA | settings))).eval()


def gpt2(**settings):
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**SMALL, **GPT2, **settings)).eval()


def qwen3():
    torch.manual_seed(0)
    return Qwen3ForCausalLM(Qwen3Config(**SMALL, **LLAMA, head_dim=8)).eval()


def with_adapter(model, dropout=0.0):
    """The model with a LoRA whose effect is not zero (a fresh one's is, for its B starts at zero)."""
    config = LoraConfig(target_modules=["q_proj", "v_proj", "up_proj"], lora_dropout=dropout)
    with quiet():
        adapted = get_peft_model(model, config)
    torch.manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    return adapted


KINDS = {"llama": llama, "gpt2": gpt2, "qwen3": qwen3, "lora": lambda: with_adapter(llama())}


def documents(*lengths):
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator) for length in lengths]


def packed(parts):
    return torch.cat(parts)[None], torch.cat([torch.arange(len(part)) for part in parts])[None]


@torch.no_grad()
def states(model, parts):
    return final_hidden(model, *packed(parts))[0]


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_packed_documents_are_as_if_alone(make, training):
    model = make()
    if model.config.model_type != "gpt2":  # which has dropout in training
        model.train(training)
    parts = documents(9, 1, 17)
    together = states(model, parts)
    alone = torch.cat([states(model, [part]) for part in parts])
    assert (together - alone).abs().max() <= 1e-5 * alone.abs().max()
    # Positions that run on do mix the documents, so the agreement above is not for free.
    with torch.no_grad():
        mixed = final_hidden(model, packed(parts)[0], torch.arange(27)[None])[0]
    assert (mixed - alone).abs().max() > 0.01 * alone.abs().max()


def test_padding_after_the_documents_changes_nothing():
    model, parts = llama(), documents(9, 17)
    padding = [torch.zeros(6, dtype=torch.long)]
    assert (states(model, parts + padding)[:26] - states(model, parts)).abs().max() <= 1e-5


def test_rows_of_a_batch_do_not_see_each_other():
    model = llama()
    one, two = documents(9, 11), documents(20)
    (ids, positions), (more_ids, more_positions) = packed(one), packed(two)
    with torch.no_grad():
        both = final_hidden(model, torch.cat([ids, more_ids]), torch.cat([positions, more_positions]))
    assert (both[0] - states(model, one)).abs().max() <= 1e-5
    assert (both[1] - states(model, two)).abs().max() <= 1e-5


def test_final_states_are_those_the_head_reads():
    model, parts = llama(), documents(12)
    with torch.no_grad():
        logits = model(input_ids=parts[0][None], use_cache=False).logits[0]
    assert (states(model, parts) @ model.lm_head.weight.T - logits).abs().max() <= 1e-5


def test_final_states_carry_the_gradient_to_the_adapter_and_leave_no_hook():
    model = with_adapter(llama())
    final_hidden(model, *packed(documents(5, 6))).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)
    assert not base_of(model).get_decoder()._forward_hooks


def test_no_hook_is_left_after_an_error():
    model = llama()
    with pytest.raises(IndexError):
        final_hidden(model, torch.full((1, 3), VOCABULARY + 5), torch.arange(3)[None])
    assert not model.get_decoder()._forward_hooks


def test_the_teacher_is_exactly_the_base():
    parts = documents(9, 17)
    expected = states(llama(), parts)
    model = with_adapter(llama(), dropout=0.5).train()
    student = states(model, parts)
    assert (student - expected).abs().max() > 0.01
    with teacher_mode(model):
        found = final_hidden(model, *packed(parts))
    assert found[0].equal(expected)
    assert not found.requires_grad


def test_without_an_adapter_the_teacher_is_the_model_itself():
    model, parts = llama(attention_dropout=0.5).train(), documents(9)
    with teacher_mode(model):
        found = states(model, parts)
    assert found.equal(states(llama(), parts))
    assert model.training


@pytest.mark.parametrize("ends", ["well", "with an error"])
@pytest.mark.parametrize("training", [False, True])
def test_after_the_teacher_everything_is_as_before(ends, training):
    model, parts = with_adapter(llama()).train(training), documents(9)
    model.get_base_model().model.layers[0].train(not training)
    modes = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    before = states(model, parts)
    try:
        with teacher_mode(model):
            assert not any(module.training for module in model.modules())
            assert not torch.is_grad_enabled()
            if ends != "well":
                raise RuntimeError
    except RuntimeError:
        assert ends != "well"
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    assert torch.is_grad_enabled()
    assert states(model, parts).equal(before)


def test_a_frozen_adapter_stays_frozen_after_the_teacher():
    """An adapter loaded only to be used has no gradient; switching it off and on must not make it trainable."""
    model = with_adapter(llama()).requires_grad_(False)
    with teacher_mode(model):
        pass
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_base_of_finds_the_model_inside_and_refuses_others():
    model = llama()
    assert base_of(model) is model
    assert base_of(with_adapter(model)) is model
    with pytest.raises(TypeError, match="expected a transformers model, got Linear"):
        base_of(nn.Linear(1, 1))


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_models_with_plain_attention_keep_documents_apart(make, dtype):
    for row_tokens in (16, 48, 127):
        check_isolation(make().to(dtype), VOCABULARY, row_tokens)


def test_a_recurrent_model_is_refused_by_its_name():
    torch.manual_seed(0)
    config = MambaConfig(**SMALL, hidden_size=32, state_size=8, expand=2, conv_kernel=4, initializer_range=0.5)
    model = MambaForCausalLM(config).eval()
    with pytest.raises(Unavailable, match=r"^mamba models cannot keep packed documents apart .* by [\d.]+%\)"):
        check_isolation(model, VOCABULARY)


def test_attention_that_ignores_positions_is_refused(monkeypatch):
    """With a cache transformers does not look for restarting positions: the trap the check is there for."""

    def leaky(model, ids, positions):
        return model.model(input_ids=ids, position_ids=positions, use_cache=True).last_hidden_state

    monkeypatch.setattr(teacher, "final_hidden", leaky)
    with pytest.raises(Unavailable, match="llama models cannot keep packed documents apart"):
        check_isolation(llama(), VOCABULARY)


def test_positions_counted_from_the_start_of_the_row_are_refused(monkeypatch):
    """No neighbour is seen, but a document reads otherwise than alone."""
    whole = teacher.final_hidden

    def shifted(model, ids, positions):
        where = torch.arange(ids.shape[1])[None] if positions.shape[1] > 24 else positions
        parts = [whole(model, ids[:, at : at + 24], where[:, at : at + 24]) for at in range(0, ids.shape[1], 24)]
        return torch.cat(parts, 1)

    monkeypatch.setattr(teacher, "final_hidden", shifted)
    with pytest.raises(
        Unavailable, match=r"gpt2 models .* \(a document's states differed by [\d.]+% from those it has"
    ):
        check_isolation(gpt2(), VOCABULARY)


def test_a_leak_that_only_long_rows_show_is_found_at_their_length(monkeypatch):
    """Attention in stretches of 32 tokens of the row, whatever the document: with rows of 24 nothing shows."""
    whole = teacher.final_hidden

    def chunked(model, ids, positions):
        parts = [(ids[:, at : at + 32], positions[:, at : at + 32]) for at in range(0, ids.shape[1], 32)]
        return torch.cat([whole(model, *part) for part in parts], 1)

    monkeypatch.setattr(teacher, "final_hidden", chunked)
    check_isolation(llama(), VOCABULARY, 24)
    with pytest.raises(Unavailable, match="differed by"):
        check_isolation(llama(), VOCABULARY, 96)


def test_states_that_are_not_numbers_are_refused(monkeypatch):
    monkeypatch.setattr(teacher, "final_hidden", lambda _, ids, __: torch.full((*ids.shape, 4), torch.nan))
    with pytest.raises(Unavailable):
        check_isolation(llama(), VOCABULARY)
