"""The least recipe that trains something: one step of a few tokens, for tests of what recipes become."""

from pathlib import Path
from typing import Any

from mixcpt import recipes
from mixcpt.recipe import Recipe
from mixcpt.settings import validate
from mixcpt.workspace import Workspace


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
