"""Configuration: every refusal says the setting, the value and the remedy; forms and YAML come from the same models."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

from pathlib import Path

import pytest

from mixcpt.config import (
    AdapterConfig,
    Config,
    Dpo,
    EvaluationConfig,
    MeasureConfig,
    MixtureConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimiserConfig,
    PreferenceConfig,
    SampleConfig,
    SampleTraining,
    Sft,
    SourceShare,
    Stage,
    TrainingConfig,
    override,
    parse_change,
    to_yaml,
    validate,
)
from mixcpt.errors import BadConfig, BadFile
from mixcpt.recipe import Arm, CorpusSpec, Recipe, Tuning, load_recipe, uploaded
from mixcpt.settings import load_yaml

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
MODELS = [
    SourceShare, MixtureConfig, ModelConfig, AdapterConfig, ObjectiveConfig, TrainingConfig, MeasureConfig,
    EvaluationConfig, Stage, CorpusSpec, Arm, Tuning, Recipe, OptimiserConfig, SampleTraining, SampleConfig,
    PreferenceConfig, Sft, Dpo,
]  # fmt: skip


def recipe(**changes):
    """The least recipe that is valid, with top-level keys replaced."""
    return {"name": "r", "cpt": {"mixture": mixture()}} | changes


def mixture(*sources, **settings):
    return {"sources": [{"source": "a", "share": 1, "domain": True}, *sources]} | settings


def cpt(**parts):
    return recipe(cpt={"mixture": mixture()} | parts)


REFUSALS = {
    "unknown key at the top": (
        recipe(seed=[1]),
        "the key 'seed' is unknown: did you mean 'seeds'?",
    ),
    "unknown key deep down": (
        cpt(training={"learning_rat": 1}),
        "the key 'cpt.training.learning_rat' is unknown: did you mean 'learning_rate'?",
    ),
    "unknown key in a list": (
        recipe(cpt={"mixture": {"sources": [{"source": "a", "share": 1, "domein": True}]}}),
        "the key 'cpt.mixture.sources.0.domein' is unknown: did you mean 'domain'?",
    ),
    "unknown key in an optional part": (
        recipe(tune={"values": [1, 2], "groups": {"g": {}}, "budget": 100}),
        "the key 'tune.budget' is unknown: did you mean 'budget_tokens'?",
    ),
    "unknown key near nothing": (
        cpt(mixture=mixture(xyzzy=1)),
        "the key 'cpt.mixture.xyzzy' is unknown: known here: sources, budget_tokens, row_tokens, domain_tokens_only, "
        "preference_text, joiner, domain_documents, seed.",
    ),
    "missing": ({"name": "r"}, "'cpt' is missing: add it."),
    "shares sum to zero": (
        recipe(cpt={"mixture": {"sources": [{"source": "a", "share": 0}]}}),
        "cpt.mixture: the shares of sources sum to 0: give at least one source a share above 0.",
    ),
    "no sources": (
        recipe(cpt={"mixture": {"sources": []}}),
        "'cpt.mixture.sources' is [], but: list should have at least 1 item after validation, not 0.",
    ),
    "negative share": (
        cpt(mixture=mixture({"source": "b", "share": -1})),
        "'cpt.mixture.sources.1.share' is -1, but: input should be greater than or equal to 0.",
    ),
    "infinite share": (
        cpt(mixture=mixture({"source": "b", "share": float("inf")})),
        "'cpt.mixture.sources.1.share' is inf, but: input should be a finite number.",
    ),
    "share that is no number": (
        cpt(mixture=mixture({"source": "b", "share": float("nan")})),
        "'cpt.mixture.sources.1.share' is nan, but: input should be a finite number.",
    ),
    "share as a word": (
        cpt(mixture=mixture({"source": "b", "share": "much"})),
        "'cpt.mixture.sources.1.share' is 'much', but: input should be a valid number, "
        "unable to parse string as a number.",
    ),
    "duplicate source": (
        cpt(mixture=mixture({"source": "a", "share": 2})),
        "cpt.mixture: sources names 'a' twice: give it one entry with the summed share.",
    ),
    "domain tokens without a domain": (
        recipe(cpt={"mixture": {"sources": [{"source": "a", "share": 1}], "domain_tokens_only": True}}),
        "cpt.mixture: domain_tokens_only is on, but no source with a share is marked domain: true.",
    ),
    "domain tokens with an empty domain": (
        cpt(
            mixture={
                "sources": [{"source": "a", "share": 0, "domain": True}, {"source": "b", "share": 1}],
                "domain_tokens_only": True,
            }
        ),
        "cpt.mixture: domain_tokens_only is on, but no source with a share is marked domain: true.",
    ),
    "too few tokens": (
        cpt(mixture=mixture(budget_tokens=10)),
        "'cpt.mixture.budget_tokens' is 10, but: input should be greater than or equal to 64.",
    ),
    "rows that do not divide": (
        cpt(training={"rows_per_step": 6, "rows_at_once": 4}),
        "cpt.training: rows_at_once 4 does not divide rows_per_step 6: take rows_at_once from 1 to rows_per_step so "
        "that it does, for example 1.",
    ),
    "more rows at once than a step": (
        cpt(training={"rows_per_step": 2, "rows_at_once": 4}),
        "cpt.training: rows_at_once 4 does not divide rows_per_step 2: take rows_at_once from 1 to rows_per_step so "
        "that it does, for example 1.",
    ),
    "nothing to train on": (
        cpt(objective={"ce_weight": 0, "retention": "none"}),
        "cpt.objective: ce_weight is 0 and retention is 'none' with weight 1, so there is nothing to train on: raise "
        "ce_weight, or choose retention lssd with a weight above 0.",
    ),
    "nothing to train on either": (
        cpt(objective={"ce_weight": 0, "retention_weight": 0}),
        "cpt.objective: ce_weight is 0 and retention is 'lssd' with weight 0, so there is nothing to train on: raise "
        "ce_weight, or choose retention lssd with a weight above 0.",
    ),
    "temperature of zero": (
        cpt(objective={"temperature": 0}),
        "'cpt.objective.temperature' is 0, but: input should be greater than 0.",
    ),
    "unknown choice": (
        cpt(objective={"retention": "mol"}),
        "'cpt.objective.retention' is 'mol', but: input should be 'none', 'kl' or 'lssd'.",
    ),
    "unknown setting in an arm": (
        recipe(arms=[{"name": "x", "set": {"training.learning_rat": 1}}]),
        "The setting 'training.learning_rat' is unknown: did you mean 'learning_rate'?",
    ),
    "bad value in an arm": (
        recipe(arms=[{"name": "x", "set": {"training.learning_rate": 2}}]),
        "In these changes: 'training.learning_rate' is 2, but: input should be less than or equal to 1.",
    ),
    "source beyond the list in an arm": (
        recipe(arms=[{"name": "x", "set": {"mixture.sources.1.share": 2}}]),
        "The setting 'mixture.sources.1.share' is unknown: '1' is not an index below 1.",
    ),
    "unknown setting in a tuning group": (
        recipe(tune={"values": [1e-4, 1e-3], "groups": {"g": {"objectiv.retention": "none"}}}),
        "The setting 'objectiv.retention' is unknown: did you mean 'objective'?",
    ),
    "tuning group missing": (
        recipe(arms=[{"name": "x", "tuned": "h"}], tune={"values": [1e-4, 1e-3], "groups": {"g": {}}}),
        "arm 'x' is tuned like 'h', but tune.groups has ['g'].",
    ),
    "tuned without tuning": (
        recipe(arms=[{"name": "x", "tuned": "h"}]),
        "arm 'x' is tuned like 'h', but tune.groups has [].",
    ),
    "two arms of one name": (
        recipe(arms=[{"name": "x"}, {"name": "x"}]),
        "two arms share a name in ['x', 'x']: rename one.",
    ),
    "a seed twice": (recipe(seeds=[1, 2, 1]), "seeds [1, 2, 1] name a seed twice."),
    "a negative seed": (recipe(seeds=[-1]), "'seeds.0' is -1, but: input should be greater than or equal to 0."),
    "a name that is no folder": (
        recipe(name="../r"),
        "'name' is '../r', but: string should match pattern '^[a-z0-9][a-z0-9._-]{0,63}$'.",
    ),
    "a corpus from nowhere": (
        recipe(corpora=[{"name": "c"}]),
        "corpora.0: corpus 'c' needs either files or hub, not neither.",
    ),
    "a corpus named like a built-in one": (
        recipe(corpora=[{"name": "builtin-atlas", "files": ["x"]}]),
        "corpora.0: corpus 'builtin-atlas' has a name kept for built-in sources: choose one without 'builtin-'.",
    ),
    "tuning without a measure": (
        cpt(measures={"domain_tokens": 0}) | {"tune": {"values": [1, 2], "groups": {"g": {}}}},
        "tuning group 'g' has no measure to be judged by: set measures.domain_tokens above 0.",
    ),
    "a corpus from two places": (
        recipe(corpora=[{"name": "c", "files": ["x"], "hub": "y"}]),
        "corpora.0: corpus 'c' needs either files or hub, not both.",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_setting_value_and_remedy_in_one_sentence(data, sentence):
    with pytest.raises(BadConfig) as caught:
        validate(Recipe, data, "r.yaml")
    assert str(caught.value).removeprefix("In r.yaml: ") == sentence


def test_the_first_of_several_faults_is_told_with_their_number():
    with pytest.raises(BadConfig) as caught:
        validate(Recipe, cpt(training={"warmup": 2, "seed": -1}), "r.yaml")
    assert str(caught.value) == (
        "In r.yaml: 'cpt.training.warmup' is 2, but: input should be less than or equal to 0.9. (1 more)"
    )


def test_a_whole_valid_recipe_is_taken():
    data = recipe(
        corpora=[{"name": "c", "files": ["c.txt"]}],
        arms=[{"name": "x", "tuned": "g"}, {"name": "y", "set": {"objective.retention": "none"}}],
        tune={"values": [1e-4, 1e-3], "groups": {"g": {"objective.retention": "none"}}},
        seeds=[0, 1],
    )
    assert validate(Recipe, data, "r").arms[1].set == {"objective.retention": "none"}


def test_configuration_cannot_be_changed_in_place():
    config = ObjectiveConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.ce_weight = 2.0


def test_defaults_are_not_shared_between_instances():
    one = Arm(name="x")
    one.set["a"] = 1
    assert Arm(name="y").set == {}


# Files


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("a: [1,", "is not valid YAML: while parsing"),
        (b"\xff\xfe\x00", "is not valid YAML: 'utf-8' codec"),
        ("- a\n- b\n", "holds list instead of settings: write `key: value` lines."),
        ("", "holds NoneType instead of settings"),
        ("just words", "holds str instead of settings"),
        ("a: !!python/object/apply:os.system [true]", "is not valid YAML: could not determine a constructor"),
    ],
    ids=["broken", "not text", "list", "empty", "words", "code"],
)
def test_a_file_that_holds_no_recipe_is_refused(tmp_path, content, sentence):
    path = tmp_path / "r.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadFile) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path} {sentence}")


def test_a_recipe_path_that_is_a_folder_or_missing_is_refused(tmp_path):
    with pytest.raises(BadFile, match=r"is a folder, but a recipe file was expected: name the \.yaml file"):
        load_recipe(tmp_path)
    with pytest.raises(BadFile, match=r"There is no recipe at .*/no\.yaml: check the path, or see the folder recipes/"):
        load_recipe(tmp_path / "no.yaml")


def test_a_fault_in_a_recipe_file_names_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ncpt: {}\n")
    with pytest.raises(BadConfig) as caught:
        load_recipe(path)
    assert str(caught.value) == f"In {path}: 'cpt.mixture' is missing: add it."


def test_changes_are_applied_on_top_of_a_recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(validate(Recipe, recipe(), "r")))
    loaded = load_recipe(path, {"cpt.training.learning_rate": 0.01, "seeds": [3]})
    assert (loaded.cpt.training.learning_rate, loaded.seeds) == (0.01, [3])


def test_the_key_on_is_a_word_in_a_recipe(tmp_path):
    """YAML 1.1 reads a bare `on` as true, which would make the setting measures.on unusable."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "name: r\n"
        "cpt:\n"
        "  mixture: {sources: [{source: a, share: 1e1, domain: true}]}\n"
        "  measures:\n"
        "    on: validation\n"
    )
    loaded = load_recipe(path)
    assert loaded.cpt.measures.on == "validation"
    assert loaded.cpt.mixture.sources[0].share == 10


