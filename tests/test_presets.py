"""Presets: named changes that a stage either has or has not."""

from collections import defaultdict
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from app.forms import fields
from mixcpt.drafts import default_stage
from mixcpt.presets import ADAPTERS, BUDGETS, OBJECTIVES, OPTIONS, Preset, changed, fitting, value_at
from mixcpt.recipe import load_recipe
from mixcpt.scores import SCORES
from mixcpt.settings import override
from mixcpt.stages import Dpo, Sft, Stage

RECIPES = Path(__file__).parents[1] / "recipes"


def by_name(presets: tuple[Preset, ...], name: str) -> Preset:
    return next(preset for preset in presets if preset.name == name)


@pytest.mark.parametrize("presets", [BUDGETS, OBJECTIVES, ADAPTERS])
def test_each_preset_is_recognised_once_it_was_taken(presets: tuple[Preset, ...]) -> None:
    for preset in presets:
        taken = override(default_stage(), preset.changes)
        assert fitting(taken, presets) == preset and changed(taken, preset) == {}


def test_a_first_draft_is_the_quick_recipe() -> None:
    """Alone it is asked what the recipe asks only at the end of its chain."""
    quick = load_recipe(RECIPES / "quick.yaml")
    *_, last = quick.chain(quick.cpt)
    assert default_stage() == quick.cpt.model_copy(update={"evaluation": last.evaluation})
    assert fitting(default_stage(), BUDGETS) == by_name(BUDGETS, "Quick")


def test_standard_is_the_standard_recipe() -> None:
    stage = override(default_stage(), by_name(BUDGETS, "Standard").changes)
    assert stage == load_recipe(RECIPES / "standard.yaml").cpt


def test_what_fits_no_preset_is_the_users_own() -> None:
    own = override(default_stage(), {"mixture.budget_tokens": 13_000, "objective.ce_weight": 2.0})
    assert fitting(own, BUDGETS) is None and fitting(own, OBJECTIVES) is None
    assert changed(own, by_name(BUDGETS, "Quick")) == {"mixture.budget_tokens": 12_000}


def test_every_option_of_every_choice_has_words() -> None:
    choices: dict[str, set[str]] = defaultdict(set, {"samples.rule.score": set(SCORES)})
    for model in (Stage, Sft, Dpo):
        for one in fields(model):
            if get_origin(one.type) is Literal:
                choices[one.path] |= set(get_args(one.type))
    assert OPTIONS.keys() == choices.keys()
    for path, words in OPTIONS.items():
        assert set(words) == choices[path], path


def test_a_dotted_setting_enters_lists() -> None:
    assert value_at(default_stage(), "mixture.sources.1.source") == "builtin/replay"
