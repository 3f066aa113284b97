"""The shipped studies as recipes: every one is valid on a user's corpus, and its arms differ in what they should."""

from typing import Any

import pytest

from mixcpt.errors import BadInput, NotFound
from mixcpt.planned import planned
from mixcpt.runs import Runs
from mixcpt.stages import Sft, Stage
from mixcpt.studies import make, open_study, save, studies, suggested_name
from mixcpt.study_kinds import KINDS, Choice
from mixcpt.tuning import untuned
from mixcpt.workspace import Workspace


def choice(**changes: Any) -> Choice:
    return Choice.model_validate({"corpus": "field", "tokens": 1000, "seeds": [0, 1]} | changes)


def stages(workspace: Workspace, id: str, **changes: Any) -> dict[str, list[Any]]:
    """Per arm the stages of its chain, under the first seed."""
    study = make(workspace, id, choice(**changes))
    runs = planned(study.recipe, untuned(study.recipe), 0)
    return {arm: [run.stage for run in runs if arm in run.arms] for arm in study.arms}


@pytest.mark.parametrize("id", KINDS)
@pytest.mark.parametrize("tune", [True, False])
def test_every_study_is_a_valid_recipe_on_the_users_corpus(small_corpora: Workspace, id: str, tune: bool) -> None:
    models = ["smollm2-135m", "gemma-3-270m"] if KINDS[id].several_models else ["smollm2-135m"]
    then = ["world"] if KINDS[id].several_corpora else []
    study = make(small_corpora, id, choice(models=models, tune=tune, then=then))
    arms = [*study.arms, *(f"{arm}, strength {one:g}" for arm, these in study.strengths.items() for one in these)]
    assert study.pairs and {name for pair in study.pairs for name in pair} <= set(arms)
    assert study.recipe.seeds == [0, 1] and study.question.endswith("?")
    for runs in stages(small_corpora, id, models=models, tune=tune, then=then).values():
        assert isinstance(runs[0], Stage) and runs[0].mixture.domain_sources()[0].startswith("field")
    if not tune:
        assert study.recipe.tune is None


def test_the_two_by_two_reads_equally_many_tokens_of_the_field(small_corpora: Workspace) -> None:
    arms = {arm: one[0] for arm, one in stages(small_corpora, "mix-cpt").items()}
    assert {arm: stage.mixture.target_tokens()["field"] for arm, stage in arms.items()} == dict.fromkeys(arms, 1000)
    assert {arm: stage.objective.retention for arm, stage in arms.items()} == {
        "documents, CE": "none", "documents, CE + LSSD": "lssd", "mixture, CE": "none", "mixture, CE + LSSD": "lssd",
    }  # fmt: skip
    assert len(arms["documents, CE"].mixture.target_tokens()) == 1
    assert len(arms["mixture, CE"].mixture.target_tokens()) == 4


def test_joint_and_decoupled_read_the_same_amount_of_every_kind(small_corpora: Workspace) -> None:
    arms = stages(small_corpora, "joint")
    first, sft = arms["decoupled"]
    (joint,) = arms["joint"]
    assert (
        isinstance(sft, Sft) and sft.samples.rule.tokens == 200 and sft.template == joint.mixture.template == "alpaca"
    )
    assert first.mixture.template == "none"
    apart, together = first.mixture.target_tokens(), joint.mixture.target_tokens()
    assert apart == {"field": 480, "builtin/replay": 160, "builtin/instructions": 96, "builtin/preferences": 64}
    assert together == apart | {"builtin/instructions": 96 + 200}


def test_the_chains_of_a_selection_share_their_knowledge_stage(small_corpora: Workspace) -> None:
    study = make(small_corpora, "selection", choice())
    runs = planned(study.recipe, {}, 0)
    assert [run.arms for run in runs if run.stage.stage == "cpt"] == [("random", "easiest", "hardest", "all")]
    assert len(runs) == 1 + 2 * 4


def test_sizes_follow_from_the_corpus_and_noise_from_copies(small_corpora: Workspace) -> None:
    arms = stages(small_corpora, "size")
    assert list(arms) == ["4 documents", "9 documents", "19 documents", "all 38 documents", "25% noise", "50% noise"]
    assert [one[0].mixture.domain_documents for one in arms.values()] == [4, 9, 19, None, None, None]
    assert arms["50% noise"][0].mixture.domain_sources() == ["field-noise-50"]
    assert {tuple(one[0].evaluation.tasks) for one in arms.values()} == {("general", "probes:field")}, "all the same"
    assert make(small_corpora, "size", choice()).noise == [0.25, 0.5]


