"""The Align page: what is typed reaches the draft on disk, deep links begin one, and a click launches one run."""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
from made import made_chain, made_child, made_run, open_page, stage_of, texts, widget_of
from streamlit.testing.v1 import AppTest

from mixcpt import guesses, recorded
from mixcpt.drafts import AlignDraft, Drafts, default_stage
from mixcpt.jobs import Jobs
from mixcpt.presets import value_at
from mixcpt.records import Message, Record
from mixcpt.runs import Runs
from mixcpt.scores import ScoredSample
from mixcpt.selection import Rule, Selection
from mixcpt.settings import to_yaml
from mixcpt.stages import Dpo, follow
from mixcpt.workspace import Workspace


def draft_on_disk(studio: Workspace, app: AppTest) -> AlignDraft:
    draft = Drafts(studio).get(app.session_state["align_draft"])
    assert isinstance(draft, AlignDraft)
    return draft


def go(app: AppTest) -> Any:
    return app.button(key=f"launch_go_{app.session_state['align_draft']}")


def said(app: AppTest) -> str:
    return texts(app).replace("\\", "")


def saved_selection(studio: Workspace, name: str, kind: str = "instructions", under: str | None = None) -> None:
    samples = []
    for number in range(20):
        question, answer = (Message("user", f"What is {number}?"),), f"It is {number}."
        record = (
            Record(kind="preferences", messages=question, chosen=answer, rejected="No.")
            if kind == "preferences"
            else Record(kind="instructions", messages=(*question, Message("assistant", answer)))
        )
        samples.append(ScoredSample(f"s{number}", record.to_json(), 20, 6, {"loss_plain": number / 10}))
    info = {"id": "scores-1", "source": f"builtin/{kind}", "kind": kind, "run": under, "max_tokens": 1024}
    Selection(info, samples, Rule(strategy="all", count=18), discard=["s3"]).save(studio, name)


