"""Recipes: what a file may say, what is refused in one sentence, and the chain of stages that it stands for."""

import re
from pathlib import Path
from typing import Any

import pytest

from mixcpt.config import MixtureConfig, SourceShare
from mixcpt.errors import BadConfig, BadFile
from mixcpt.planned import planned
from mixcpt.recipe import Recipe, changed, load_recipe, uploaded
from mixcpt.samples import kind_of, needs_scores
from mixcpt.scores import SCORES
from mixcpt.settings import load_yaml, to_yaml, validate
from mixcpt.stages import Dpo, Sft, Stage

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
DOCUMENT = Path(__file__).parents[1] / "docs" / "cli.md"


def recipe(**changes: Any) -> dict[str, Any]:
    """The least recipe that is valid, with top-level keys replaced."""
    return {"name": "r", "cpt": {"mixture": mixture()}} | changes


def mixture(*sources: Any, **settings: Any) -> dict[str, Any]:
    return {"sources": [{"source": "a", "share": 1, "domain": True}, *sources]} | settings


def cpt(**parts: Any) -> dict[str, Any]:
    return recipe(cpt={"mixture": mixture()} | parts)


def read(**changes: Any) -> Recipe:
    return validate(Recipe, recipe(**changes), "r")


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
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
    "missing": ({"name": "r"}, "'cpt' is missing: add it."),
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
    "a setting of a stage that is not there": (
        recipe(arms=[{"name": "x", "set": {"sft.training.epochs": 2}}]),
        "sft.training.epochs is set, but the recipe has no stage sft: add `sft: {}`.",
    ),
    "an unknown setting of a later stage": (
        recipe(sft={"trainin": {"epochs": 2}}),
        "In sft: The setting 'trainin' is unknown: did you mean 'training'?",
    ),
    "a bad value of a later stage": (
        recipe(dpo={"preference": {"beta": 0}}),
        "In dpo: 'preference.beta' is 0, but: input should be greater than 0.",
    ),
    "a bad value of a later stage in an arm": (
        recipe(sft={}, arms=[{"name": "x", "set": {"sft.samples.rule.score": "nice"}}]),
        "In sft: samples.rule: easiest needs a score, but score is 'nice': take one of",
    ),
    "what a later stage takes over": (
        recipe(sft={"adapter": {"rank": 4}}),
        "sft.adapter cannot be set, for it is that of the stage before: set it in cpt.",
    ),
    "what a later stage takes over in an arm": (
        recipe(dpo={}, arms=[{"name": "x", "set": {"dpo.model.name": "m"}}]),
        "dpo.model.name cannot be set, for it is that of the stage before: set it in cpt.",
    ),
    "nothing chosen by hand": (
        recipe(sft={"samples": {"rule": {"strategy": "by-hand", "count": None}}}),
        "In sft: samples: rule.strategy is 'by-hand', but no selection is named: name a saved selection, or choose by "
        "a score.",
    ),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_setting_value_and_remedy_in_one_sentence(data: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig) as caught:
        validate(Recipe, data, "r.yaml")
    said = str(caught.value).removeprefix("In r.yaml: ")
    assert said == sentence or (sentence.endswith("take one of") and said.startswith(sentence))


def test_a_whole_valid_recipe_is_taken() -> None:
    data = recipe(
        corpora=[{"name": "c", "files": ["c.txt"]}],
        arms=[{"name": "x", "tuned": "g"}, {"name": "y", "set": {"objective.retention": "none"}}],
        tune={"values": [1e-4, 1e-3], "groups": {"g": {"objective.retention": "none"}}},
        seeds=[0, 1],
    )
    assert validate(Recipe, data, "r").arms[1].set == {"objective.retention": "none"}


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
def test_a_file_that_holds_no_recipe_is_refused(tmp_path: Path, content: str | bytes, sentence: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadFile) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path} {sentence}")


def test_a_recipe_path_that_is_a_folder_or_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"is a folder, but a recipe file was expected: name the \.yaml file"):
        load_recipe(tmp_path)
    with pytest.raises(BadFile, match=r"There is no recipe at .*/no\.yaml: check the path, or see the folder recipes/"):
        load_recipe(tmp_path / "no.yaml")


