"""Runs of stage two on every page that shows runs: their chain, their figures, their samples, and what follows."""

import shutil
from typing import Any

import pytest
from made import made_chain, made_child, made_run, open_page, texts
from streamlit.testing.v1 import AppTest
from test_score_jobs import with_adapter
from test_selection import TABLE

from app.words import plain
from mixcpt.drafts import AlignDraft, Drafts
from mixcpt.runs import Runs
from mixcpt.stages import Dpo
from mixcpt.workspace import Workspace

NASTY = "<script>alert(1)</script> **x** $y$ :red[z]"
VIEWS = ["Curves", "What it read", "Questions", "Export", "Settings", "Log", "Files"]


def keys(app: AppTest) -> list[str]:
    return [str(button.key) for button in app.button]


def titles(app: AppTest) -> list[str]:
    return [str(element.value) for element in app.subheader]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("state", ["queued", "running", "done", "failed", "cancelled", "paused"])
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_every_view_of_every_state_opens(studio: Workspace, kind: str, view: str, state: str) -> None:
    parent = made_run(studio, name=NASTY)
    run = made_child(studio, parent, "dpo" if kind == "dpo" else "sft", state=state, name=NASTY, message=NASTY)
    app = open_page("runs", run=run.id, runs_view=view)
    assert not app.exception and app.title[0].value == plain(NASTY)
    assert "**x**" not in "\n".join(str(element.value) for element in [*app.markdown, *app.caption, *app.info])


def test_the_chain_leads_to_relatives(studio: Workspace) -> None:
    cpt, sft, dpo = made_chain(studio)
    sibling = made_child(studio, cpt, "sft", name="sibling")
    app = open_page("runs", run=sft.id)
    assert f"chain_{cpt.id}" in keys(app) and f"chain_{dpo.id}" in keys(app) and f"chain_{sibling.id}" in keys(app)
    assert f"chain_{sft.id}" not in keys(app)  # it is this page
    app.button(key=f"chain_{dpo.id}").click().run()
    assert app.query_params["run"] == dpo.id and not app.exception
    assert "chain_others" not in " ".join(keys(app))
    alone = made_run(studio)
    assert not [key for key in keys(open_page("runs", run=alone.id)) if key.startswith("chain_")]


def test_several_runs_continue_one(studio: Workspace) -> None:
    cpt = made_run(studio)
    children = [made_child(studio, cpt, "sft", name=name) for name in ("one", "two")]
    app = open_page("runs", run=cpt.id)
    assert {f"chain_{run.id}" for run in children} <= set(keys(app))


def test_a_run_is_aligned_by_a_click(studio: Workspace) -> None:
    cpt, sft, dpo = made_chain(studio)
    app = open_page("runs", run=sft.id)
    app.button(key="runs_align").click().run()
    draft = Drafts(studio).get(str(app.query_params["draft"]))
    assert isinstance(draft, AlignDraft) and (draft.parent, draft.stage.stage) == (sft.id, "dpo")
    assert app.title[0].value == "Align" and not app.exception
    assert "runs_align" not in keys(open_page("runs", run=dpo.id))
    failed = made_run(studio, state="failed")
    assert "runs_align" not in keys(open_page("runs", run=failed.id))
    assert "runs_align" in keys(open_page("runs", run=cpt.id))


@pytest.mark.parametrize("stage, source", [("cpt", "builtin/instructions"), ("sft", "builtin/preferences")])
def test_samples_are_chosen_with_a_run_by_a_click(studio: Workspace, stage: str, source: str) -> None:
    TABLE.save(studio)  # else the form would be open anyway
    chain = dict(zip(("cpt", "sft", "dpo"), map(with_adapter, made_chain(studio)), strict=True))
    app = open_page("selection")
    assert app.selectbox(key="selection_under").value == chain["dpo"].id and not form(app).proto.expanded
    app.query_params["run"] = chain[stage].id
    app.switch_page("../pages/runs.py").run().button(key="runs_choose").click().run()
    assert app.title[0].value == "Selection" and form(app).proto.expanded and not app.exception
    assert app.selectbox(key="selection_under").value == chain[stage].id
    assert app.selectbox(key="selection_source").value == source