@pytest.mark.parametrize("path", RECIPES or [pytest.param(None, marks=pytest.mark.skip("no recipes shipped yet"))])
def test_every_shipped_recipe_is_valid_and_named_like_its_file(path):
    loaded = load_recipe(path)
    assert loaded.name == path.stem
    assert loaded.description


# Changes and round trips


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("a=1E+3", "a", 1000.0),
        ("a=2.5", "a", 2.5),
        ("a=-3", "a", -3),
        ("a=true", "a", True),
        ("a=null", "a", None),
        ("a=[1, 2]", "a", [1, 2]),
        ("a=[1e-4, x]", "a", [1e-4, "x"]),
        ("a={b: 1}", "a", {"b": 1}),
        ("a=lssd", "a", "lssd"),
        ("a=no", "a", "no"),
        ("a=on", "a", "on"),
        ("a=nan", "a", "nan"),
        ("a=infinity", "a", "infinity"),
        ("a=2024-01-02", "a", "2024-01-02"),
        ("a='1e-4'", "a", "1e-4"),
        ("a=b=c", "a", "b=c"),
        ("a =x", "a", "x"),
        ("a=", "a", None),
    ],
)
def test_a_change_reads_as_people_write_it(text, name, value):
    found = parse_change(text)
    assert found == (name, value)
    assert type(found[1]) is type(value)