def test_a_fault_in_a_recipe_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: r\ncpt: {}\n")
    with pytest.raises(BadConfig) as caught:
        load_recipe(path)
    assert str(caught.value) == f"In {path}: 'cpt.mixture' is missing: add it."


def test_changes_are_applied_on_top_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(to_yaml(validate(Recipe, recipe(), "r")))
    loaded = load_recipe(path, {"cpt.training.learning_rate": 0.01, "seeds": [3]})
    assert (loaded.cpt.training.learning_rate, loaded.seeds) == (0.01, [3])


def test_the_key_on_is_a_word_in_a_recipe(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_is_valid_and_named_like_its_file(path: Path) -> None:
    loaded = load_recipe(path)
    assert loaded.name == path.stem
    assert loaded.description


def asking(path: Path) -> list[str]:
    """Of each stage of a recipe's chain, its name, with a "?" where questions are asked after it."""
    recipe = load_recipe(path)
    return [stage.stage + ("?" if stage.evaluation.asks else "") for stage in recipe.chain(recipe.cpt)]


def test_shipped_chains_are_asked_where_they_say() -> None:
    """Quick only at the end, which saves half of its time; standard after every stage."""
    asked = {path.stem: asking(path) for path in RECIPES}
    assert asked["quick"] == ["cpt", "sft", "dpo?"]
    assert asked["standard"] == ["cpt?", "sft?", "dpo?"]
    assert all(stages == ["cpt?", "sft?", "dpo?"] for name, stages in asked.items() if name.startswith("paper-"))


def test_what_shipped_recipes_choose_by_is_a_score_of_their_samples() -> None:
    for path in RECIPES:
        recipe = load_recipe(path)
        for stage in recipe.chain(recipe.cpt)[1:]:
            assert isinstance(stage, Sft)
            if needs_scores(stage):
                assert SCORES[str(stage.samples.rule.score)].kind == kind_of(stage), path


def test_the_recipe_in_the_document_is_one() -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    recipe = uploaded(text.encode(), "docs/cli.md")
    assert isinstance(recipe, Recipe)
    runs = planned(recipe, {}, 0)
    assert [(run.stage.stage, run.arm or run.name) for run in runs] == [
        ("cpt", "cpt of easiest, random and all"),
        ("sft", "easiest"), ("dpo", "easiest"), ("sft", "random"), ("dpo", "random"), ("sft", "all"), ("dpo", "all"),
    ]  # fmt: skip


def test_without_seeds_a_recipe_keeps_those_of_its_stage() -> None:
    assert validate(Recipe, recipe(), "x").seeds is None
    plain = validate(Recipe, recipe(), "x").cpt
    assert plain.with_seed(None) is plain


def test_yaml_round_trip_keeps_every_value(tmp_path: Path) -> None:
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


def test_an_uploaded_file_is_a_recipe_or_a_stage() -> None:
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
def test_a_hostile_upload_gives_one_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises((BadFile, BadConfig), match=sentence):
        uploaded(content, "f.yaml")


# The chain


def stages(recipe: Recipe, **changes: Any) -> list[str]:
    return [stage.stage for stage in recipe.chain(recipe.cpt, changes)]


def test_a_recipe_has_the_stages_that_it_names() -> None:
    assert stages(read()) == ["cpt"]
    assert stages(read(sft={})) == ["cpt", "sft"]
    assert stages(read(dpo={})) == ["cpt", "dpo"]
    assert stages(read(sft={}, dpo={})) == ["cpt", "sft", "dpo"]


def test_a_stage_takes_over_what_it_does_not_say() -> None:
    """Model, adapter, field, measures and questions of the stage before; the template from SFT on."""
    first = {
        "mixture": mixture(budget_tokens=640),
        "model": {"name": "m", "precision": "fp32"},
        "adapter": {"rank": 4},
        "measures": {"domain_tokens": 123},
        "evaluation": {"tasks": ["general"], "items": 7},
    }
    own = {"template": "zephyr", "measures": {"every_steps": 0}, "evaluation": {"tasks": []}}
    given = read(cpt=first, sft=own, dpo={"evaluation.tasks": ["atlas"]})
    knowledge, sft, dpo = given.chain(given.cpt)
    assert isinstance(sft, Sft) and isinstance(dpo, Dpo)
    for stage in (sft, dpo):
        assert (stage.model, stage.adapter, stage.mixture) == (knowledge.model, knowledge.adapter, knowledge.mixture)
        assert (stage.measures.domain_tokens, stage.measures.every_steps, stage.template) == (123, 0, "zephyr")
    assert [stage.evaluation.tasks for stage in (knowledge, sft, dpo)] == [["general"], [], ["atlas"]]
    assert dpo.evaluation.items == 7
    assert (sft.samples.source, dpo.samples.source) == ("builtin/instructions", "builtin/preferences")
    assert sft.training.learning_rate > dpo.training.learning_rate


def test_changes_reach_the_stage_that_they_name() -> None:
    given = read(sft={"samples": {"rule": {"count": 9}}}, dpo={})
    changes = {"training.seed": 3, "sft.samples.rule.count": 5, "dpo.preference.beta": 0.3}
    knowledge, sft, dpo = given.chain(given.cpt, changes)
    assert isinstance(sft, Sft) and isinstance(dpo, Dpo)
    assert (knowledge.training.seed, sft.training.seed, sft.samples.rule.count) == (3, 0, 5)
    assert dpo.preference.beta == 0.3


def test_an_arm_may_change_any_stage() -> None:
    arms = [{"name": "x", "set": {"sft.samples": {"rule": {"strategy": "random", "count": 3}}}}]
    given = read(sft={"samples": {"candidates": 50}}, arms=arms)
    sft = given.chain(given.cpt, given.arms[0].set)[1]
    assert isinstance(sft, Sft)
    assert (sft.samples.rule.strategy, sft.samples.rule.count, sft.samples.candidates) == ("random", 3, 50)


@pytest.mark.parametrize(
    ("rule", "end"),
    [
        ({"tokens": 500}, (None, 500, None)),
        ({"threshold": 2.5}, (None, None, 2.5)),
        ({"strategy": "all"}, (None, None, None)),
        ({"strategy": "all", "count": 7}, (7, None, None)),
        ({"strategy": "random"}, (9, None, None)),
    ],
)
def test_an_end_of_a_rule_takes_the_place_of_the_one_before(rule: dict[str, Any], end: tuple[Any, ...]) -> None:
    """Whether the recipe gives it or an arm, nested or dotted."""

    def ends(recipe: Recipe, **changes: Any) -> tuple[Any, ...]:
        sft = recipe.chain(recipe.cpt, changes)[1]
        assert isinstance(sft, Sft)
        return sft.samples.rule.count, sft.samples.rule.tokens, sft.samples.rule.threshold

    nine = read(sft={"samples": {"rule": {"count": 9}}})
    assert ends(nine, **{"sft.samples.rule": rule}) == end
    assert ends(nine, **{f"sft.samples.rule.{name}": value for name, value in rule.items()}) == end
    usual = tuple(64 if value == 9 else value for value in end)
    assert ends(read(sft={"samples": {"rule": rule}})) == usual


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_change_of_a_recipe_may_add_a_stage_and_change_or_remove_it(stage: str) -> None:
    def count(recipe: Recipe) -> int | None:
        found = recipe.chain(recipe.cpt)[-1]
        assert isinstance(found, Sft)
        return found.samples.rule.count

    given = read(**{stage: {"samples": {"rule": {"count": 9}}}})
    assert count(changed(given, {f"{stage}.samples.rule.count": 4})) == 4
    assert stages(changed(given, {stage: None})) == ["cpt"]
    assert stages(changed(read(), {stage: {}})) == ["cpt", stage]
    assert count(changed(read(), {f"{stage}.samples.rule.count": 5})) == 5
    assert count(changed(given, {stage: {}, "cpt.training.seed": 1})) == 64
    with pytest.raises(BadConfig, match=f"In {stage}: The setting 'trainin' is unknown"):
        changed(given, {f"{stage}.trainin": 5})


def test_a_chain_survives_the_round_trip(tmp_path: Path) -> None:
    before = read(
        sft={"samples": {"rule": {"strategy": "random", "count": 3}}, "template": "alpaca"},
        dpo={"preference.beta": 1e-2},
        arms=[{"name": "x", "set": {"dpo.training.epochs": 2}}],
    )
    (tmp_path / "r.yaml").write_text(to_yaml(before), encoding="utf-8")
    after = load_recipe(tmp_path / "r.yaml")
    assert after == before
    assert after.chain(after.cpt, after.arms[0].set) == before.chain(before.cpt, before.arms[0].set)


# Further corpora


def fields(recipe: Recipe, **changes: Any) -> list[list[str]]:
    return [stage.mixture.domain_sources() for stage in recipe.chain(recipe.cpt, changes)]


B = {"mixture": {"sources": [{"source": "b", "share": 1, "domain": True}]}}
C = {"mixture.sources": [{"source": "c", "share": 1, "domain": True}], "training.learning_rate": 5e-4}


def test_further_corpora_come_one_after_the_other_each_as_the_one_before() -> None:
    given = read(then=[B, C], sft={})
    given = changed(given, {"cpt.training.learning_rate": 2e-3, "cpt.adapter.rank": 8})
    chain = given.chain(given.cpt)
    assert [stage.stage for stage in chain] == ["cpt", "cpt", "cpt", "sft"]
    assert fields(given) == [["a"], ["b"], ["c"], ["c"]]
    assert [stage.training.learning_rate for stage in chain[:3]] == [2e-3, 2e-3, 5e-4]
    assert {stage.adapter.rank for stage in chain} == {8}
    assert chain[1].mixture.row_tokens == chain[0].mixture.row_tokens  # what is not said of a part stays


def test_changes_reach_the_further_stage_that_they_name(tmp_path: Path) -> None:
    given = changed(read(then=[B, C]), {"then.0.training.learning_rate": 1e-4})
    assert [s.training.learning_rate for s in given.chain(given.cpt)] == [1e-3, 1e-4, 5e-4]
    arm = given.chain(given.cpt, {"then.1.mixture.budget_tokens": 640, "objective.retention": "none"})
    assert [s.mixture.budget_tokens for s in arm] == [16_000, 16_000, 640]
    assert {s.objective.retention for s in arm if isinstance(s, Stage)} == {"none"}
    (tmp_path / "r.yaml").write_text(to_yaml(given), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml") == given


@pytest.mark.parametrize(
    ("then", "changes", "sentence"),
    [
        ([{"adapter": {"rank": 4}}], {}, "then.0.adapter cannot be set, for it is that of the stage before"),
        ([B, {"trainin.seed": 1}], {}, "In then.1: The setting 'trainin.seed' is unknown"),
        ([B], {"then.1.training.seed": 1}, "then.1.training.seed is set, but the recipe has no stage then.1"),
        ([], {"then.0.training.seed": 1}, "it has 0 under `then`"),
    ],
)
def test_a_further_stage_that_cannot_be_is_refused(then: list[Any], changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadConfig, match=re.escape(sentence)):
        changed(read(then=then), changes)
    if changes:
        with pytest.raises(BadConfig, match=re.escape(sentence)):
            read(then=then, arms=[{"name": "x", "set": changes}])


def test_runs_of_several_corpora_are_called_by_them() -> None:
    lone = planned(read(then=[B, C]), {}, None)
    assert [(run.name, run.before, run.last) for run in lone] == [("a", None, False), ("b", 0, False), ("c", 1, True)]
    arms = [{"name": "x"}, {"name": "y", "set": {"then.1.training.learning_rate": 1e-5}}]
    both = planned(read(then=[B, C], arms=arms), {}, 3)
    assert [run.name for run in both] == ["a of x and y", "b of x and y", "x, c", "y, c"]
    assert [run.before for run in both] == [None, 0, 1, 1] and {run.stage.training.seed for run in both} == {3}
