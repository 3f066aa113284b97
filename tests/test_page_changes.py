"""What a finished run learned and lost, on its page: the strips it opens with, the lists, the summary, questions."""

from dataclasses import replace
from typing import Any

import pytest
from losses_by_hand import changed, keep, losses
from made import made_job, made_run, open_page, texts
from streamlit.testing.v1 import AppTest
from test_answers import ONE
from test_page_measures import able

from app import changes_view
from mixcpt import answers, token_losses
from mixcpt.jobs import Jobs
from mixcpt.notebook import Notebook
from mixcpt.runs import Run
from mixcpt.workspace import Workspace

NASTY = "<b>*x*</b> $y$ stands."


@pytest.fixture
def run(studio: Workspace) -> Run:
    return able(made_run(studio, arm="first"))


@pytest.fixture
def strips(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The chips of every strip that was drawn, by its key; none was clicked."""
    drawn: dict[str, Any] = {}
    monkeypatch.setattr(changes_view, "token_strip", lambda chips, *, key, **rest: drawn.__setitem__(key, chips))
    return drawn


def tab(run: Run) -> AppTest:
    app = open_page("runs", run=run.id, runs_view="Learned and lost")
    assert not app.exception
    return app


def table(app: AppTest, column: str) -> Any:
    return next(frame.value for frame in app.dataframe if column in frame.value)


def test_a_run_opens_with_one_thing_learned_and_one_lost(run: Run, strips: dict[str, Any]) -> None:
    app = open_page("runs", run=changed(run).id)
    assert not app.exception
    assert "#### One thing it learned" in texts(app) and "#### One thing it lost" in texts(app)
    learned = {chip.text: chip for chip in strips["changes_strip_learned"]}
    town = learned[" Zwemfune"]
    assert (town.group, town.value, town.is_faint) == (0, 0.75, False)
    assert town.detail == "base 2.00 nats (14 %), this run 0.50 nats (61 %): -1.50"
    assert learned[" grinds"].is_faint and learned[" grinds"].group == 2, "its context"
    road = next(chip for chip in strips["changes_strip_lost"] if chip.text == " road")
    assert (road.group, road.value) == (1, 0.5)
    said = texts(app).replace("\\", "")
    assert "2.00 → 1.75 nats a token over 6 tokens" in said
    assert "From the field: builtin/atlas, document builtin/atlas 0" in said
    assert "From general text, prose: builtin/general, document builtin/general 0" in said


def test_before_it_was_measured_one_button_takes_the_measure(run: Run, studio: Workspace) -> None:
    app = open_page("runs", run=run.id)
    assert "What did it learn, and what did it lose?" in texts(app)
    app.button(key="changes_measure").click().run()
    (job,) = [job for job in Jobs(studio).all() if job.kind == "measure"]
    assert (job.run, job.payload["strengths"]) == (run.id, [1.0]) and not app.exception
    assert "changes_measure" not in [button.key for button in app.button], "the order is watched instead"
    app.button(key="changes_watch_cancel").click().run()
    assert app.button(key="changes_measure").label == "Show me" and not app.exception


def test_what_went_wrong_is_told(run: Run, studio: Workspace) -> None:
    made_job(studio, "measure", "failed", run=run.id, payload={"runs": [run.id]}, message="It needs *more* memory.")
    assert "The last measuring failed: It needs \\*more\\* memory" in open_page("runs", run=run.id).error[0].value


def test_runs_that_cannot_be_measured_ask_for_nothing(studio: Workspace) -> None:
    app = tab(made_run(studio))
    assert "once the run has its adapter" in texts(app)
    assert "changes_measure" not in [button.key for button in app.button]
    running = open_page("runs", run=made_run(studio, state="running").id)
    assert "What did it learn" not in texts(running) and not running.exception


def test_the_lists_name_every_sentence_and_a_ticked_one_is_read_token_by_token(
    run: Run, strips: dict[str, Any]
) -> None:
    app = tab(changed(run))
    learned, lost = (frame.value for frame in app.dataframe if "Nats" in frame.value)
    assert list(learned["Nats"]) == [-1.5, -0.5, -0.25] and list(lost["Nats"]) == [1.0, 0.5, 0.25]
    assert list(lost["Text"]) == ["general text", "general text", "the field"]
    assert list(learned["Of all"]) == [75, 25, 100]
    app.segmented_control(key="changes_part").set_value("field").run()
    assert [list(frame.value["Nats"]) for frame in app.dataframe if "Nats" in frame.value] == [[-1.5, -0.5], [0.25]]
    assert not strips.get("changes_opened_learned")
    app.session_state["changes_learned"] = {"selection": {"rows": [1], "columns": [], "cells": []}}
    app.run()
    assert [chip.text for chip in strips["changes_opened_learned"] if chip.group == 0 and chip.value] == [" barley"]


def test_long_lists_are_paged(run: Run) -> None:
    text = "\n".join(f"word{number} here" for number in range(23))
    keep(run, losses(run, "builtin/atlas", [text], {f"word{number}": -1.0 - number for number in range(23)}))
    app = tab(run)
    assert list(table(app, "Nats")["Nats"]) == [-float(number) for number in range(23, 13, -1)]
    app.number_input(key="changes_page_learned").set_value(3).run()
    assert list(table(app, "Nats")["Nats"]) == [-3.0, -2.0, -1.0]
    assert "Became less likely: 0 sentences" in texts(app)
    assert "No sentence of the held-out text that was read became less likely" in texts(app)


def test_the_summary_says_how_sure_each_change_is(run: Run) -> None:
    lines = table(tab(changed(run)), "Tokens that are")
    assert list(lines["Tokens that are"])[:3] == ["all, builtin/atlas", "all, builtin/general", "the field's own terms"]
    assert lines["Change"][1] == pytest.approx(1.25 / 14) and lines["So it"][1].startswith("the same within noise")
    assert lines["Better"][2] == 100


def test_both_charts_are_pinned(run: Run, studio: Workspace) -> None:
    app = tab(changed(run))
    app.button(key="changes_pin_learned").click().run()
    app.button(key="changes_pin_kinds").click().run()
    assert [pin.chart for pin in Notebook(studio, "trial").read().pins] == ["changes", "change_kinds"]
    app = open_page("notebook", experiment="trial")
    assert not app.exception


def test_questions_are_counted_where_their_answers_were_kept(run: Run) -> None:
    assert "were not kept with this run" in texts(tab(changed(run)))
    answers.write(run, "general", [ONE, ONE, replace(ONE, base_right=1.0)])
    counted = table(tab(run), "Gained")
    assert (list(counted["Gained"]), list(counted["Kept right"])) == ([2], [1])


def test_text_stays_text(run: Run) -> None:
    keep(run, losses(run, NASTY, [NASTY], {"stands": -1.0}, documents=[NASTY]))
    app = tab(run)
    assert table(app, "Nats")["Sentence"][0] == NASTY and table(app, "Nats")["Document"][0] == NASTY
    for element in [*app.markdown, *app.caption]:
        assert "*x*" not in element.value.replace("\\*x\\*", "")


def test_a_damaged_file_is_told_and_the_page_stands(run: Run) -> None:
    token_losses.paths(changed(run))[0].write_bytes(b"nonsense")
    app = open_page("runs", run=run.id)
    assert "is damaged" in app.error[0].value and not app.exception and app.title
