"""Which runs a recipe stands for: chains that share how they begin, and nothing more."""

from typing import Any

import pytest

from mixcpt.planned import PlannedRun, planned
from mixcpt.recipe import Recipe
from mixcpt.settings import validate
from mixcpt.stages import Sft, Stage

EASY, RANDOM = "sft.samples.rule.strategy", {"sft.samples.rule.strategy": "random"}


def recipe(**changes: Any) -> Recipe:
    plain = {
        "name": "r",
        "cpt": {"mixture": {"sources": [{"source": "field", "share": 1, "domain": True}]}},
        "sft": {"samples": {"candidates": 8}},
        "dpo": {},
    }
    return validate(Recipe, plain | changes, "the test")


def drawn(runs: list[PlannedRun]) -> list[tuple[str, str, int | None]]:
    """Stage, arms and predecessor of each."""
    return [(run.stage.stage, "+".join(run.arms), run.before) for run in runs]


def arms(**settings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"name": name, "set": changes} for name, changes in settings.items()]


def test_without_arms_there_is_one_chain() -> None:
    runs = planned(recipe(), {}, None)
    assert drawn(runs) == [("cpt", "", None), ("sft", "", 0), ("dpo", "", 1)]
    assert [run.last for run in runs] == [False, False, True]
    assert {(run.arm, run.name) for run in runs} == {("", "")}
    assert drawn(planned(recipe(sft=None), {}, None)) == [("cpt", "", None), ("dpo", "", 0)]
    assert drawn(planned(recipe(sft=None, dpo=None), {}, None)) == [("cpt", "", None)]


def test_arms_share_the_stages_in_which_they_do_not_differ() -> None:
    runs = planned(recipe(arms=arms(easy={}, chance=RANDOM, weak=RANDOM | {"dpo.preference.beta": 0.5})), {}, None)
    assert drawn(runs) == [
        ("cpt", "easy+chance+weak", None),
        ("sft", "easy", 0),
        ("dpo", "easy", 1),
        ("sft", "chance+weak", 0),
        ("dpo", "chance", 3),
        ("dpo", "weak", 3),
    ]
    cpt, easy, _, chance, *_ = runs
    assert (cpt.arm, cpt.name) == ("", "cpt of easy, chance and weak")
    assert (easy.arm, easy.name) == ("easy", "")
    assert (chance.arm, chance.name) == ("", "sft of chance and weak")
    assert isinstance(chance.stage, Sft) and chance.stage.samples.rule.strategy == "random"


def test_a_difference_at_the_beginning_parts_all_that_follows() -> None:
    runs = planned(recipe(arms=arms(ce={"objective.retention": "none"}, lssd={})), {}, None)
    assert drawn(runs) == [
        ("cpt", "ce", None),
        ("sft", "ce", 0),
        ("dpo", "ce", 1),
        ("cpt", "lssd", None),
        ("sft", "lssd", 3),
        ("dpo", "lssd", 4),
    ]


def test_settings_that_say_the_same_in_other_words_are_shared() -> None:
    """The strategy "easiest" is what SFT does unless it is told otherwise."""
    runs = planned(recipe(arms=arms(silent={}, told={EASY: "easiest"})), {}, None)
    assert drawn(runs) == [
        ("cpt", "silent+told", None),
        ("sft", "silent+told", 0),
        ("dpo", "silent", 1),
        ("dpo", "told", 1),  # every arm ends in a run of its own
    ]


def test_arms_that_end_with_the_knowledge_stage_share_nothing() -> None:
    runs = planned(recipe(sft=None, dpo=None, arms=arms(one={}, again={})), {}, None)
    assert drawn(runs) == [("cpt", "one", None), ("cpt", "again", None)]


def test_a_seed_is_that_of_every_stage() -> None:
    for run in planned(recipe(), {}, 7):
        assert (run.stage.training.seed, run.stage.mixture.seed) == (7, 7)
        if isinstance(run.stage, Sft):
            assert run.stage.samples.rule.seed == 7
    unseeded = planned(recipe(cpt=recipe().cpt.with_seed(3).model_dump()), {}, None)
    assert [run.stage.mixture.seed for run in unseeded] == [3, 3, 3]
    assert [run.stage.training.seed for run in unseeded] == [3, 0, 0]


def test_a_tuned_value_parts_arms_that_were_tuned_apart() -> None:
    tune = {"values": [1e-4, 1e-3], "groups": {"a": {}, "b": {}}}
    own = [{"name": "x", "tuned": "a"}, {"name": "y", "tuned": "b"}, {"name": "z", "tuned": "b", "times": 0.5}]
    apart = planned(recipe(tune=tune, arms=own), {"a": 1e-4, "b": 1e-3}, None)
    rates = [run.stage.training.learning_rate for run in apart if isinstance(run.stage, Stage)]
    assert rates == [1e-4, 1e-3, 5e-4]
    alike = planned(recipe(tune=tune, arms=own[:2]), {"a": 1e-3, "b": 1e-3}, None)
    assert drawn(alike)[0] == ("cpt", "x+y", None)


@pytest.mark.parametrize(("count", "name"), [(3, "cpt of arm 0, arm 1 and arm 2"), (30, "cpt of 30 arms")])
def test_the_name_of_a_shared_run_is_never_too_long(count: int, name: str) -> None:
    many = [{"name": f"arm {number}", "set": {"dpo.training.seed": number}} for number in range(count)]
    assert planned(recipe(arms=many), {}, None)[0].name == name