@pytest.fixture
def tiny(studio: Workspace, tiny_tokenizer_folder: Path) -> str:
    """A model of no weights over the byte tokenizer, without a chat template; its name."""
    folder = studio.models / "tiny"
    shutil.copytree(tiny_tokenizer_folder, folder)
    shape = {"vocab_size": 257, "hidden_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **shape}))
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return str(folder)


# Where a draft begins


def test_an_empty_workspace_opens_with_the_base(studio: Workspace) -> None:
    app = open_page("align")
    assert not app.exception
    assert draft_on_disk(studio, app).parent is None and "No run of yours can be continued yet" in said(app)
    assert [job.kind for job in Jobs(studio).all()] == ["doctor"]
    assert not go(app).disabled


def test_the_newest_run_is_continued_by_the_stage_that_comes_after_it(studio: Workspace) -> None:
    cpt = made_run(studio, experiment="mine")
    app = open_page("align")
    draft = draft_on_disk(studio, app)
    assert (draft.parent, draft.stage.stage, draft.experiment) == (cpt.id, "sft", "mine")
    sft = made_child(studio, cpt, "sft")
    app = open_page("align")
    draft = draft_on_disk(studio, app)
    assert (draft.parent, draft.stage.stage) == (sft.id, "dpo")
    assert "base → knowledge: mixture, CE + LSSD → SFT: mixture, CE + LSSD → **DPO**" in said(app)


def test_only_runs_with_an_adapter_or_one_to_come_can_be_continued(studio: Workspace) -> None:
    made_run(studio, experiment=recorded.EXPERIMENT, name="recorded").adapter.joinpath(
        "adapter_model.safetensors"
    ).unlink()
    for state in ("failed", "cancelled", "queued", "running"):
        made_run(studio, state=state, name=state)
    cpt, sft, _ = made_chain(studio)
    options = open_page("align").selectbox(key="align_parent").options
    assert [option.partition(" · ")[0] for option in options] == [
        "The base model itself",
        sft.title,
        cpt.title,
        "running",
        "queued",
    ]


def test_a_link_begins_a_draft_with_what_it_names(studio: Workspace) -> None:
    cpt, sft, _ = made_chain(studio)
    saved_selection(studio, "pairs", "preferences", under=cpt.id)
    app = open_page("align", parent=cpt.id, selection="pairs")
    draft = draft_on_disk(studio, app)
    assert not app.exception
    assert (draft.parent, draft.stage.stage, draft.stage.samples.selection) == (cpt.id, "dpo", "pairs")
    assert set(app.query_params) == {"draft"} and app.query_params["draft"] == draft.id
    assert "17 samples, 340 tokens of builtin/preferences, the first 18, 1 changed by hand" in said(app)
    reloaded = open_page("align", draft=draft.id)
    assert draft_on_disk(studio, reloaded) == draft
    other = draft_on_disk(studio, open_page("align", parent=sft.id, stage="sft"))
    assert (other.parent, other.stage.stage) == (sft.id, "sft") and other.id != draft.id


@pytest.mark.parametrize("link", [{"parent": "nope"}, {"selection": "<b>nope</b>"}, {"parent": "../.."}])
def test_a_link_to_what_is_not_there_is_told(studio: Workspace, link: dict[str, str]) -> None:
    cpt = made_run(studio)
    app = open_page("align", **link)
    assert not app.exception and "There is no" in app.warning[0].value
    assert draft_on_disk(studio, app).parent == cpt.id and "<b>" not in app.warning[0].value


def test_each_page_leads_to_the_page_of_a_draft(studio: Workspace) -> None:
    made_run(studio)
    mine = draft_on_disk(studio, open_page("align"))
    app = open_page("launch", draft=mine.id)
    assert app.title[0].value == "Align" and app.query_params["draft"] == mine.id
    launch = open_page("launch")
    app = open_page("align", draft=str(launch.session_state["draft"]))
    assert app.title[0].value == "Launch"


def test_a_parent_that_is_deleted_meanwhile_is_told(studio: Workspace) -> None:
    cpt = made_run(studio)
    draft = draft_on_disk(studio, open_page("align"))
    Runs(studio).delete(cpt)
    app = open_page("align", draft=draft.id)
    assert not app.exception and "was deleted" in app.warning[0].value
    assert draft_on_disk(studio, app).parent is None


# The form


@pytest.mark.parametrize(
    ("kind", "key", "given", "path"),
    [
        ("number_input", "align_training.learning_rate", 1e-4, "training.learning_rate"),
        ("number_input", "align_training.epochs", 2, "training.epochs"),
        ("number_input", "align_samples.rule.count", 32, "samples.rule.count"),
        ("number_input", "align_samples.max_tokens", 512, "samples.max_tokens"),
        ("number_input", "align_training.samples_per_step", 8, "training.samples_per_step"),
        ("selectbox", "align_template", "alpaca", "template"),
        ("selectbox", "align_score", "ifd", "samples.rule.score"),
        ("selectbox", "align_strategy", "random", "samples.rule.strategy"),
        ("toggle", "align_training.checkpoint_activations", True, "training.checkpoint_activations"),
        ("multiselect", "align_evaluation.tasks", ["general"], "evaluation.tasks"),
    ],
)
def test_what_is_typed_lies_in_the_draft_and_is_shown_again(
    studio: Workspace, kind: str, key: str, given: Any, path: str
) -> None:
    made_run(studio)
    app = open_page("align")
    widget_of(app, kind, key).set_value(given).run()
    draft = draft_on_disk(studio, app)
    assert not app.exception and value_at(draft.stage, path) == given
    again = open_page("align", draft=draft.id)
    assert widget_of(again, kind, key).value == given


def test_every_setting_has_a_widget_but_what_the_parent_decides(studio: Workspace) -> None:
    from app import forms

    _, sft, _ = made_chain(studio)
    app = open_page("align", parent=sft.id, stage="dpo")
    keys = {str(widget.key) for kind in ("number_input", "selectbox", "text_input", "toggle", "multiselect")
            for widget in app.get(kind)}  # fmt: skip
    apart = {"samples.source": "source", "samples.rule.strategy": "strategy", "samples.rule.score": "score",
             "samples.selection": "way", "stage": "stage"}  # fmt: skip
    keys |= {str(widget.key) for widget in app.get("segmented_control")}
    paths = {one.path for one in forms.fields(Dpo)}
    missing = {path for path in paths if f"align_{apart.get(path, path)}" not in keys}
    assert {path.partition(".")[0] for path in missing} == {"model", "mixture", "adapter", "preference"}
    assert missing & {path for path in paths if path.startswith("preference")} == {"preference.reference"}
    assert "a frozen copy of SFT run mixture, CE + LSSD" in said(app) and sft.id in said(app)


def test_the_base_itself_has_a_model_and_a_field(studio: Workspace, tiny: str) -> None:
    app = open_page("align")
    app.selectbox(key="align_model").set_value("folder").run()
    app.selectbox(key="align_model_folder").set_value(tiny).run()
    app.selectbox(key="align_field").set_value("builtin/replay").run()
    stage = draft_on_disk(studio, app).stage
    assert stage.model.name == tiny and stage.mixture.domain_sources() == ["builtin/replay"]
    assert widget_of(app, "number_input", "align_adapter.rank") and not app.exception
    app.segmented_control(key="align_stage").set_value("dpo").run()
    assert draft_on_disk(studio, app).stage.model.name == tiny and "Reference:** the base itself" in said(app)


def test_another_stage_and_another_parent_keep_what_fits_there(studio: Workspace) -> None:
    cpt, sft, _ = made_chain(studio)
    other = made_run(studio, experiment="other", stage=stage_of(adapter__rank=8))
    app = open_page("align", parent=cpt.id)
    app.number_input(key="align_training.epochs").set_value(3).run()
    app.number_input(key="align_training.learning_rate").set_value(1e-3).run()
    app.number_input(key="align_samples.rule.count").set_value(10).run()
    app.segmented_control(key="align_stage").set_value("dpo").run()
    draft = draft_on_disk(studio, app)
    assert isinstance(draft.stage, Dpo) and draft.parent == cpt.id
    assert (draft.stage.training.epochs, draft.stage.training.learning_rate) == (3, 5e-5)
    assert (draft.stage.samples.rule.count, draft.stage.samples.source) == (64, "builtin/preferences")
    app.selectbox(key="align_parent").set_value(sft.id).run()
    app.number_input(key="align_preference.beta").set_value(0.3).run()
    app.selectbox(key="align_parent").set_value(other.id).run()
    draft = draft_on_disk(studio, app)
    assert isinstance(draft.stage, Dpo) and draft.stage.preference.beta == 0.3
    assert (draft.stage.adapter.rank, draft.stage.training.epochs, draft.experiment) == (8, 3, "other")
    app.selectbox(key="align_parent").set_value("").run()
    assert draft_on_disk(studio, app).parent is None and not app.exception


def test_a_selection_is_chosen_and_left_again(studio: Workspace) -> None:
    made_run(studio)
    app = open_page("align")
    app.segmented_control(key="align_way").set_value("selection").run()
    assert "There is no saved selection of instructions yet" in said(app) or go(app).disabled
    assert app.segmented_control(key="align_way").value == "selection" and go(app).disabled
    app.segmented_control(key="align_way").set_value("rule").run()
    assert not go(app).disabled
    saved_selection(studio, "mine")
    saved_selection(studio, "pairs", "preferences")
    app.segmented_control(key="align_way").set_value("selection").run()
    assert draft_on_disk(studio, app).stage.samples.selection == "mine"
    assert app.selectbox(key="align_selection").options == ["mine"]
    assert "scored under the base itself" in said(app)
    app.segmented_control(key="align_stage").set_value("dpo").run()
    assert draft_on_disk(studio, app).stage.samples.selection is None  # it was of the other kind


def test_a_strategy_takes_a_score_along(studio: Workspace) -> None:
    made_run(studio)
    app = open_page("align")
    app.selectbox(key="align_strategy").set_value("random").run()
    assert not [box for box in app.selectbox if box.key == "align_score"]
    app.selectbox(key="align_strategy").set_value("hardest").run()
    rule = draft_on_disk(studio, app).stage.samples.rule
    assert (rule.strategy, rule.score) == ("hardest", "perplexity_template")
    assert "The highest are taken" in said(app)


def test_scores_against_the_base_are_not_offered_under_the_base(studio: Workspace) -> None:
    cpt = made_run(studio)
    app = open_page("align", parent=cpt.id, stage="dpo")
    assert "Implicit-reward margin" in app.selectbox(key="align_score").options
    app.selectbox(key="align_parent").set_value("").run()
    assert "Implicit-reward margin" not in app.selectbox(key="align_score").options


def test_what_does_not_fit_stays_typed_and_stops_the_launch(studio: Workspace) -> None:
    made_run(studio)
    app = open_page("align")
    app.number_input(key="align_training.samples_at_once").set_value(3).run()
    assert "does not divide" in said(app) and go(app).disabled
    assert draft_on_disk(studio, app).stage.training.samples_at_once == 1
    app.number_input(key="align_training.samples_per_step").set_value(6).run()
    assert draft_on_disk(studio, app).stage.training.samples_at_once == 3 and not go(app).disabled


def test_a_selection_that_is_deleted_stops_the_launch_with_a_sentence(studio: Workspace) -> None:
    made_run(studio)
    saved_selection(studio, "mine")
    draft = draft_on_disk(studio, open_page("align", selection="mine"))
    shutil.rmtree(studio.root / "selections" / "mine")
    app = open_page("align", draft=draft.id)
    assert not app.exception and "There is no selection 'mine'" in said(app) and go(app).disabled


def test_findings_have_buttons(studio: Workspace) -> None:
    made_run(studio)
    app = open_page("align")
    app.number_input(key="align_training.learning_rate").set_value(0.01).run()
    next(button for button in app.button if button.label.startswith("Set learning rate")).click().run()
    assert draft_on_disk(studio, app).stage.training.learning_rate == 2e-4


# Launch


def test_a_click_launches_one_run_after_its_parent(studio: Workspace) -> None:
    cpt = made_run(studio, state="running")
    app = open_page("align", parent=cpt.id)
    old = app.session_state["align_draft"]
    go(app).click().run()
    assert not app.exception and len(Runs(studio).all()) == 2
    run = Runs(studio).get(Drafts(studio).get(old).launched or "")
    assert (run.info.parent, run.info.stage, run.info.experiment) == (cpt.id, "sft", "trial")
    assert run.title == "mixture, CE + LSSD + SFT, easiest" and app.query_params["run"] == run.id
    mine = [job for job in Jobs(studio).all() if job.run == run.id]
    assert [job.kind for job in mine] == ["score", "train", "evaluate"]
    assert app.session_state["align_draft"] != old
    again = open_page("align", draft=old)
    assert draft_on_disk(studio, again).launched is None and len(Runs(studio).all()) == 2


def test_a_second_click_finds_the_run_of_the_first(studio: Workspace) -> None:
    made_run(studio)
    draft = draft_on_disk(studio, open_page("align"))

    def click() -> None:
        import streamlit as st

        from app import drafting

        drafting.launch(st.session_state["clicked"])

    twice = AppTest.from_function(click)
    twice.session_state["clicked"] = draft.id
    twice.run().run()
    assert not twice.exception and len(Runs(studio).all()) == 2


def test_dpo_names_its_reference_in_the_run(studio: Workspace) -> None:
    _, sft, _ = made_chain(studio)
    app = open_page("align", parent=sft.id, stage="dpo")
    app.text_input(key="align_name").set_value("<i>mine</i>").run()
    go(app).click().run()
    run = Runs(studio).all()[-1]
    assert isinstance(run.config, Dpo) and run.config.preference.reference == sft.id and run.title == "<i>mine</i>"


def test_a_guess_goes_along(studio: Workspace) -> None:
    made_run(studio)
    app = open_page("align")
    app.toggle(key="align_guess").set_value(True).run()
    app.slider(key="align_guess_forgetting").set_value(2).run()
    go(app).click().run()
    guess = guesses.read(Runs(studio).all()[-1])
    assert guess and guess.forgetting == 2 and not app.exception


# The label mask


def test_the_first_batch_is_shown_with_its_mask(studio: Workspace, tiny: str) -> None:
    cpt = made_run(studio, stage=stage_of(model__name=tiny))
    saved_selection(studio, "mine")
    app = open_page("align", parent=cpt.id, selection="mine")
    assert not app.exception and "has no chat template, as base models do" in app.info[0].value
    app.selectbox(key="align_template").set_value("question-answer").run()
    assert not app.exception
    assert "The first step: 4 samples of 17, under the template **Question / Answer**" in said(app)
    # "It is N." has 8 or 9 bytes, each a token, and the end of the turn
    assert "the answers, with the token that ends them" in said(app)
    shown = next(code.value for code in app.code if code.value.startswith("Question:"))
    assert shown.startswith("Question:\nWhat is ") and "Answer:\nIt is " in shown and "<eos>" in shown


def test_a_batch_that_a_score_chooses_is_said_to_stand_in(studio: Workspace, tiny: str) -> None:
    cpt = made_run(studio, stage=stage_of(model__name=tiny))
    app = open_page("align", parent=cpt.id, stage="dpo")
    app.selectbox(key="align_template").set_value("chatml").run()
    assert not app.exception and "4 samples of the source stand in" in said(app)
    assert "are compared" in said(app)
    app.selectbox(key="align_strategy").set_value("random").run()
    assert "The first step: 4 samples of 64" in said(app)


def test_before_the_model_is_here_the_batch_is_promised(studio: Workspace) -> None:
    made_run(studio)
    assert "It is shown once the model" in said(open_page("align"))


# Command and YAML


def test_the_command_says_what_is_other_than_usual(studio: Workspace) -> None:
    cpt = made_run(studio)
    app = open_page("align", parent=cpt.id)
    app.number_input(key="align_training.epochs").set_value(2).run()
    app.text_input(key="align_name").set_value("it's mine").run()
    command = next(code.value for code in app.code if code.value.startswith("mixcpt align"))
    assert command == f"""mixcpt align {cpt.id} --stage sft --name 'it'"'"'s mine' --set training.epochs=2"""


def test_an_uploaded_file_replaces_the_settings_and_a_bad_one_changes_nothing(studio: Workspace) -> None:
    cpt = made_run(studio)
    app = open_page("align", parent=cpt.id)
    draft = draft_on_disk(studio, app)
    key = f"align_upload_{draft.id}"
    knowledge = to_yaml(default_stage()).encode()
    for bad in (b"[", b"\xff\xfe\x00", b"stage: rlhf\nmixture: {sources: []}", knowledge):
        app.file_uploader(key=key).upload("bad.yaml", bad).run()
        assert not app.exception and draft_on_disk(studio, app) == draft
        assert app.error
    other = follow(stage_of(adapter__rank=4), "dpo", {"training.epochs": 3, "preference.beta": 0.5})
    app.file_uploader(key=key).upload("good.yaml", to_yaml(other).encode()).run()
    stage = draft_on_disk(studio, app).stage
    assert isinstance(stage, Dpo) and (stage.training.epochs, stage.preference.beta) == (3, 0.5)
    assert stage.adapter.rank == 32  # that of the run it continues
    recipe = b"name: x\ncpt: {mixture: {sources: [{source: builtin/atlas, share: 1}]}}\nsft: {training: {epochs: 7}}"
    app.file_uploader(key=key).upload("recipe.yaml", recipe).run()
    assert draft_on_disk(studio, app).stage.training.epochs == 7
    assert draft_on_disk(studio, app).stage.stage == "sft"


def test_names_are_shown_as_typed(studio: Workspace) -> None:
    made_run(studio, name="<script>x</script> **b** $y$")
    app = open_page("align")
    shown = "\n".join(str(element.value) for element in [*app.markdown, *app.caption])
    assert not app.exception and "**b**" not in shown and "<script>" not in shown
