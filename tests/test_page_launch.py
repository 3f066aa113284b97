"""The Launch page: what is typed reaches the draft on disk, and a click launches one run."""

from typing import Any

import pytest
from made import made_job, open_page, texts, widget_of
from streamlit.testing.v1 import AppTest

from app import launch_view
from mixcpt.drafts import Draft, Drafts, Guess
from mixcpt.jobs import Jobs
from mixcpt.presets import BUDGETS, value_at
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace


def draft_on_disk(studio: Workspace, app: AppTest) -> Draft:
    draft = Drafts(studio).get(app.session_state["draft"])
    assert isinstance(draft, Draft)
    return draft


def go(app: AppTest) -> Any:
    return app.button(key=f"launch_go_{app.session_state['draft']}")


def test_an_empty_workspace_opens_and_measures_the_machine_once(studio: Workspace) -> None:
    app = open_page("launch")
    assert not app.exception and not open_page("launch").exception
    assert [job.kind for job in Jobs(studio).all()] == ["doctor"]
    assert "fetched when the run starts" in texts(app).replace("\\", "")


def test_a_machine_that_has_changed_since_is_measured_once_more(studio: Workspace) -> None:
    made_job(studio, "doctor", state="done")  # and what it measured is no longer so
    for _ in range(3):
        assert not open_page("launch").exception
    assert [job.state for job in Jobs(studio).all()] == ["done", "queued"]
    made_job(studio, "doctor", state="done")
    assert "Measure this machine again" in [button.label for button in open_page("launch").button]
    assert len(Jobs(studio).all()) == 3, "and by itself no more"


@pytest.mark.parametrize(
    ("kind", "key", "given", "path"),
    [
        ("number_input", "launch_mixture.budget_tokens", 20_000, "mixture.budget_tokens"),
        ("number_input", "launch_training.learning_rate", 5e-4, "training.learning_rate"),
        ("number_input", "launch_adapter.rank", 8, "adapter.rank"),
        ("selectbox", "launch_measures.on", "validation", "measures.on"),
        ("toggle", "launch_training.checkpoint_activations", True, "training.checkpoint_activations"),
        ("multiselect", "launch_evaluation.tasks", ["general"], "evaluation.tasks"),
    ],
)
def test_what_is_typed_lies_in_the_draft_and_is_shown_again(
    studio: Workspace, kind: str, key: str, given: Any, path: str
) -> None:
    app = open_page("launch")
    widget_of(app, kind, key).set_value(given).run()
    draft = draft_on_disk(studio, app)
    assert not app.exception and value_at(draft.stage, path) == given
    again = open_page("launch", draft=draft.id)
    assert widget_of(again, kind, key).value == given


def test_a_preset_changes_the_draft_and_own_values_say_so(studio: Workspace) -> None:
    app = open_page("launch")
    app.segmented_control(key="launch_budget").set_value("Taste").run()
    taste = next(preset for preset in BUDGETS if preset.name == "Taste")
    assert draft_on_disk(studio, app).stage.mixture.budget_tokens == taste.changes["mixture.budget_tokens"] == 4000
    tokens = widget_of(app, "number_input", "launch_mixture.budget_tokens")
    assert tokens.value == 4000
    tokens.set_value(4500).run()
    assert widget_of(app, "segmented_control", "launch_budget").value == "Own"


def test_what_does_not_fit_stays_typed_and_stops_the_launch(studio: Workspace) -> None:
    app = open_page("launch")
    app.number_input(key="launch_training.rows_at_once").set_value(3).run()
    assert "does not divide" in texts(app).replace("\\", "") and go(app).disabled
    assert app.number_input(key="launch_training.rows_at_once").value == 3
    assert draft_on_disk(studio, app).stage.training.rows_at_once == 1
    app.number_input(key="launch_training.rows_per_step").set_value(6).run()
    training = draft_on_disk(studio, app).stage.training
    assert (training.rows_at_once, training.rows_per_step) == (3, 6) and not go(app).disabled


def test_a_number_out_of_bounds_is_told_in_words_until_it_is_settled(studio: Workspace) -> None:
    app = open_page("launch")
    rate = "launch_training.learning_rate"
    app.number_input(key=rate).set_value(0.0).run()
    assert "Learning rate is 0, but must be greater than 0." in texts(app).replace("\\", "") and go(app).disabled
    assert app.number_input(key=rate).value == 0
    app.number_input(key=rate).set_value(1e-3).run()
    assert not app.error and not go(app).disabled
    assert draft_on_disk(studio, app).stage.training.learning_rate == 1e-3


