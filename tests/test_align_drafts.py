"""Drafts of stage two: what comes after what, what is kept through a change, and the command that does the same."""

import shlex

import pytest
from made import made_chain, made_child, made_run, stage_of

from mixcpt.align_drafts import begin, command, named, parents, rebased, settings_of, stage_after, suggested_name
from mixcpt.cli import _parser
from mixcpt.drafts import Draft, Drafts, default_stage
from mixcpt.errors import BadConfig, NotFound
from mixcpt.recipe import Recipe
from mixcpt.records import Message, Record
from mixcpt.runs import NAME_LENGTH
from mixcpt.scores import ScoredSample
from mixcpt.selection import Rule, Selection
from mixcpt.settings import as_change, override, parse_change
from mixcpt.stages import Dpo, follow
from mixcpt.workspace import Workspace


def test_what_comes_after_what(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    assert [stage_after(workspace, parent).stage for parent in (None, cpt, sft)] == ["sft", "sft", "dpo"]
    assert stage_after(workspace, sft, "sft").stage == "sft"
    with pytest.raises(NotFound, match="no selection 'mine'"):
        stage_after(workspace, cpt, selection="mine")


def test_a_selection_is_learned_in_the_template_that_it_was_scored_under(workspace: Workspace) -> None:
    cpt = made_run(workspace)
    row = ScoredSample(
        "a", Record("instructions", messages=(Message("user", "q"), Message("assistant", "a"))).to_json(), 4, 2, {}
    )
    for name, template in (("alpaca", "alpaca"), ("own", "own"), ("none", None)):
        info = {"source": "x", "kind": "instructions", "template": template and {"name": template, "source": ""}}
        Selection(info, [row], Rule(strategy="all")).save(workspace, name)
    found = {name: stage_after(workspace, cpt, selection=name).template for name in ("alpaca", "own", "none")}
    assert found == {"alpaca": "alpaca", "own": "auto", "none": "auto"}
    assert stage_after(workspace, cpt, selection="alpaca", changes={"template": "chatml"}).template == "chatml"
    aligned = made_child(workspace, cpt, changes={"template": "zephyr"})
    assert stage_after(workspace, aligned, "sft", "alpaca").template == "zephyr"


def test_what_the_parent_decides_cannot_be_set(workspace: Workspace) -> None:
    cpt = made_run(workspace, stage=stage_of(adapter__rank=8))
    assert stage_after(workspace, cpt).adapter.rank == 8
    for path in ("adapter.rank", "model.name", "mixture.seed", "stage"):
        with pytest.raises(BadConfig, match="which is continued: leave it out"):
            stage_after(workspace, cpt, changes={path: 3})
    assert stage_after(workspace, None, changes={"adapter.rank": 3}).adapter.rank == 3


def test_a_dpo_run_is_the_end_of_a_chain(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    asked = made_child(workspace, cpt, state="running")
    assert [run.id for run in parents(workspace)] == [asked.id, sft.id, cpt.id]


def test_a_draft_is_named_after_what_it_does(workspace: Workspace) -> None:
    cpt = made_run(workspace, name="mine")
    draft = begin(workspace, stage_after(workspace, cpt, changes={"samples.rule.strategy": "all"}), cpt)
    assert named(workspace, draft).name == "mine + SFT, all" and draft.experiment == "trial"
    own = draft.model_copy(update={"name": "my name"})
    assert named(workspace, own) is own
    assert suggested_name(follow(default_stage(), "dpo", {"samples.selection": "few"}), None) == "base + DPO, few"
    cpt.relabel(name="x" * NAME_LENGTH)
    long = suggested_name(draft.stage, cpt)
    assert len(long) == NAME_LENGTH and long.startswith("…x") and long.endswith("x + SFT, all")
    knowledge = Draft(id="draft-x", stage=default_stage())
    assert named(workspace, knowledge) is knowledge


def test_what_was_changed_by_hand_goes_along(workspace: Workspace) -> None:
    cpt, sft, _ = made_chain(workspace)
    draft = begin(workspace, stage_after(workspace, cpt, changes={"training.epochs": 4, "template": "alpaca"}), cpt)
    moved = rebased(workspace, draft, "dpo", sft)
    assert isinstance(moved.stage, Dpo) and moved.parent == sft.id
    assert (moved.stage.training.epochs, moved.stage.template, moved.stage.training.learning_rate) == (
        4,
        "alpaca",
        5e-5,
    )
    back = rebased(workspace, moved, "sft", cpt)
    assert back.stage == draft.stage
    assert Drafts(workspace).get(draft.id) == draft  # nothing was written


def test_an_experiment_of_ones_own_stays(workspace: Workspace) -> None:
    first, second = made_run(workspace, experiment="one"), made_run(workspace, experiment="two")
    draft = begin(workspace, stage_after(workspace, first), first)
    assert rebased(workspace, draft, "sft", second).experiment == "two"
    own = draft.model_copy(update={"experiment": "mine"})
    assert rebased(workspace, own, "sft", second).experiment == "mine"


def test_settings_of_a_file(workspace: Workspace) -> None:
    cpt = made_run(workspace)
    stage = follow(stage_of(adapter__rank=4), "dpo", {"preference.beta": 0.5, "preference.reference": "base"})
    kind, given = settings_of(stage, cpt)
    assert kind == "dpo" and given["preference"] == {"beta": 0.5} and "adapter" not in given and "stage" not in given
    assert settings_of(stage, None)[1]["adapter"]["rank"] == 4
    recipe = Recipe(name="x", cpt=default_stage(), sft={"training.epochs": 2}, dpo={"training.epochs": 3})
    assert [settings_of(recipe, cpt, kind)[1]["training"]["epochs"] for kind in ("sft", "dpo", None)] == [2, 3, 2]
    for nothing in (default_stage(), Recipe(name="x", cpt=default_stage())):
        with pytest.raises(BadConfig, match="no settings of SFT or DPO"):
            settings_of(nothing, cpt)


@pytest.mark.parametrize("continued", [True, False])
def test_the_command_makes_the_same_stage_again(workspace: Workspace, continued: bool) -> None:
    parent = made_run(workspace) if continued else None
    changes = {"training.learning_rate": 2e-5, "samples.rule.strategy": "random", "evaluation.tasks": ["general"],
               "samples.rule.tokens": 500, "samples.rule.count": None, "measures.general": "it's"}  # fmt: skip
    if not continued:
        changes |= {"model.name": "org/name", "mixture.joiner": "\n"}
    stage = stage_after(workspace, parent, "dpo", changes=changes)
    draft = begin(workspace, stage, parent).model_copy(update={"name": "yes: 'no'", "experiment": "mine"})
    options = _parser().parse_args(shlex.split(command(draft, parent))[1:])
    assert (options.name, options.experiment, options.stage) == ("yes: 'no'", "mine", "dpo")
    assert options.parent == (parent.id if parent else "base")
    again = stage_after(workspace, parent, options.stage, options.selection, dict(map(parse_change, options.set)))
    assert again == stage


@pytest.mark.parametrize("value", [1, 2e-5, 0.1, True, None, "text", "true", "1e-3", "", "a: b", "x\n", [], ["a", "b"]])
def test_a_change_is_read_back_as_it_was(value: object) -> None:
    path, again = parse_change(as_change("a.b", value))
    assert (path, again) == ("a.b", value) and type(again) is type(value)


def test_a_stage_that_names_a_field_of_its_own_keeps_it(workspace: Workspace) -> None:
    stage = override(stage_after(workspace, None), {"model.name": "org/name"})
    draft = begin(workspace, stage, None)
    assert rebased(workspace, draft, "dpo", None).stage.model.name == "org/name"
    assert rebased(workspace, draft, "dpo", made_run(workspace)).stage.model.name == "smollm2-135m"