@pytest.mark.parametrize("text", ["a", "=1", "", "a=[1,", "a=}"])
def test_a_change_that_cannot_be_read_is_refused(text):
    with pytest.raises(BadConfig, match="cannot be read"):
        parse_change(text)


def test_override_replaces_only_what_it_names():
    stage = validate(Stage, {"mixture": mixture({"source": "b", "share": 2})}, "s")
    changed = override(stage, {"mixture.sources.1.share": 5, "objective.retention": "kl"})
    assert [source.share for source in changed.mixture.sources] == [1, 5]
    assert changed.objective.retention == "kl"
    assert changed.training == stage.training and stage.mixture.sources[1].share == 2


def test_without_seeds_a_recipe_keeps_those_of_its_stage():
    assert validate(Recipe, recipe(), "x").seeds is None
    plain = validate(Recipe, recipe(), "x").cpt
    assert plain.with_seed(None) is plain


def test_with_seed_sets_both_seeds():
    stage = validate(Stage, {"mixture": mixture()}, "s").with_seed(7)
    assert (stage.mixture.seed, stage.training.seed) == (7, 7)


def test_yaml_round_trip_keeps_every_value(tmp_path):
    data = recipe(
        description="Grüße: on, no, 1e4 & '2024-01-02'",
        seeds=[2, 0],
        corpora=[{"name": "c", "hub": "x/y", "where": {"split": "no"}}],
        arms=[{"name": "x", "set": {"training.learning_rate": 1e-5, "mixture.joiner": "1e4"}}],
        cpt={
            "mixture": mixture(joiner="\n---\n"),
            "measures": {"on": "validation"},
            "training": {"learning_rate": 1e-9},
        },
    )
    before = validate(Recipe, data, "r")
    (tmp_path / "r.yaml").write_text(to_yaml(before), encoding="utf-8")
    assert validate(Recipe, load_yaml(tmp_path / "r.yaml"), "r") == before
    assert "Grüße" in (tmp_path / "r.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["on", "no", "1e4", "1.0", "true", "null", "", "2024-01-02", "1e-4", "12:30", " a ", "#"]
)
def test_any_text_survives_the_round_trip(tmp_path, text):
    config = MixtureConfig(sources=[SourceShare(source="a", share=1)], joiner=text)
    (tmp_path / "m.yaml").write_text(to_yaml(config), encoding="utf-8")
    assert validate(MixtureConfig, load_yaml(tmp_path / "m.yaml"), "m") == config


