"""The Runs page, empty and full: every field and every action."""

import pytest
from made import made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from app.words import plain
from mixcpt import guesses, recorded
from mixcpt.drafts import Drafts, Guess
from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace

NASTY = "<script>alert(1)</script> **x** $y$ :red[z]"


def shown(app: AppTest) -> list[str]:
    return list(app.dataframe[0].value["Run"]) if app.dataframe else []


def choose(app: AppTest, rows: list[int], cells: list[tuple[int, str]] | None = None) -> AppTest:
    """Tick rows of the history, or click a cell."""
    key = app.dataframe[0].proto.id.rpartition("-")[2]
    app.session_state[key] = {"selection": {"rows": rows, "columns": [], "cells": cells or []}}
    return app.run()


def test_without_runs_it_says_what_to_do(studio: Workspace) -> None:
    app = open_page("runs")
    assert "No runs yet" in texts(app) and not app.exception and not app.dataframe


def test_history_is_newest_first_and_names_are_as_typed(studio: Workspace) -> None:
    for name in ("old", NASTY, "new"):
        made_run(studio, name=name)
    app = open_page("runs")
    assert shown(app) == ["new", NASTY, "old"] and not app.exception


def test_every_filter_and_the_order(studio: Workspace) -> None:
    made_run(studio, name="alpha", experiment="one", gain=0.1)
    made_run(studio, name="beta", experiment="two", gain=0.3).relabel(tags=["best"])
    made_run(studio, name="gamma", experiment="two", state="failed")
    app = open_page("runs")
    app.text_input(key="runs_filter").set_value("TWO be").run()
    assert shown(app) == ["beta"]
    app.text_input(key="runs_filter").set_value("").run()
    app.multiselect(key="runs_experiments").set_value(["two"]).run()
    assert shown(app) == ["gamma", "beta"]
    app.multiselect(key="runs_states").set_value(["failed"]).run()
    assert shown(app) == ["gamma"]
    app.multiselect(key="runs_tags").set_value(["best"]).run()
    assert shown(app) == [] and "None of the 3 runs fits" in texts(app)
    for key in ("runs_states", "runs_experiments"):
        app.multiselect(key=key).set_value([]).run()
    assert shown(app) == ["beta"]
    app.multiselect(key="runs_tags").set_value([]).run()
    app.selectbox(key="runs_order").set_value("by name").run()
    assert shown(app) == ["alpha", "beta", "gamma"]
    app.selectbox(key="runs_order").set_value("largest gain first").run()
    assert shown(app)[0] == "beta"


def test_a_click_opens_a_run(studio: Workspace) -> None:
    first, _ = made_run(studio), made_run(studio)
    app = choose(open_page("runs"), [], [(1, "Run")])
    assert app.query_params["run"] == first.id


def test_ticked_runs_are_compared(studio: Workspace) -> None:
    first, second = made_run(studio), made_run(studio)
    app = choose(open_page("runs"), [0, 1])
    app.button(key="runs_compare").click().run()
    assert app.query_params["runs"] == f"{second.id},{first.id}"


def test_ticked_runs_are_tagged(studio: Workspace) -> None:
    runs = [made_run(studio), made_run(studio)]
    runs[0].relabel(tags=["old"])
    app = choose(open_page("runs"), [0, 1])
    app.multiselect(key="runs_tag_new").set_value(["old"])
    app.button(key="runs_tag_save").click().run()
    assert [run.labels.tags for run in runs] == [("old",), ("old",)]


def test_delete_asks_first_and_takes_several(studio: Workspace) -> None:
    made_run(studio)
    keep = made_run(studio)
    app = choose(open_page("runs"), [1])
    app.button(key="runs_delete").click().run()
    assert "cannot be undone" in texts(app) and len(Runs(studio).all()) == 2
    app.button(key="runs_delete_yes").click().run()
    assert [run.id for run in Runs(studio).all()] == [keep.id] and not app.exception


def test_what_cannot_be_deleted_is_told(studio: Workspace) -> None:
    made_run(studio, state="running")
    app = choose(open_page("runs"), [0])
    app.button(key="runs_delete").click().run()
    app.button(key="runs_delete_yes").click().run()
    assert "is running: cancel it" in app.toast[0].value.replace("\\", "") and len(Runs(studio).all()) == 1


def test_an_unknown_run_is_one_sentence_and_a_way_back(studio: Workspace) -> None:
    app = open_page("runs", run="<b>nope</b>")
    assert "There is no run \\<b\\>nope\\</b\\>: it may have been deleted" in texts(app)
    app.button(key="runs_all").click().run()
    assert "run" not in app.query_params and "No runs yet" in texts(app)