def test_an_experiment_gets_a_name_that_can_be_a_folder(studio: Workspace) -> None:
    app = open_page("launch")
    app.text_input(key="launch_experiment").set_value("My Fiëld (2)").run()
    assert draft_on_disk(studio, app).experiment == "my-field-2"
    assert widget_of(app, "text_input", "launch_experiment").value == "my-field-2"
    assert "Kept as my-field-2" in texts(app).replace("\\", "")


def test_models_of_every_kind(studio: Workspace) -> None:
    app = open_page("launch")
    app.selectbox(key="launch_model").set_value("hub").run()
    assert go(app).disabled
    app.text_input(key="launch_model_hub").set_value("org/name").run()
    assert draft_on_disk(studio, app).stage.model.name == "org/name"
    app.selectbox(key="launch_model").set_value("folder").run()
    folder = studio.models / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    app.run().selectbox(key="launch_model_folder").set_value(str(folder)).run()
    assert draft_on_disk(studio, app).stage.model.name == str(folder)
    app.selectbox(key="launch_model").set_value("gemma-3-270m").run()
    assert app.button(key="launch_fetch").disabled
    app.checkbox(key="launch_terms").check().run()
    app.button(key="launch_fetch").click().run()
    fetch = [job for job in Jobs(studio).all() if job.kind == "fetch"]
    assert [job.payload for job in fetch] == [{"model": "gemma-3-270m", "accept_terms": True}]


def test_a_guess_is_kept_with_the_draft(studio: Workspace) -> None:
    app = open_page("launch")
    app.toggle(key="launch_guess").set_value(True).run()
    app.slider(key="launch_guess_domain_gain").set_value(30).run()
    app.slider(key="launch_guess_forgetting").set_value(-3).run()
    assert draft_on_disk(studio, app).guess == Guess(domain_gain=30, forgetting=-3)
    assert "**30 % fewer** bits per byte" in texts(app)
    app.toggle(key="launch_guess").set_value(False).run()
    assert draft_on_disk(studio, app).guess is None


def test_a_click_launches_one_run_and_the_form_goes_on_with_a_copy(studio: Workspace) -> None:
    app = open_page("launch")
    app.text_input(key="launch_name").set_value("<i>mine</i>").run()
    old = app.session_state["draft"]
    go(app).click().run()
    assert not app.exception
    (run,) = Runs(studio).all()
    assert run.info.name == "<i>mine</i>" and app.query_params["run"] == run.id
    assert app.session_state["draft"] != old and Drafts(studio).get(old).launched == run.id
    launched = open_page("launch", draft=old)
    assert launched.session_state["draft"] != old  # whoever comes back gets a copy
    assert len(Runs(studio).all()) == 1


def test_an_uploaded_file_replaces_the_settings_and_a_bad_one_changes_nothing(studio: Workspace) -> None:
    app = open_page("launch")
    draft = draft_on_disk(studio, app)
    key = f"launch_upload_{draft.id}"
    for bad in (b"[", b"a: 1", b"a: &x [1]\nb: *x", b"\xff\xfe\x00", b"mixture: {sources: []}"):
        app.file_uploader(key=key).upload("bad.yaml", bad).run()
        assert not app.exception and draft_on_disk(studio, app) == draft
        assert "bad.yaml" in texts(app).replace("\\", "")
    sly = b"model: {name: /etc}\nmixture: {sources: [{source: builtin/atlas, share: 1}]}"
    app.file_uploader(key=key).upload("sly.yaml", sly).run()
    assert "may not be read" in texts(app).replace("\\", "") and draft_on_disk(studio, app) == draft
    good = b"name: other\ncpt: {mixture: {sources: [{source: builtin/replay, share: 1}]}}"
    app.file_uploader(key=key).upload("good.yaml", good).run()
    assert draft_on_disk(studio, app).experiment == "other"
    assert list(draft_on_disk(studio, app).stage.mixture.target_tokens()) == ["builtin/replay"]


def test_a_fix_is_applied_by_its_button(studio: Workspace) -> None:
    app = open_page("launch")
    app.number_input(key="launch_training.learning_rate").set_value(0.01).run()
    assert go(app).disabled is False
    fix = next(button for button in app.button if button.label.startswith("Set learning rate"))
    fix.click().run()
    assert draft_on_disk(studio, app).stage.training.learning_rate == 1e-3
    assert widget_of(app, "number_input", "launch_training.learning_rate").value == 1e-3


def test_at_most_eight_fields_stand_outside_the_advanced_settings(studio: Workspace) -> None:
    app = open_page("launch")
    kinds = ("text_input", "selectbox", "number_input", "segmented_control")
    keys = {str(widget.key).removeprefix("launch_") for kind in kinds for widget in app.get(kind)}
    basic = {key for key in keys if "." not in key or key in launch_view._ON_THE_PAGE}
    assert len(basic) == 8
