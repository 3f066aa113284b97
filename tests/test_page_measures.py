"""Measures taken anew on the pages: the tab of a run, and the plane of Compare with strengths, front and tolerance."""

import pytest
from made import made_job, made_run, open_page, texts
from streamlit.testing.v1 import AppTest
from test_measured import write
from test_strengths import measured_at

from mixcpt.jobs import Job, Jobs
from mixcpt.notebook import Notebook
from mixcpt.runs import Run
from mixcpt.workspace import Workspace, write_json


@pytest.fixture
def run(studio: Workspace) -> Run:
    return able(made_run(studio, arm="first"))


def able(run: Run) -> Run:
    """With a whole adapter, as far as its files tell."""
    write_json(run.adapter / "adapter_config.json", {})
    return run


def tab(run: Run) -> AppTest:
    app = open_page("runs", run=run.id, runs_view="Measures")
    assert not app.exception
    return app


def orders(studio: Workspace) -> list[Job]:
    return [job for job in Jobs(studio).all() if job.kind == "measure"]


def test_before_the_first_time_it_says_what_would_be_here(run: Run, studio: Workspace) -> None:
    app = tab(run)
    assert "Not measured again yet" in texts(app) and app.button(key="measures_again").label == "Measure"
    app.button(key="measures_again").click().run()
    (job,) = orders(studio)
    assert (job.run, job.payload["strengths"], job.payload["on"], job.payload["tokens"]) == (run.id, [1.0], [], 5000)
    assert "measures_again" not in [button.key for button in app.button], "the order is watched instead"
    app.button(key="measures_watch_cancel").click().run()
    assert orders(studio)[0].state == "cancelled" and not app.exception
    assert app.button(key="measures_again").label == "Measure"


def test_one_click_orders_a_curve_of_what_stands_in_the_form(
    run: Run, studio: Workspace, small_corpora: Workspace
) -> None:
    app = tab(run)
    assert app.multiselect(key="measures_on").options == ["field", "world"]
    app.multiselect(key="measures_on").set_value(["world"]).run()
    app.number_input(key="measures_tokens").set_value(2000).run()
    app.segmented_control(key="measures_strengths").set_value(11).run()
    command = "--strengths 0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1 --on world --tokens 2000"
    assert any(code.value == f"mixcpt measure {run.id} {command}" for code in app.code)
    app.button(key="measures_curve").click().run()
    (job,) = orders(studio)
    assert job.payload["on"] == ["world"] and job.payload["tokens"] == 2000 and len(job.payload["strengths"]) == 11


def test_the_table_says_of_each_text_how_sure_its_difference_is(run: Run) -> None:
    measured_at(run, 0.5, 1.0)
    write(run, "builtin/instructions", measure="kl", values=(1.0, 2.0))
    app = tab(run)
    bits, kl = (frame.value for frame in app.dataframe[:2])
    assert list(bits["Text"]) == [
        *("builtin/atlas", "builtin/general", "builtin/general-web", "all general text together")
    ]
    assert list(bits["Kind"]) == ["field", "prose", "web", "general"]
    assert list(bits["Difference"]) == pytest.approx([-1 / 3, 1 / 6, 1 / 6, 1 / 6])
    assert list(bits["Documents"]) == [2, 2, 2, 4] and list(bits["Tokens"]) == [28, 28, 28, 56]
    assert bits["95 % from"][0] == pytest.approx(-0.5) and bits["to"][0] == 0
    assert bits["So it"][0] == "the same within noise, of 2 documents only"
    assert list(kl["This run"]) == [pytest.approx(0.1)] and "Base" not in kl
    assert app.button(key="measures_again").label == "Measure again"
    app.segmented_control(key="measures_strength").set_value(0.5).run()
    assert app.dataframe[0].value["Difference"][0] == pytest.approx(-1 / 6)