@pytest.mark.parametrize("view", ["Curves", "What it read", "Questions", "Export", "Settings", "Log", "Files"])
@pytest.mark.parametrize("state", ["queued", "running", "done", "failed", "cancelled", "paused"])
def test_every_view_of_every_state_opens(studio: Workspace, view: str, state: str) -> None:
    run = made_run(studio, state=state, name=NASTY, message=NASTY)
    app = open_page("runs", run=run.id, runs_view=view)
    assert not app.exception and app.title[0].value == plain(NASTY)
    assert "**x**" not in "\n".join(
        str(element.value) for element in [*app.markdown, *app.caption, *app.error, *app.info]
    )


def test_name_and_tags_are_saved_as_typed(studio: Workspace) -> None:
    run = made_run(studio)
    run.relabel(tags=["a"])
    app = open_page("runs", run=run.id)
    app.text_input(key=f"runs_name_{run.id}").set_value(NASTY)
    app.multiselect(key=f"runs_tags_{run.id}").set_value([])
    app.button(key=f"runs_labels_save_{run.id}").click().run()
    assert (run.labels.name, run.labels.tags) == (NASTY, ())


def test_a_bad_name_is_told_and_kept_in_the_field(studio: Workspace) -> None:
    run = made_run(studio)
    app = open_page("runs", run=run.id)
    app.text_input(key=f"runs_name_{run.id}").set_value("be\x07ll")
    app.button(key=f"runs_labels_save_{run.id}").click().run()
    assert "cannot be seen" in texts(app) and run.labels.name == ""
    assert app.text_input(key=f"runs_name_{run.id}").value == "be\x07ll"


def test_cancel_and_pause(studio: Workspace) -> None:
    for key, wanted in (("runs_pause", "pause"), ("runs_cancel_yes", "cancel")):
        run = made_run(studio, state="running")
        app = open_page("runs", run=run.id)
        app.button(key=key).click().run()
        job = Jobs(studio).for_run(run.id)
        assert job and job.requested() == wanted and not app.exception


def test_resume_puts_it_back_once(studio: Workspace) -> None:
    run = made_run(studio, state="failed", message="It broke.")
    app = open_page("runs", run=run.id)
    assert "starts it again from the beginning" in texts(app)
    app.button(key="runs_resume").click().run()
    assert run.state(Jobs(studio)) == "queued" and [job.run for job in Jobs(studio).all()].count(run.id) == 2


def test_a_double_click_runs_it_again_once(studio: Workspace) -> None:
    run = made_run(studio)
    app = open_page("runs", run=run.id)
    app.button(key="runs_again").click().run()
    (new,) = [other for other in Runs(studio).all() if other.id != run.id]
    assert app.query_params["run"] == new.id and new.config == run.config
    app.query_params["run"] = run.id
    app.run().button(key="runs_again").click().run()
    assert len(Runs(studio).all()) == 2


def test_clone_makes_a_draft_of_the_settings(studio: Workspace) -> None:
    run = made_run(studio, experiment="trial")
    app = open_page("runs", run=run.id)
    app.button(key="runs_clone").click().run()
    draft = Drafts(studio).get(str(app.query_params["draft"]))
    assert (draft.stage, draft.experiment) == (run.config, "trial")


def test_a_recorded_run_is_cloned_into_an_experiment_of_ones_own(studio: Workspace) -> None:
    run = made_run(studio, experiment=recorded.EXPERIMENT)
    app = open_page("runs", run=run.id)
    assert "runs_again" not in [button.key for button in app.button]
    app.button(key="runs_clone").click().run()
    assert Drafts(studio).get(str(app.query_params["draft"])).experiment == "my-experiment"


def test_a_run_that_diverged_is_told_to_change_its_rate(studio: Workspace) -> None:
    run = made_run(studio, state="failed", message="The loss became nan at step 6: start again.")
    assert "lower the learning rate: the same settings would end the same way" in texts(open_page("runs", run=run.id))


def test_a_guess_and_its_outcome(studio: Workspace) -> None:
    run = made_run(studio)
    guesses.keep(run, Guess(domain_gain=20, forgetting=5))
    assert "Your guess" in texts(open_page("runs", run=run.id))


def test_questions_are_put_in_words(studio: Workspace) -> None:
    text = texts(open_page("runs", run=made_run(studio).id, runs_view="Questions"))
    assert "48 questions. The difference lies between -12 and +2 percentage points" in text and "may be chance" in text


def test_a_damaged_run_has_a_page(studio: Workspace) -> None:
    run = made_run(studio)
    (run.folder / "results.json").write_text("{")
    app = open_page("runs", run=run.id)
    assert "cannot be read" in texts(app) and not app.exception


def test_labels_written_elsewhere_are_shown_at_the_next_look(studio: Workspace) -> None:
    run = made_run(studio)
    app = open_page("runs")
    Run(run.folder).relabel(name="renamed")
    assert shown(app.run()) == ["renamed"]