def test_samples_are_chosen_only_with_what_can_be_asked_and_continued(studio: Workspace) -> None:
    _, _, dpo = made_chain(studio)
    without = made_run(studio, state="running")
    for run in (with_adapter(dpo), without):
        assert "runs_choose" not in keys(open_page("runs", run=run.id))


def form(app: AppTest) -> Any:
    (found,) = [one for one in app.expander if one.label == "Score samples"]
    return found


def test_a_clone_goes_to_align_with_its_parent(studio: Workspace) -> None:
    _, sft, dpo = made_chain(studio)
    app = open_page("runs", run=dpo.id)
    app.button(key="runs_clone").click().run()
    draft = Drafts(studio).get(str(app.query_params["draft"]))
    assert isinstance(draft, AlignDraft) and isinstance(draft.stage, Dpo)
    assert (draft.parent, draft.stage, draft.experiment) == (sft.id, dpo.config, "trial")
    assert app.title[0].value == "Align" and not app.exception
    app.button(key=f"launch_go_{draft.id}").click().run()
    assert Runs(studio).all()[-1].config == dpo.config


def test_it_is_run_again_after_the_same_run(studio: Workspace) -> None:
    _, sft, dpo = made_chain(studio)
    app = open_page("runs", run=dpo.id)
    app.button(key="runs_again").click().run()
    again = Runs(studio).get(str(app.query_params["run"]))
    assert again.id != dpo.id and again.config == dpo.config and again.info.parent == sft.id


def test_figures_of_sft_and_dpo(studio: Workspace) -> None:
    cpt, sft, dpo = made_chain(studio)
    tiles = {metric.label: metric for metric in open_page("runs", run=sft.id).metric}
    assert tiles["Loss on answers"].value == "1.417" and "Distance to the base" in tiles  # mean of 2 - n/6, n to 6
    assert "whole chain" in str(tiles["Gain in the field"].help)
    tiles = {metric.label: metric for metric in open_page("runs", run=dpo.id).metric}
    assert tiles["Margin"].value == "+0.58 · 79%" and "log 2" in str(tiles["DPO loss"].help)
    tiles = {metric.label: metric for metric in open_page("runs", run=cpt.id).metric}
    assert "Loss" in tiles and "whole chain" not in str(tiles["Gain in the field"].help)
    waiting = made_child(studio, sft, "dpo", state="queued")
    tiles = {metric.label: metric for metric in open_page("runs", run=waiting.id).metric}
    assert {tiles[name].value for name in ("Margin", "DPO loss", "Speed")} == {"–"}


def test_curves_of_every_stage(studio: Workspace) -> None:
    cpt, sft, dpo = made_chain(studio)
    assert "Over the whole chain" not in titles(open_page("runs", run=cpt.id))
    shown = titles(open_page("runs", run=sft.id))
    assert shown[:2] == ["Over the whole chain", "In this stage"] and "Rewards" not in shown
    assert {"Rewards", "Pairs in the right order", "Loss"} <= set(titles(open_page("runs", run=dpo.id)))


def test_what_it_learned_from(studio: Workspace) -> None:
    cpt, sft, dpo = made_chain(studio)
    app = open_page("runs", run=dpo.id, runs_view="What it read")
    table = app.dataframe[0].value
    assert list(table["Chosen answer"]) == ["It is 0.", "It is 2.", "It is 4."]
    assert list(table["Margin"]) == [1.5, 2.5, 3.5]
    said = texts(app).replace("\\", "")
    assert f"a frozen copy of SFT run mixture, CE + LSSD ({sft.id})" in said and "3 preference pairs" in said
    app = open_page("runs", run=sft.id, runs_view="What it read")
    assert list(app.dataframe[0].value["Question"])[1] == "What is 1 and 1?"
    waiting = made_child(studio, cpt, "sft", state="queued", changes={"samples.selection": "mine"})
    app = open_page("runs", run=waiting.id, runs_view="What it read")
    assert "selection mine" in texts(app) and not app.dataframe and not app.exception


