"""Families of models: our loss from packed rows equals the plain loss on each model's own logits, a document at a time,
in value and in the adapter's gradient; or the family is refused with the reason. None is silently wrong.

CI knows a short list; `pytest -m families` reads the whole: sixty families.
"""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import shutil
from typing import Any

import pytest
import torch
import transformers as tf
from test_training import new_run, quiet, stage
from torch import nn

from mixcpt.config import AdapterConfig
from mixcpt.errors import Unavailable
from mixcpt.heads import output_head, verify_head
from mixcpt.lssd import Objective, TokenWeights, chunked_loss, plain_loss
from mixcpt.models import attach_adapter
from mixcpt.teacher import check_isolation, final_hidden, teacher_mode
from mixcpt.training import train

Options = dict[str, Any]
VOCABULARY = 96
ENDS: Options = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
BASE: Options = {
    **ENDS, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "initializer_range": 0.2, "max_position_embeddings": 128,
}  # fmt: skip
GROUPED: Options = {**BASE, "num_key_value_heads": 2, "head_dim": 16}
OLD: Options = {**ENDS, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.2}
EXPERTS: Options = {
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "n_shared_experts": 1, "n_group": 1, "topk_group": 1,
}  # fmt: skip
LATENT: Options = {
    **BASE, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
}  # fmt: skip
TYPES: Options = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
MAMBA: Options = {**ENDS, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "expand": 2}