def test_ratios_hold_the_sum_of_tokens(small_corpora: Workspace) -> None:
    arms = stages(small_corpora, "ratios")
    assert [one[0].mixture.target_tokens()["field"] for one in arms.values()] == [1000, 800, 600, 400, 200]
    assert {one[0].mixture.total_tokens() for one in arms.values()} == {1000}


def test_a_chain_goes_on_with_each_corpus_under_the_settings_of_its_arm(small_corpora: Workspace) -> None:
    arms = stages(small_corpora, "chain", then=["world", "builtin/atlas"])
    assert [one.mixture.domain_sources() for one in arms["CE"]] == [["field"], ["world"], ["builtin/atlas"]]
    for arm, retention in (("CE", "none"), ("CE + LSSD", "lssd")):
        assert [one.objective.retention for one in arms[arm]] == [retention] * 3
        tokens = [one.mixture.target_tokens() for one in arms[arm]]
        assert [one["builtin/replay"] for one in tokens] == [333] * 3 and "world" in tokens[1]
        assert [max(one.values()) for one in tokens] == [1000] * 3
        asked = [one.evaluation.tasks for one in arms[arm]]
        assert asked == [[], [], ["general", "atlas", "probes:field", "probes:world", "probes:builtin/atlas"]]
    study = make(small_corpora, "chain", choice(then=["world"]))
    runs = planned(study.recipe, {"ce": 1e-3, "ce-lssd": 2e-3}, 0)
    rates = {(run.arm, run.stage.mixture.domain_sources()[0]): run.stage.training.learning_rate for run in runs}
    assert rates == {
        ("CE", "field"): 1e-3, ("CE", "world"): 1e-3, ("CE + LSSD", "field"): 2e-3, ("CE + LSSD", "world"): 2e-3,
    }  # fmt: skip


def test_what_a_study_cannot_be_made_of_is_refused(small_corpora: Workspace) -> None:
    with pytest.raises(NotFound, match="no study 'nothing': choose from mix-cpt"):
        make(small_corpora, "nothing", choice())
    with pytest.raises(BadInput, match="'builtin/instructions' holds instructions"):
        make(small_corpora, "lssd", choice(corpus="builtin/instructions"))
    with pytest.raises(BadInput, match="takes one model, but 2"):
        make(small_corpora, "lssd", choice(models=["a", "b"]))
    with pytest.raises(BadInput, match="name at least two"):
        make(small_corpora, "models", choice())
    for then in ([], ["field"]):
        with pytest.raises(BadInput, match="'chain' learns one corpus after another: name at least two"):
            make(small_corpora, "chain", choice(then=then))
    with pytest.raises(BadInput, match="'lssd' takes one corpus, but 2"):
        make(small_corpora, "lssd", choice(then=["world"]))
    with pytest.raises(BadInput, match="'builtin/preferences' holds preferences"):
        make(small_corpora, "chain", choice(then=["builtin/preferences"]))
    with pytest.raises(NotFound, match="nowhere"):
        make(small_corpora, "lssd", choice(corpus="nowhere"))


def test_a_study_is_kept_and_its_name_is_its_own(small_corpora: Workspace) -> None:
    study = make(small_corpora, "lssd", choice())
    assert study.name == "lssd-field"
    assert study.measured == 1000 and make(small_corpora, "lssd", choice(measured=0)).measured == 0
    with pytest.raises(BadInput, match="One token measures nothing"):
        make(small_corpora, "lssd", choice(measured=1))
    save(small_corpora, study)
    save(small_corpora, study)
    with pytest.raises(BadInput, match="of another choice"):
        save(small_corpora, make(small_corpora, "lssd", choice(measured=500), name="lssd-field"))
    assert open_study(small_corpora, "lssd-field") == study and studies(small_corpora) == [study]
    assert suggested_name(small_corpora, "lssd", choice()) == "lssd-field-2"
    with pytest.raises(BadInput, match="a study 'lssd-field' already, of another choice"):
        save(small_corpora, make(small_corpora, "lssd", choice(tokens=2000), name="lssd-field"))
    Runs(small_corpora).create(study.recipe.cpt, experiment="mine")
    with pytest.raises(BadInput, match="an experiment 'mine' already"):
        save(small_corpora, make(small_corpora, "lssd", choice(), name="mine"))
    with pytest.raises(NotFound, match="no study 'else': take one of lssd-field"):
        open_study(small_corpora, "else")