# What forms are made from


def test_all_models_are_looked_at():
    def below(model: type[Config]) -> set[type[Config]]:
        return {model}.union(*(below(one) for one in model.__subclasses__()))

    of_ours = {one for one in below(Config) if one.__module__ in ("mixcpt.config", "mixcpt.recipe")}
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


def test_accumulation_is_what_is_left_of_a_step():
    assert TrainingConfig(rows_per_step=12, rows_at_once=3).accumulation == 4
    assert TrainingConfig().accumulation == 1


@pytest.mark.parametrize(
    ("settings", "needed"),
    [({}, True), ({"retention": "kl"}, True), ({"retention": "none"}, False), ({"retention_weight": 0}, False)],
)
def test_a_teacher_is_needed_only_for_retention(settings, needed):
    assert ObjectiveConfig(**settings).needs_teacher is needed


def test_an_uploaded_file_is_a_recipe_or_a_stage():
    recipe = uploaded(b"name: r\ncpt: {mixture: {sources: [{source: a, share: 1}]}}", "r.yaml")
    assert recipe == Recipe(name="r", cpt=Stage(mixture=MixtureConfig(sources=[SourceShare(source="a", share=1)])))
    assert uploaded(b"mixture: {sources: [{source: a, share: 1}]}", "s.yaml") == recipe.cpt


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"a: &x [1]\nb: *x", "aliases"),
        (b"[" * 5000, "f.yaml"),
        (b"\xff\xfe", "not valid YAML"),
        (b"seed: " + b"9" * 5000, "f.yaml"),
        (b"- 1", "holds list"),
        (b"!!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_hostile_upload_gives_one_sentence(content, sentence):
    with pytest.raises((BadFile, BadConfig), match=sentence):
        uploaded(content, "f.yaml")
