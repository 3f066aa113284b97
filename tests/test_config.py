"""Configuration: every refusal says the setting, the value and the remedy; forms and YAML come from the same models."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import pytest

from mixcpt.config import (
    AdapterConfig,
    EvaluationConfig,
    MeasureConfig,
    MixtureConfig,
    ModelConfig,
    SampleConfig,
    SourceShare,
)
from mixcpt.errors import BadConfig
from mixcpt.optimisation import ObjectiveConfig, OptimiserConfig, PreferenceConfig, SampleTraining, TrainingConfig
from mixcpt.recipe import Arm, CorpusSpec, Recipe, Tuning
from mixcpt.settings import Config, validate
from mixcpt.stages import Dpo, Sft, Stage

MODELS = [
    SourceShare, MixtureConfig, ModelConfig, AdapterConfig, ObjectiveConfig, TrainingConfig, MeasureConfig,
    EvaluationConfig, Stage, CorpusSpec, Arm, Tuning, Recipe, OptimiserConfig, SampleTraining, SampleConfig,
    PreferenceConfig, Sft, Dpo,
]  # fmt: skip


def mixture(*sources, **settings):
    return {"sources": [{"source": "a", "share": 1, "domain": True}, *sources]} | settings


def stage(**parts):
    """The least stage that is valid, with parts replaced."""
    return {"mixture": mixture()} | parts


REFUSALS = {
    "unknown key near nothing": (
        stage(mixture=mixture(xyzzy=1)),
        "the key 'mixture.xyzzy' is unknown: known here: sources, budget_tokens, row_tokens, domain_tokens_only, "
        "preference_text, joiner, template, domain_documents, seed.",
    ),
    "shares sum to zero": (
        {"mixture": {"sources": [{"source": "a", "share": 0}]}},
        "mixture: the shares of sources sum to 0: give at least one source a share above 0.",
    ),
    "no sources": (
        {"mixture": {"sources": []}},
        "'mixture.sources' is [], but: list should have at least 1 item after validation, not 0.",
    ),
    "negative share": (
        stage(mixture=mixture({"source": "b", "share": -1})),
        "'mixture.sources.1.share' is -1, but: input should be greater than or equal to 0.",
    ),
    "infinite share": (
        stage(mixture=mixture({"source": "b", "share": float("inf")})),
        "'mixture.sources.1.share' is inf, but: input should be a finite number.",
    ),
    "share that is no number": (
        stage(mixture=mixture({"source": "b", "share": float("nan")})),
        "'mixture.sources.1.share' is nan, but: input should be a finite number.",
    ),
    "share as a word": (
        stage(mixture=mixture({"source": "b", "share": "much"})),
        "'mixture.sources.1.share' is 'much', but: input should be a valid number, unable to parse string as a number.",
    ),
    "duplicate source": (
        stage(mixture=mixture({"source": "a", "share": 2})),
        "mixture: sources names 'a' twice: give it one entry with the summed share.",
    ),
    "domain tokens without a domain": (
        {"mixture": {"sources": [{"source": "a", "share": 1}], "domain_tokens_only": True}},
        "mixture: domain_tokens_only is on, but no source with a share is marked domain: true.",
    ),
    "domain tokens with an empty domain": (
        stage(
            mixture={
                "sources": [{"source": "a", "share": 0, "domain": True}, {"source": "b", "share": 1}],
                "domain_tokens_only": True,
            }
        ),
        "mixture: domain_tokens_only is on, but no source with a share is marked domain: true.",
    ),
    "too few tokens": (
        stage(mixture=mixture(budget_tokens=10)),
        "'mixture.budget_tokens' is 10, but: input should be greater than or equal to 64.",
    ),
    "rows that do not divide": (
        stage(training={"rows_per_step": 6, "rows_at_once": 4}),
        "training: rows_at_once 4 does not divide rows_per_step 6: take rows_at_once from 1 to rows_per_step so "
        "that it does, for example 1.",
    ),
    "more rows at once than a step": (
        stage(training={"rows_per_step": 2, "rows_at_once": 4}),
        "training: rows_at_once 4 does not divide rows_per_step 2: take rows_at_once from 1 to rows_per_step so "
        "that it does, for example 1.",
    ),
    "nothing to train on": (
        stage(objective={"ce_weight": 0, "retention": "none"}),
        "objective: ce_weight is 0 and retention is 'none' with weight 1, so there is nothing to train on: raise "
        "ce_weight, or choose retention lssd with a weight above 0.",
    ),
    "nothing to train on either": (
        stage(objective={"ce_weight": 0, "retention_weight": 0}),
        "objective: ce_weight is 0 and retention is 'lssd' with weight 0, so there is nothing to train on: raise "
        "ce_weight, or choose retention lssd with a weight above 0.",
    ),
    "temperature of zero": (
        stage(objective={"temperature": 0}),
        "'objective.temperature' is 0, but: input should be greater than 0.",
    ),
    "unknown choice": (
        stage(objective={"retention": "mix"}),
        "'objective.retention' is 'mix', but: input should be 'none', 'kl', 'lssd' or 'mol'.",
    ),
    "negative weight of a source": (
        stage(mixture=mixture({"source": "b", "share": 1, "weight": -1})),
        "'mixture.sources.1.weight' is -1, but: input should be greater than or equal to 0.",
    ),
    "every weight zero": (
        {"mixture": {"sources": [{"source": "a", "share": 1, "weight": 0}, {"source": "b", "share": 0}]}},
        "the weights of the sources leave nothing to train on: give one a weight above 0 in mixture.sources.",
    ),
    "nothing but retention, and that nowhere": (
        {
            "mixture": {"sources": [{"source": "a", "share": 1, "retention_weight": 0}]},
            "objective": {"ce_weight": 0},
        },
        "the weights of the sources leave nothing to train on: give one a weight above 0 in mixture.sources.",
    ),
    "MoL without a field": (
        {"mixture": {"sources": [{"source": "b", "share": 1}]}, "objective": {"retention": "mol"}},
        "objective.retention is 'mol', but no source with a share is marked domain: true: mark the field, which it "
        "learns by cross-entropy, or choose lssd.",
    ),
    "MoL of nothing but the field": (
        stage(mixture=mixture({"source": "b", "share": 0}), objective={"retention": "mol"}),
        "objective.retention is 'mol', but every source with a share is marked domain: true: add a general source, on "
        "which it holds the model, or choose lssd.",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_setting_value_and_remedy_in_one_sentence(data, sentence):
    with pytest.raises(BadConfig) as caught:
        validate(Stage, data, "s.yaml")
    assert str(caught.value).removeprefix("In s.yaml: ") == sentence


def test_the_first_of_several_faults_is_told_with_their_number():
    with pytest.raises(BadConfig) as caught:
        validate(Stage, stage(training={"warmup": 2, "seed": -1}), "s.yaml")
    assert str(caught.value) == (
        "In s.yaml: 'training.warmup' is 2, but: input should be less than or equal to 0.9. (1 more)"
    )


def test_configuration_cannot_be_changed_in_place():
    config = ObjectiveConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.ce_weight = 2.0


def test_defaults_are_not_shared_between_instances():
    one = Arm(name="x")
    one.set["a"] = 1
    assert Arm(name="y").set == {}


# What forms are made from


def test_all_models_are_looked_at():
    def below(model: type[Config]) -> set[type[Config]]:
        return {model}.union(*(below(one) for one in model.__subclasses__()))

    of_ours = {
        one
        for one in below(Config)
        if one.__module__ in ("mixcpt.config", "mixcpt.optimisation", "mixcpt.stages", "mixcpt.recipe")
    }
    assert of_ours == set(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_every_field_says_what_a_form_needs(model):
    assert model.__doc__
    for name, field in model.model_fields.items():
        extra = field.json_schema_extra
        assert extra["label"] and extra["label"][0].isupper(), name
        assert field.description and field.description.endswith("."), name
        assert extra["level"] in ("basic", "advanced"), name
        assert isinstance(extra["unit"], str), name


@pytest.mark.parametrize("model", MODELS)
def test_labels_of_a_form_are_unique_and_few_are_basic(model):
    extras = [field.json_schema_extra for field in model.model_fields.values()]
    labels = [extra["label"] for extra in extras]
    assert len(set(labels)) == len(labels)
    assert sum(extra["level"] == "basic" for extra in extras) <= 8


# Derived numbers


def test_targets_are_shares_of_the_budget():
    """Shares 3 and 1 of 16,000 tokens: 12,000 and 4,000; a source of share 0 is not read."""
    config = validate(
        MixtureConfig,
        {"sources": [{"source": "a", "share": 3}, {"source": "b", "share": 1}, {"source": "c", "share": 0}]},
        "m",
    )
    assert config.total_tokens() == 16_000
    assert config.target_tokens() == {"a": 12_000, "b": 4_000}


def test_a_budget_of_domain_tokens_adds_the_others_on_top():
    """1,000 domain tokens at 50 + 10 of 80: 1,000 * 80 / 60 = 1,333 in all, of which 833 + 167 domain, 333 other."""
    config = validate(
        MixtureConfig,
        {
            "sources": [
                {"source": "a", "share": 50, "domain": True},
                {"source": "b", "share": 10, "domain": True},
                {"source": "c", "share": 20},
            ],
            "budget_tokens": 1000,
            "domain_tokens_only": True,
        },
        "m",
    )
    assert config.total_tokens() == 1333
    assert config.target_tokens() == {"a": 833, "b": 167, "c": 333}
    assert config.domain_sources() == ["a", "b"]


def test_scaling_all_shares_changes_nothing():
    def targets(factor):
        sources = [{"source": "a", "share": 3 * factor}, {"source": "b", "share": 4 * factor}]
        return validate(MixtureConfig, {"sources": sources}, "m").target_tokens()

    assert targets(1) == targets(1e-3) == targets(100)


def test_factors_of_sources_are_their_weights_under_every_objective_but_mol():
    sources = [
        {"source": "a", "share": 3, "domain": True, "weight": 2, "retention_weight": 0.5},
        {"source": "b", "share": 1, "weight": 0.25},
        {"source": "c", "share": 0, "weight": 9},
    ]

    def factors(retention):
        data = {"mixture": {"sources": sources}, "objective": {"retention": retention}}
        return validate(Stage, data, "the test").factors()

    for retention in ("lssd", "kl", "none"):
        assert factors(retention) == {"a": (2, 1), "b": (0.25, 0.25)}
    assert factors("mol") == {"a": (2, 0), "b": (0, 0.25)}


def test_what_is_special_of_a_source_in_words():
    source = SourceShare(source="a", share=1, domain=True, weight=2, retention_weight=0)
    assert source.marks == ["the field", "loss times 2", "retention times 0"]
    assert SourceShare(source="a", share=1).marks == []
