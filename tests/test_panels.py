"""The queue in the sidebar, live figures of a run, and stopping."""

import pytest
import streamlit
from made import made_job, made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from app import panels, state
from app.panels import STATES, WORK
from mixcpt.jobs import KINDS, Jobs
from mixcpt.runs import Runs
from mixcpt.workspace import Workspace


def sidebar(app: AppTest) -> str:
    return "\n".join(
        str(element.value) for element in [*app.sidebar.caption, *app.sidebar.markdown, *app.sidebar.error]
    )


def test_every_kind_and_state_has_words() -> None:
    assert set(KINDS) <= set(WORK)
    assert {"new", "queued", "running", "paused", "done", "failed", "cancelled", "damaged"} == set(STATES)


def test_the_sidebar_does_not_say_twice_what_is_done(studio: Workspace) -> None:
    made_job(studio, "doctor", state="running", message="measuring this machine")
    made_job(studio, "fetch", state="running", message="half of it is here")
    said = [caption.value for caption in open_page("launch").sidebar.caption]
    assert "measuring this machine" in said and "fetching a model: half of it is here" in said


def test_the_sidebar_is_quiet_when_idle(studio: Workspace) -> None:
    made_run(studio)
    app = open_page("runs")
    for job in Jobs(studio).all():  # the home page asked for a look at this machine
        job.update(state="done")
    app.run()
    assert sidebar(app) == "" and not app.sidebar.button


def test_the_sidebar_shows_what_runs_and_how_many_wait(studio: Workspace) -> None:
    run = made_run(studio, state="running", name="**mine** <b>")
    made_run(studio, state="queued")
    made_job(studio, "ingest", "queued", label="rust-book")
    app = open_page("runs")
    (button,) = app.sidebar.button
    assert button.label == "**\\*\\*mine\\*\\* \\<b\\>**"
    assert "3 waiting" in sidebar(app) and "about 56 seconds left" in sidebar(app)  # 6,880 tokens, 128/s, 2 s
    button.click().run()
    assert app.query_params["run"] == run.id


def test_a_dead_queue_is_told_and_can_be_started_again(studio: Workspace) -> None:
    app = open_page("runs")
    state.supervisor().error = OSError("disk *full*")
    app.run()
    assert "The queue has stopped: disk \\*full\\*" in sidebar(app)
    assert app.button(key="queue_restart")


def test_stopping_twice_is_as_stopping_once(studio: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    run = made_run(studio, state="queued")
    said: list[str] = []
    monkeypatch.setattr(streamlit, "toast", lambda text, icon: said.append(text))
    job = next(job for job in Jobs(studio).all() if job.kind == "train")
    panels.stop(job.id, "*mine*")
    panels.stop(job.id, "*mine*")
    assert run.state(Jobs(studio)) == "cancelled"
    assert said[0] == "Stopping \\*mine\\*."
    assert "nothing to cancel" in said[1]


def test_stopping_another_job_asks_that_job(studio: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamlit, "toast", lambda text, icon: None)
    job = made_job(studio, "ingest", "queued", label="x")
    panels.stop(job.id, "x")
    assert job.state == "cancelled"


def test_figures_of_a_running_run(studio: Workspace) -> None:
    run = made_run(studio, state="running", message="step 5 of 10")
    app = open_page("runs", run=run.id)
    values = {metric.label: metric.value for metric in app.metric}
    assert values["Tokens read"] == "5,120" and values["Speed"] == "128 tokens/s" and values["Memory"] == "2.0 GB"
    assert values["Time left"] == "~ 56 seconds"
    assert values["Gain in the field"].startswith("+0.") and "Took" not in values


def test_figures_of_a_queued_run_are_dashes(studio: Workspace) -> None:
    run = made_run(studio, state="queued")
    values = {metric.label: metric.value for metric in open_page("runs", run=run.id).metric}
    assert values["Tokens read"] == "0" and {values[name] for name in ("Loss", "Speed", "Time left", "Memory")} == {"–"}


def test_a_damaged_line_of_the_metrics_is_one_sentence(studio: Workspace) -> None:
    run = made_run(studio, state="running")
    lines = run.metrics.read_bytes().split(b"\n")
    run.metrics.write_bytes(b"\n".join([*lines[:2], b"{nonsense", *lines[2:]]))
    assert "is not JSON" in texts(open_page("runs", run=run.id))


def test_the_log_is_text(studio: Workspace) -> None:
    run = made_run(studio, state="failed", message="<script> **x**")
    app = open_page("runs", run=run.id, runs_view="Log")
    assert "train began\n<script> **x**" in texts(app)


def test_a_deleted_run_leaves_its_page_with_one_sentence(studio: Workspace) -> None:
    run = made_run(studio)
    app = open_page("runs", run=run.id)
    Runs(studio).delete(run)
    assert "may have been deleted" in texts(app.run())


def test_a_live_chart_is_another_one_after_a_new_point(studio: Workspace) -> None:
    """Streamlit 1.67 draws what a chart of one identity was first given, and nothing that comes later."""
    run = made_run(studio, state="running")
    app = open_page("runs", run=run.id)

    def charts() -> dict[str, str]:
        return {chart.proto.id: chart.proto.spec for chart in app.get("plotly_chart")}

    before = charts()
    assert charts() == before and len(before) == 5
    run.append({**run.losses()[-1], "step": 6, "tokens": 6144})
    app.run()
    after = charts()
    assert len(after) == 5 and before != after
    assert all(before[id] == after[id] for id in before.keys() & after.keys())
