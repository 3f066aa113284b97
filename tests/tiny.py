"""The least that trains something: a random Llama of two layers, and a recipe of one step of a few tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mixcpt import recipes
from mixcpt.recipe import Recipe
from mixcpt.settings import validate
from mixcpt.workspace import Workspace

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def llama(tied: bool) -> "LlamaForCausalLM":
    """Over the tokenizer of bytes; its embeddings tied to its head or not."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=257,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=tied,
            eos_token_id=256,
            bos_token_id=None,
            pad_token_id=256,
            initializer_range=0.2,
        )
    )


def recipe(model: Path, **changes: Any) -> Recipe:
    """One step of a few tokens, corpora `field` and `world`, no questions."""
    base = {
        "name": "tiny",
        "cpt": {
            "model": {"name": str(model), "precision": "fp32", "device": "cpu"},
            "mixture": {
                "budget_tokens": 256,
                "row_tokens": 128,
                "sources": [{"source": "field", "share": 3, "domain": True}, {"source": "world", "share": 1}],
            },
            "training": {"learning_rate": 1e-3},
            "measures": {"domain_tokens": 100, "general_tokens": 100, "prompt_tokens": 50, "general": "world"},
            "evaluation": {"tasks": []},
        },
    }
    return validate(Recipe, base | changes, "the test")


def do(workspace: Workspace, recipe: Recipe, folder: Path = Path(), said: list[str] | None = None) -> recipes.Plan:
    say = said.append if said is not None else lambda text: None
    return recipes.carry_out(workspace, recipe, folder, say=say, on_change=lambda job: None)