RIGHT: dict[str, tuple[str, Options]] = {
    "llama": ("llama", GROUPED),
    "qwen3": ("qwen3", GROUPED),
    "gemma2": ("gemma2", GROUPED | TYPES | {"final_logit_softcapping": 5.0}),
    "gemma3": ("gemma3_text", GROUPED | TYPES | {"final_logit_softcapping": 5.0}),
    "gpt2": ("gpt2", OLD),
    "phi": ("phi", BASE),
    "phi, padded": ("phi", BASE),
    "granite": ("granite", BASE | {"logits_scaling": 6.0, "residual_multiplier": 0.7}),
    "cohere": ("cohere", BASE | {"logit_scale": 0.25}),
}
MORE_RIGHT: dict[str, tuple[str, Options]] = {
    "apertus": ("apertus", GROUPED),
    "arcee": ("arcee", GROUPED),
    "bitnet": ("bitnet", GROUPED),
    "codegen": ("codegen", OLD | {"rotary_dim": 8}),
    "cohere2": ("cohere2", GROUPED | {"logit_scale": 0.25}),
    "cohere, negative scale": ("cohere", BASE | {"logit_scale": -1.0}),
    "cwm": ("cwm", GROUPED),
    "deepseek 2": ("deepseek_v2", LATENT | EXPERTS | {"head_dim": 8}),
    "deepseek 3": ("deepseek_v3", LATENT | EXPERTS),
    "diffllama": ("diffllama", GROUPED),
    "doge": ("doge", GROUPED),
    "dots1": ("dots1", GROUPED | EXPERTS),
    "ernie 4.5": ("ernie4_5", GROUPED),
    "exaone 4": ("exaone4", GROUPED),
    "gemma": ("gemma", GROUPED),
    "glm": ("glm", GROUPED),
    "glm 4": ("glm4", GROUPED),
    "gpt-bigcode": ("gpt_bigcode", OLD),
    "gpt-j": ("gptj", OLD | {"rotary_dim": 8}),
    "gpt-neo": (
        "gpt_neo",
        ENDS
        | {
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 128,
            "window_size": 4,
            "attention_types": [[["global", "local"], 1]],
            "initializer_range": 0.2,
        },
    ),
    "gpt-neox": ("gpt_neox", BASE),
    "granite, experts": ("granitemoe", GROUPED | EXPERTS | {"logits_scaling": 6.0}),
    "helium": ("helium", GROUPED),
    "hunyuan": ("hunyuan_v1_dense", GROUPED),
    "jetmoe": ("jetmoe", BASE | {"kv_channels": 16, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "llama 4": ("llama4_text", GROUPED | {"intermediate_size_mlp": 96, "num_local_experts": 2}),
    "llama 4, chunks": (
        "llama4_text",
        GROUPED | {"intermediate_size_mlp": 96, "num_local_experts": 2, "attention_chunk_size": 8},
    ),
    "minicpm 3": ("minicpm3", LATENT | {"scale_depth": 1.4, "dim_model_base": 16, "scale_emb": 12}),
    "ministral": ("ministral", GROUPED),
    "mistral": ("mistral", GROUPED | {"sliding_window": 4}),
    "mixtral": ("mixtral", GROUPED | EXPERTS),
    "nemotron": ("nemotron", GROUPED),
    "olmo": ("olmo", BASE),
    "olmo 2": ("olmo2", BASE),
    "olmo 3": ("olmo3", BASE),
    "olmoe": ("olmoe", BASE | EXPERTS),
    "persimmon": ("persimmon", BASE),
    "phi 3": ("phi3", BASE),
    "phi, experts": ("phimoe", GROUPED | EXPERTS),
    "qwen 2": ("qwen2", GROUPED | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen 2, experts": ("qwen2_moe", GROUPED | EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen 3, experts": ("qwen3_moe", GROUPED | EXPERTS),
    "seed-oss": ("seed_oss", GROUPED),
    "smollm 3": ("smollm3", GROUPED),
    "stablelm": ("stablelm", BASE | {"num_key_value_heads": 4}),
    "starcoder 2": ("starcoder2", GROUPED),
    "vaultgemma": ("vaultgemma", GROUPED | {"final_logit_softcapping": 5.0}),
}
REFUSED: dict[str, tuple[str, Options, str]] = {
    "mamba": ("mamba", MAMBA, "cannot keep packed documents apart"),
    "bloom": ("bloom", {**ENDS, "hidden_size": 64, "n_layer": 2, "n_head": 4}, "cannot keep packed documents apart"),
}
MORE_REFUSED: dict[str, tuple[str, Options, str]] = {
    "bamba": ("bamba", GROUPED | {"mamba_d_state": 8, "mamba_n_heads": 8, "mamba_d_head": 16}, "cannot keep packed"),
    "bert": ("bert", BASE | {"is_decoder": True}, "shapes its logits in a way that is not known"),
    "falcon": ("falcon", BASE, "cannot keep packed"),
    "falcon, alibi": ("falcon", BASE | {"alibi": True}, "cannot keep packed"),
    "falcon-mamba": ("falcon_mamba", MAMBA, "cannot keep packed"),
    "gpt-oss": ("gpt_oss", GROUPED | EXPERTS, "cannot keep packed"),
    "ctrl": ("ctrl", OLD | {"dff": 96}, "cannot carry the adapter"),
    "hyperclovax": ("hyperclovax", GROUPED | {"logits_scaling": 3.0}, "not known"),
    "lfm2": (
        "lfm2",
        GROUPED | {"layer_types": ["conv", "full_attention"], "block_multiple_of": 32},
        "cannot keep packed",
    ),
    "mamba 2": ("mamba2", MAMBA | {"head_dim": 16, "num_heads": 8, "n_groups": 1}, "cannot keep packed"),
    "mpt": ("mpt", ENDS | {"d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}, "cannot keep packed"),
    "openai-gpt": ("openai-gpt", OLD, "cannot keep packed"),
    "opt": ("opt", BASE | {"ffn_dim": 96, "word_embed_proj_dim": 64}, "cannot keep packed"),
    "recurrent gemma": ("recurrent_gemma", BASE | {"lru_width": 64, "head_dim": 16}, "not known"),
    "rwkv": ("rwkv", ENDS | {"hidden_size": 64, "num_hidden_layers": 2, "attention_hidden_size": 64}, "cannot keep"),
}


def whole(short, more):
    """The short list, and what is only read under the marker."""
    return [
        *(pytest.param(*value, id=name) for name, value in short.items()),
        *(pytest.param(*value, id=name, marks=pytest.mark.families) for name, value in more.items()),
    ]


def build(kind, options, padded=False):
    """A random model in evaluation mode, frozen. Its head's bias, born zero, is made to show; padding gets -inf."""
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(tf.AutoConfig.for_model(kind, **options))
    bias = getattr(model.get_output_embeddings(), "bias", None)
    if bias is not None:
        nn.init.normal_(bias)
        if padded:
            bias.data[-11:] = -torch.inf
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def adapted(model):
    """With an adapter that has learned something, small enough for the student to stay near its teacher."""
    found = attach_adapter(model, AdapterConfig(rank=2, alpha=2), seed=1)
    torch.manual_seed(2)
    for name, parameter in found.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return found


def documents():
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(3, VOCABULARY - 11, (length,), generator=generator) for length in (9, 2, 17, 12)]


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}


CASES = [
    (Objective(retention_weight=0.7), None),
    (Objective(temperature=2.0, swap=False, reverse=True), TokenWeights.mol(torch.arange(40) % 3 == 0)),
]


@pytest.mark.filterwarnings("ignore:.*(rank_pattern|alpha_pattern|target_parameters).*:RuntimeWarning")  # of experts
@pytest.mark.parametrize(("kind", "options"), whole(RIGHT, MORE_RIGHT))
def test_loss_and_gradient_are_those_of_the_models_own_logits_on_each_document_alone(kind, options, request):
    model = adapted(build(kind, options, padded="padded" in request.node.callspec.id))
    head = output_head(model)
    verify_head(model, head)
    check_isolation(model, VOCABULARY - 11)
    parts = documents()
    labels = torch.cat([torch.cat([part[1:], torch.tensor([-100])]) for part in parts])
    padding = torch.zeros(5, dtype=torch.long)  # as `collate` has it: last, with positions that restart
    ids = torch.cat([*parts, padding])[None]
    positions = torch.cat([torch.arange(len(part)) for part in (*parts, padding)])[None]
    for objective, weights in CASES:
        with teacher_mode(model):
            teacher = final_hidden(model, ids, positions)[0, :40]
        student = final_hidden(model, ids, positions)[0, :40]
        ours = chunked_loss(student, teacher, labels, head, objective, 7, weights=weights)
        ours.total.backward()
        found = gradients(model)
        model.zero_grad()
        with teacher_mode(model):
            theirs = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])
        own = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])
        expected = plain_loss(own, theirs, labels, objective, weights)
        expected.total.backward()
        assert float(expected.retention) / expected.retention_tokens > 1e-4
        allowed = 2e-6 * (float(expected.ce) + float(expected.retention))
        assert ours.total.item() == pytest.approx(expected.total.item(), abs=4 * allowed)
        assert [float(ours.ce), float(ours.retention)] == pytest.approx(
            [float(expected.ce), float(expected.retention)], abs=allowed
        )
        assert found.keys() == gradients(model).keys() and found
        largest = max(gradient.abs().max().item() for gradient in found.values())
        for name, gradient in gradients(model).items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4 * largest, rtol=1e-3)
        model.zero_grad()
    # What comes before a token in its document matters to it, so the agreement is not for free.
    with torch.no_grad():
        mixed = final_hidden(model, ids, torch.arange(45)[None])[0, :40]
    assert (mixed - student).norm() > 1e-3 * student.norm()


@pytest.mark.parametrize(("kind", "options", "reason"), whole(REFUSED, MORE_REFUSED))
def test_what_cannot_be_right_is_refused_with_the_reason(kind, options, reason):
    model = build(kind, options)
    with pytest.raises(Unavailable, match=reason):
        verify_head(model, output_head(model))
        check_isolation(model, VOCABULARY)
        adapted(model)


def test_a_run_of_a_recurrent_model_ends_before_its_first_step(small_corpora, tiny_tokenizer_folder, tmp_path):
    folder = tmp_path / "tiny-mamba"
    shutil.copytree(tiny_tokenizer_folder, folder)
    build("mamba", MAMBA | {"vocab_size": 257}).save_pretrained(folder)
    run = new_run(small_corpora, stage(folder))
    with pytest.raises(Unavailable, match=r"^mamba models cannot carry the adapter .*such as Llama, Qwen"):
        train(small_corpora, run, say=quiet)
    assert not run.losses() and not run.adapter.exists()