def test_a_run_without_its_adapter_is_not_measured(studio: Workspace) -> None:
    app = tab(made_run(studio))
    assert "once it has its adapter" in texts(app) and not [b for b in app.button if b.key == "measures_again"]


def test_a_run_with_trained_matrices_has_no_curve(studio: Workspace, run: Run) -> None:
    path = run.folder / "config.yaml"
    path.write_text(path.read_text().replace("vocabulary: false", "vocabulary: true"))
    app = tab(run)
    assert app.button(key="measures_curve").disabled and not app.button(key="measures_again").disabled


def test_what_went_wrong_is_told(studio: Workspace, run: Run) -> None:
    made_job(studio, "measure", "failed", run=run.id, payload={"runs": [run.id]}, message="It needs *more* memory.")
    assert "The last measuring failed: It needs \\*more\\* memory" in tab(run).error[0].value


# ---- Compare ---------------------------------------------------------------------------------------------------------


def compared(*runs: Run) -> AppTest:
    app = open_page("compare", runs=",".join(run.id for run in runs))
    assert not app.exception
    return app


def test_a_button_measures_all_shown_runs(run: Run, studio: Workspace) -> None:
    other, recorded = able(made_run(studio, arm="other")), made_run(studio, arm="recorded")
    app = compared(run, other, recorded)
    assert app.segmented_control(key="compare_plane_of").value == "training"
    app.segmented_control(key="compare_plane_of").set_value("anew").run()
    assert "2 of 3 runs not measured" not in texts(app) and "2 of 3 not measured again yet" in texts(app)
    assert "1 cannot be: a run without its adapter" in texts(app)
    assert app.button(key="compare_measure_all").label == "Measure all 2"
    app.button(key="compare_measure_all").click().run()
    (job,) = orders(studio)
    assert job.payload["runs"] == [run.id, other.id] and job.payload["strengths"] == [0, 0.25, 0.5, 0.75, 1]
    assert not app.exception and app.button(key="compare_measuring_cancel")


def test_runs_with_curves_are_shown_by_them_at_once(run: Run, studio: Workspace) -> None:
    other = measured_at(able(made_run(studio, arm="other", seed=1)), 0.5, 1.0)
    app = compared(measured_at(run, 0.5, 1.0), other)
    assert app.segmented_control(key="compare_plane_of").value == "anew"
    assert "On 2 documents of the field and 4 of general text" in texts(app)
    app.selectbox(key="compare_kind").set_value("web").run()
    assert "2 documents of the field and 2 of general text" in texts(app) and not app.exception
    app.selectbox(key="compare_kind").set_value("code").run()
    assert "2 of 2 not measured again yet" in texts(app) and not app.exception


def test_the_forgetting_that_is_accepted_names_the_best_gain_within_it(run: Run, studio: Workspace) -> None:
    app = compared(measured_at(run, 0.5, 1.0))
    app.number_input(key="compare_tolerance").set_value(0.1).run()
    assert "**Within 0\\.1 bits per byte of forgetting, first at strength 0\\.5** gains most" in texts(app)
    app.number_input(key="compare_tolerance").set_value(0.01).run()
    assert "Within 0\\.01 bits per byte of forgetting nothing here gains anything" in texts(app)
    app.toggle(key="compare_front").set_value(True).run()
    app.segmented_control(key="compare_plane_of").set_value("training").run()
    assert not app.exception


def test_the_plane_that_is_shown_is_the_one_that_is_pinned(run: Run, studio: Workspace) -> None:
    app = compared(measured_at(run, 0.5, 1.0))
    app.button(key="compare_pin_strength_plane").click().run()
    assert [pin.chart for pin in Notebook(studio, "trial").read().pins] == ["strength_plane"]
    app.segmented_control(key="compare_plane_of").set_value("training").run()
    app.button(key="compare_pin_plane").click().run()
    assert [pin.chart for pin in Notebook(studio, "trial").read().pins] == ["strength_plane", "plane"]
