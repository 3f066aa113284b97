"""A further corpus, from the page of a run to the launch of the next one."""

import shutil
from typing import Any

import pytest
from made import made_chain, made_run, open_page, stage_of, texts, widget_of
from streamlit.testing.v1 import AppTest
from test_machine import PLAIN
from test_page_launch import draft_on_disk, go

from mixcpt import machine
from mixcpt.corpus import ingest_records
from mixcpt.drafts import Draft, Drafts
from mixcpt.records import Record
from mixcpt.runs import Run, Runs
from mixcpt.settings import to_yaml
from mixcpt.stages import Stage
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace


@pytest.fixture
def wells(studio: Workspace, tiny_tokenizer: TextTokenizer) -> Workspace:
    """A studio with a corpus of its own and a machine that was measured."""
    machine.keep(studio, PLAIN)
    records = [Record(kind="documents", text=f"Well {n} is {n} metres deep.", file="t") for n in range(30)]
    ingest_records(studio, "wells", records, files=[], tokenizer=tiny_tokenizer)
    return studio


def said(app: AppTest) -> str:
    return texts(app).replace("\\", "")


def start(app: AppTest) -> Any:
    return app.selectbox(key="launch_parent")


def test_from_the_page_of_a_run_to_the_next_corpus(wells: Workspace) -> None:
    first = made_run(wells, name="inland", stage=stage_of(adapter__rank=4))
    app = open_page("runs", run=first.id)
    app.button(key="runs_continue").click().run()
    assert not app.exception and app.title[0].value == "Launch"
    draft = draft_on_disk(wells, app)
    assert draft.parent == first.id and start(app).value == first.id and draft.experiment == "trial"
    assert "base → knowledge: inland" in said(app)
    assert "was the field of inland already" in said(app)
    assert "launch_model" not in [box.key for box in app.selectbox]
    assert "launch_adapter.rank" not in [box.key for box in app.number_input]

    app = open_page("launch", draft=draft.id)
    app.selectbox(key="launch_field").set_value("wells").run()
    stage = draft_on_disk(wells, app).stage
    assert stage.mixture.domain_sources() == ["wells"] and stage.adapter.rank == 4
    assert "Nothing of builtin/atlas is read again" in said(app)
    app.selectbox(key="launch_objective.against").set_value("parent").run()
    assert draft_on_disk(wells, app).stage.objective.against == "parent"
    assert f"parent: {first.id}" in said(app)  # the YAML file
    go(app).click().run()
    run = next(run for run in Runs(wells).all() if run.id != first.id)
    assert run.info.parent == first.id and run.title == "inland + wells" and not app.exception
    assert isinstance(run.config, Stage) and run.config.objective.against == "parent"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_every_stage_can_be_continued(wells: Workspace, number: int) -> None:
    run = made_chain(wells)[number]
    app = open_page("launch", parent=run.id)
    assert not app.exception and start(app).value == run.id
    assert draft_on_disk(wells, app).parent == run.id


def test_the_start_is_chosen_on_the_page_and_given_up_again(wells: Workspace) -> None:
    other = made_run(wells, experiment="else", stage=stage_of(adapter__rank=8))
    app = open_page("launch")
    assert start(app).value == "" and "objective.against" not in str([box.key for box in app.selectbox])
    start(app).set_value(other.id).run()
    draft = draft_on_disk(wells, app)
    assert (draft.parent, draft.experiment, draft.stage.adapter.rank) == (other.id, "else", 8)
    start(app).set_value("").run()
    assert draft_on_disk(wells, app).parent is None and not app.exception


def test_a_run_that_is_gone_or_failed_is_told(wells: Workspace) -> None:
    app = open_page("launch", parent="nope")
    assert "There is no run" in said(app) and not app.exception
    failed = made_run(wells, state="failed")
    app = open_page("launch", parent=failed.id)
    assert "is failed and has no finished adapter" in said(app) and go(app).disabled
    shutil.rmtree(failed.folder)
    app.run()
    assert "was deleted: the draft starts from the base now" in said(app) and not app.exception
    assert draft_on_disk(wells, app).parent is None


def test_a_clone_continues_the_same_run(wells: Workspace) -> None:
    first = made_run(wells)
    second = Runs(wells).create(first.config, experiment="trial", parent=first.id)
    second.append({"step": 0, "tokens": 0, "measure": {"prompt_kl": 0.0}})
    app = open_page("runs", run=second.id)
    app.button(key="runs_clone").click().run()
    assert draft_on_disk(wells, app).parent == first.id and start(app).value == first.id


def test_a_file_replaces_the_settings_but_not_what_is_continued(wells: Workspace) -> None:
    first: Run = made_run(wells, stage=stage_of(adapter__rank=4))
    app = open_page("launch", parent=first.id)
    content = to_yaml(stage_of(training__learning_rate=1e-4, adapter__rank=64)).encode()
    uploader = widget_of(app, "file_uploader", f"launch_upload_{app.session_state['draft']}")
    uploader.upload("mine.yaml", content).run()
    draft = Drafts(wells).get(app.session_state["draft"])
    assert isinstance(draft, Draft) and not app.exception
    assert (draft.parent, draft.stage.adapter.rank, draft.stage.training.learning_rate) == (first.id, 4, 1e-4)


def test_on_the_mixture_page_the_draft_goes_on_continuing(wells: Workspace) -> None:
    first = made_run(wells)
    app = open_page("launch", parent=first.id)
    app.switch_page("../pages/mixture.py").run()
    assert not app.exception and draft_on_disk(wells, app).parent == first.id
