"""Tiny models of three families, adapters drawn at random, and finished runs that have one: for what exports them."""

import shutil
from pathlib import Path
from typing import Any

import torch
from made import made_run, stage_of
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from mixcpt import builtin, models
from mixcpt.config import AdapterConfig
from mixcpt.runs import Run
from mixcpt.tasks import write_tasks
from mixcpt.workspace import Workspace

FAMILIES = ("llama", "gemma3", "gpt2")


def tiny_model(family: str, folder: Path, tokenizer: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    """A random model of two layers, its embeddings tied to its head, saved in `dtype`."""
    torch.manual_seed(0)
    common: dict[str, Any] = {"vocab_size": 257, "eos_token_id": 256, "pad_token_id": 256, "bos_token_id": None}
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "initializer_range": 0.2,
    }
    model: PreTrainedModel
    if family == "llama":
        model = LlamaForCausalLM(LlamaConfig(**common, **sizes, tie_word_embeddings=True))
    elif family == "gemma3":
        model = Gemma3ForCausalLM(Gemma3TextConfig(**common, **sizes, sliding_window=8, tie_word_embeddings=True))
    else:
        shape: dict[str, Any] = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
        model = GPT2LMHeadModel(GPT2Config(**common, **shape))
    shutil.copytree(tokenizer, folder, dirs_exist_ok=True)
    model.to(dtype).save_pretrained(folder)  # type: ignore[arg-type]
    return folder


def random_adapter(model: Path, folder: Path, seed: int = 0, **config: Any) -> Path:
    """An adapter whose effect can be seen, as a finished run leaves it."""
    adapted = models.attach_adapter(models.load_base(model, "cpu", "fp32"), AdapterConfig(**config), seed)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)
    adapted.save_pretrained(str(folder), safe_serialization=True)
    return folder


def exportable_run(workspace: Workspace, model: Path | str, folder: Path | None = None, **given: Any) -> Run:
    """A finished run of the model called `model`, which lies in `folder` (else there), its figures made up; it was
    asked five questions."""
    stage = stage_of(model__name=str(model), adapter__rank=4, adapter__alpha=8.0)
    run = made_run(workspace, stage=stage, **given)
    shutil.rmtree(run.adapter)
    random_adapter(folder or Path(model), run.adapter, rank=4, alpha=8.0)
    write_tasks({"general": builtin.questions()[:5]}, run.folder / "tasks")
    return run