def test_settings_are_compared_with_those_of_its_place_in_the_chain(studio: Workspace) -> None:
    _, sft, dpo = made_chain(studio)
    assert "Every setting is as a new draft has it" in texts(open_page("runs", run=dpo.id, runs_view="Settings"))
    run = made_child(studio, sft, "dpo", changes={"samples.rule.strategy": "random", "template": "alpaca"})
    table = open_page("runs", run=run.id, runs_view="Settings").dataframe[0].value
    assert dict(zip(table["Name"], table["Here"], strict=True)) == {
        "samples.rule.strategy": "by chance",
        "template": "Alpaca",
    }


def test_the_list_names_stage_and_parent(studio: Workspace) -> None:
    made_chain(studio, name="mine")
    app = open_page("runs")
    table = app.dataframe[0].value
    assert list(table["Stage"]) == ["DPO", "SFT", "knowledge"]
    assert list(table["Continues"]) == ["mixture, CE + LSSD", "mine", ""]
    app.text_input(key="runs_filter").set_value("fine-tuning").run()
    assert list(app.dataframe[0].value["Stage"]) == ["SFT"]


def test_the_queue_names_the_stage(studio: Workspace) -> None:
    made_child(studio, made_run(studio), "sft", state="running")
    assert "SFT: training, then asking questions" in texts(open_page("runs"))


def test_home_names_the_stage(studio: Workspace) -> None:
    made_chain(studio)
    assert "DPO · trial · done" in texts(open_page("home"))


def test_a_chain_is_compared(studio: Workspace) -> None:
    chain = made_chain(studio)
    app = open_page("compare", runs=",".join(run.id for run in chain))
    said = texts(app).replace("\\", "")
    assert not app.exception and "SFT itself, since knowledge: gain −0.05" in said
    assert list(app.dataframe[0].value["title"]) == [
        f"mixture, CE + LSSD · {stage}" for stage in ("knowledge", "SFT", "DPO")
    ]
    app.toggle(key="compare_equal").set_value(True).run()
    assert "reads no text of the field" in texts(app).replace("\\", "") and not app.exception


def test_a_chain_is_told_in_its_notebook(studio: Workspace) -> None:
    made_chain(studio)
    app = open_page("notebook", experiment="trial")
    told = " ".join(str(value) for table in app.table for value in table.value.to_numpy().ravel()).replace("\\", "")
    assert not app.exception and "a frozen copy of SFT run" in told and ":gray[Chat template] ChatML" in told


def test_a_run_whose_parent_is_gone_has_a_page(studio: Workspace) -> None:
    cpt, sft, _ = made_chain(studio)
    shutil.rmtree(cpt.folder)
    for view in VIEWS:
        app = open_page("runs", run=sft.id, runs_view=view)
        assert not app.exception, view
    assert {"In this stage", "Loss"} <= set(titles(open_page("runs", run=sft.id)))
    assert "which is gone" in texts(open_page("runs", run=sft.id)).replace("\\", "")


def test_runs_to_choose_say_only_what_tells_them_apart(studio: Workspace) -> None:
    from app.compare_chooser import _labels
    from mixcpt.overview import overview

    cpt, sft, dpo = made_chain(studio)
    alone = made_run(studio, name="alone")
    twins = [made_run(studio, name="twin", experiment=name) for name in ("one", "two")]
    seeds = [made_run(studio, name="seeded", seed=seed) for seed in (0, 1)]
    same = [made_run(studio, name="same") for _ in range(2)]
    waiting = made_run(studio, name="waiting", state="queued")
    labels = _labels(overview(studio))
    assert [labels[run.id].partition(" · ")[2] for run in (cpt, sft, dpo)] == ["knowledge", "SFT", "DPO"]
    assert labels[alone.id] == "alone" and labels[waiting.id] == "waiting · no measures yet"
    assert [labels[run.id] for run in twins] == ["twin · one", "twin · two"]
    assert [labels[run.id] for run in seeds] == ["seeded · seed 0", "seeded · seed 1"]
    assert [labels[run.id] for run in same] == [f"same · {run.id[-6:]}" for run in same]
