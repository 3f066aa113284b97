"""A run as a whole: what is refused in stage two, how a stage is read, and what it takes over from the one before."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from typing import get_args

import pytest

from mixcpt.builtin import KINDS
from mixcpt.config import TemplateName
from mixcpt.errors import BadConfig
from mixcpt.scores import SCORES
from mixcpt.settings import override, to_yaml, validate
from mixcpt.stages import Sft, Stage, follow, read_stage, stage_from_yaml
from mixcpt.templates import NAMED, OWN


def stage(**parts):
    """The least stage that is valid, with parts replaced."""
    return {"mixture": {"sources": [{"source": "a", "share": 1, "domain": True}]}} | parts


SAMPLES = {
    "nothing chosen by hand": (
        {"samples.rule": {"strategy": "by-hand"}},
        "samples: rule.strategy is 'by-hand', but no selection is named: name a saved selection, or choose by a score.",
    ),
    "samples that do not divide": (
        {"training.samples_per_step": 4, "training.samples_at_once": 3},
        "training: samples_at_once 3 does not divide samples_per_step 4: take samples_at_once from 1 to "
        "samples_per_step so that it does, for example 1.",
    ),
    "more samples at once than a step": (
        {"training.samples_per_step": 2, "training.samples_at_once": 4},
        "training: samples_at_once 4 does not divide samples_per_step 2: take samples_at_once from 1 to "
        "samples_per_step so that it does, for example 1.",
    ),
    "two ends": (
        {"samples.rule.tokens": 100},
        "samples.rule: count and tokens are given, but only one can end a selection: leave one out.",
    ),
    "a template of no name": (
        {"template": "vicuna"},
        "'template' is 'vicuna', but: input should be 'auto', 'own', 'chatml', 'llama3', 'zephyr', 'alpaca' or "
        "'question-answer'.",
    ),
    "no candidates": (
        {"samples.candidates": 0},
        "'samples.candidates' is 0, but: input should be greater than or equal to 1.",
    ),
    "samples too short to be any": (
        {"samples.max_tokens": 8},
        "'samples.max_tokens' is 8, but: input should be greater than or equal to 16.",
    ),
    "never read": (
        {"training.epochs": 0},
        "'training.epochs' is 0, but: input should be greater than or equal to 1.",
    ),
    "no pull": (
        {"preference.beta": 0.0},
        "'preference.beta' is 0.0, but: input should be greater than 0.",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), SAMPLES.values(), ids=SAMPLES)
def test_samples_that_contradict_themselves_are_refused(changes, sentence):
    dpo = follow(validate(Stage, stage(), "s"), "dpo")
    with pytest.raises(BadConfig) as caught:
        override(dpo, changes)
    assert str(caught.value).removeprefix("In these changes: ") == sentence


def test_a_selection_needs_no_rule_to_choose_by():
    by_hand = {"samples.selection": "mine", "samples.rule": {"strategy": "by-hand"}}
    assert override(follow(validate(Stage, stage(), "s"), "sft"), by_hand).samples.selection == "mine"


def test_templates_are_those_there_are():
    assert set(get_args(TemplateName)) == {"auto", OWN, *NAMED}


def test_the_usual_stages_of_samples_can_be_chosen_by():
    first = validate(Stage, stage(), "s")
    for usual, kind in ((follow(first, "sft"), "instructions"), (follow(first, "dpo"), "preferences")):
        assert SCORES[str(usual.samples.rule.score)].kind == KINDS[usual.samples.source] == kind


@pytest.mark.parametrize("name", ["cpt", "sft", "dpo"])
def test_a_stage_is_read_as_what_it_says_it_is(tmp_path, name):
    before = validate(Stage, stage(adapter={"rank": 3}), "s")
    wanted = before if name == "cpt" else follow(before, name, {"samples": {"candidates": 5}})
    (tmp_path / "c.yaml").write_text(to_yaml(wanted), encoding="utf-8")
    found = stage_from_yaml(tmp_path / "c.yaml")
    assert found == wanted and type(found) is type(wanted) and found.stage == name


def test_without_a_word_of_it_a_stage_is_the_first():
    assert read_stage(stage(), "s") == Stage(**stage())
    with pytest.raises(BadConfig, match="In s: 'stage' is 'rlhf', but there are cpt, sft, dpo"):
        read_stage(stage(stage="rlhf"), "s")
    with pytest.raises(BadConfig, match="the key 'objective' is unknown"):
        read_stage(stage(stage="sft", objective={"retention": "none"}), "s")


def test_a_stage_follows_with_what_it_takes_over():
    first = validate(
        Stage, stage(adapter={"rank": 3}, measures={"every_steps": 4}, training={"learning_rate": 0.5}), "s"
    )
    sft = follow(first, "sft", {"template": "alpaca", "training": {"epochs": 3}, "samples.rule.count": 8})
    assert (sft.adapter.rank, sft.measures.every_steps, sft.training.epochs) == (3, 4, 3)
    assert (sft.training.learning_rate, sft.samples.rule.count) == (2e-4, 8)  # of its own
    assert sft.samples.rule.score == "perplexity_template"  # what is beside a change stays
    dpo = follow(sft, "dpo")
    assert (dpo.template, dpo.training.epochs, dpo.samples.source) == ("alpaca", 1, "builtin/preferences")
    assert type(follow(dpo, "sft")) is Sft
    with pytest.raises(BadConfig, match=r"'training\.epoch' is unknown: did you mean 'epochs'"):
        follow(first, "sft", {"training": {"epoch": 3}})


def test_a_seed_reaches_the_choice_the_field_and_the_training():
    sft = follow(validate(Stage, stage(), "s"), "sft").with_seed(7)
    assert (sft.samples.rule.seed, sft.mixture.seed, sft.training.seed) == (7, 7, 7)
    assert sft.with_seed(None) is sft


def test_with_seed_sets_both_seeds():
    first = validate(Stage, stage(), "s").with_seed(7)
    assert (first.mixture.seed, first.training.seed) == (7, 7)
