"""The Questions tab of a run: empty, with scores, with formats, asking more, and answer by answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from asked import MORE, write
from made import made_run, open_page, texts
from streamlit.testing.v1 import AppTest
from test_answers import ROWS
from test_evaluated import FORMAT, results

from app.words import plain
from mixcpt import answers, questions
from mixcpt.evaluated import latest
from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace

NASTY = "<script>alert(1)</script> **x** $y$ :red[z]"


def tab(run: Run) -> AppTest:
    return open_page("runs", run=run.id, runs_view="Questions")


def table(app: AppTest, column: str) -> dict[str, list[Any]]:
    """The table that has this column."""
    frame = next(frame.value for frame in app.dataframe if column in frame.value)
    return {str(name): list(frame[name]) for name in frame}


def only(app: AppTest, flips: list[str]) -> AppTest:
    """Choose which changes are shown."""
    pills: Any = app.get("button_group")[-1]
    changed: AppTest = pills.set_value(flips).run()
    return changed


@pytest.fixture
def run(studio: Workspace) -> Run:
    """A run with a trained adapter's files, asked an open set and its format."""
    made = made_run(studio)
    (made.adapter / "adapter_config.json").write_text("{}")
    found = results(0.2, 0.4, format={"own": FORMAT}, unavailable={"arc_easy": "It could not be had."})
    made.write_results("evaluation", found)
    answers.write(made, "wells", [replace(ROWS[0], question=NASTY), *ROWS[1:]])
    return made


def test_before_it_was_asked_it_says_when_it_will_be(studio: Workspace) -> None:
    assert "They are asked once the training is done." in texts(tab(made_run(studio, state="running")))


def test_every_score_stands_with_all_it_takes_to_believe_it(run: Run) -> None:
    app = tab(run)
    scores = table(app, "Guessing")
    assert scores["Question set"] == ["wells", "wells (exact)"]
    assert (scores["Base"], scores["This run"]) == ([20, 10], [40, 20])
    assert scores["95 % interval"] == ["+5 to +35", "\N{MINUS SIGN}5 to +20"]
    assert scores["So it is"] == ["hardly chance", "may be chance"]
    assert (scores["Guessing"], scores["Always the same"], scores["Questions"]) == ([0, 0], [10, 10], [40, 40])
    assert scores["Asked"][0].endswith("ago, fp32") and not app.exception
    assert "40 questions. The difference lies between +5 and +35 percentage points" in texts(app)
    assert "It could not be had" in texts(app)


def test_the_format_stands_check_by_check(run: Run) -> None:
    app = tab(run)
    formats = table(app, "Answers")
    assert formats["Answers"] == ["well formed", "ends by itself", "keeps to the template", "right length"]
    assert (formats["Base"], formats["This run"], formats["Gain"]) == ([25] * 4, [75] * 4, [50] * 4)
    assert "(median): 1.25 → 1.75" in texts(app) and "2.250 → 2.750 nats per token" in texts(app)


def test_the_runs_before_it_stand_beside(studio: Workspace, run: Run) -> None:
    child = Runs(studio).create(run.config, experiment="trial", parent=run.id, name=NASTY)
    child.write_results("evaluation", results(0.2, 0.6))
    scores = table(tab(child), "Guessing")
    assert scores[f"knowledge: {run.title}"] == [40, 20] and scores["This run"][0] == pytest.approx(60)


def test_a_run_of_an_older_version_is_shown(studio: Workspace) -> None:
    app = tab(made_run(studio))
    assert table(app, "Guessing")["Asked"] == ["at the end of the run"]
    assert "were not kept with this run" in texts(app) and "How this run was asked was not kept" in texts(app)


def test_answers_are_found_and_read_whole(run: Run) -> None:
    app = tab(run)
    assert table(app, "Change")["Change"] == ["wrong → right", "right → wrong", "wrong, as before"]
    assert table(app, "Change")["Question"][0] == NASTY
    assert table(app, "Change")["Base"][:2] == ["✗ the miller", "✓ the miller"]
    only(app, ["lost"])
    assert table(app, "Change")["Question"] == ["Where?"] and "1 of 3 questions" in texts(app)
    app.text_input(key="asked_find").set_value("book").run()
    assert "None of the 3 answers fits" in texts(app)
    only(app, [])
    app.text_input(key="asked_find").set_value("").run()
    app.session_state["asked_answers_wells"] = {"selection": {"rows": [0], "columns": [], "cells": []}}
    app.run()
    assert any(text.value == NASTY for text in app.text)
    assert ":material/check: the smith — *this run*" in texts(app)
    assert ":material/remove: the miller — *base*" in texts(app) and not app.exception


def test_gained_lost_and_kept_are_counted(run: Run) -> None:
    counted = table(tab(run), "Gained")
    assert (counted["Question set"], counted["Gained"], counted["Lost"]) == (["wells"], [1], [1])
    assert (counted["Kept right"], counted["Kept wrong"], counted["By chance"]) == ([0], [1], [100])
    assert "1 gained against 1 lost" in texts(tab(run)) and "may be chance" in texts(tab(run))


def test_answers_to_format_prompts_are_there_too(run: Run) -> None:
    answers.write(run, "format.own", [replace(ROWS[2], question="Say it.")])
    app = tab(run)
    app.selectbox(key="asked_set").set_value("format.own").run()
    assert table(app, "Change")["Question"] == ["Say it."]


def test_damaged_answers_are_one_sentence(run: Run) -> None:
    (run.folder / "answers" / "wells.jsonl").write_text("{")
    app = tab(run)
    assert "is damaged" in texts(app) and not app.exception and table(app, "Guessing")


def test_more_is_asked_by_a_job(studio: Workspace, run: Run, tmp_path: Path) -> None:
    kept = questions.kept_folder(studio) / "wells two.jsonl"
    write(kept, MORE)
    app = tab(run)
    app.multiselect(key="asked_tasks").set_value(["general", kept.name])
    app.number_input(key="asked_items").set_value(20)
    app.number_input(key="asked_prompts").set_value(5).run()
    app.multiselect(key="asked_templates").set_value(["own", "alpaca"]).run()
    command = next(code.value for code in app.code if code.value.startswith("mixcpt evaluate"))
    assert command == (
        f"mixcpt evaluate {run.id} --tasks 'general,{kept}' --items 20 --format 5 --templates own,alpaca"
    )
    app.button(key="asked_ask").click().run()
    (job,) = latest(studio, [run])
    assert job and job.payload["ask"] == {
        "tasks": ["general", str(kept)],
        "items": 20,
        "format_items": 5,
        "format_templates": ["own", "alpaca"],
    }
    assert run.state(Jobs(studio)) == "done"
    app.run()
    assert "asked_ask" not in [button.key for button in app.button], "one asking at a time"
    app.button(key="asked_cancel").click().run()
    assert job.state == "cancelled" and not app.exception


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([], "There is nothing to ask"),
        (["/etc/passwd"], "may not be read"),
        (["wells.jsonl"], "is unknown: take general, atlas, instructions, probes, probes:CORPUS,"),
        (["lm-eval:arc_esy"], "did you mean lm-eval:arc_easy"),
    ],
)
def test_what_cannot_be_asked_is_told_and_nothing_waits(
    studio: Workspace, run: Run, tasks: list[str], said: str
) -> None:
    app = tab(run)
    app.multiselect(key="asked_tasks").set_value(tasks).run()
    app.button(key="asked_ask").click().run()
    assert said in app.toast[0].value.replace("\\", "").replace("\u2060", "") and latest(studio, [run]) == []


def test_a_failed_asking_says_why(studio: Workspace, run: Run) -> None:
    app = tab(run)
    app.multiselect(key="asked_tasks").set_value(["general"]).run()
    app.button(key="asked_ask").click().run()
    (job,) = latest(studio, [run])
    assert job
    job.update(state="failed", message=NASTY)
    assert f"The last asking failed: {plain(NASTY)}" in texts(app.run())


def test_an_uploaded_file_is_kept_and_chosen(studio: Workspace, run: Run) -> None:
    content = b'{"question": "Who?", "answer": "me"}\n'
    app = tab(run)
    app.file_uploader(key="asked_upload").upload("../../my <b>wells</b>.jsonl", content, "application/jsonl").run()
    (kept,) = questions.kept_folder(studio).iterdir()
    assert kept.read_bytes() == content and kept.name == "b>.jsonl"
    assert app.session_state["asked_tasks"] == [kept.name] and not app.exception
    app.button(key="asked_ask").click().run()
    (job,) = latest(studio, [run])
    assert job and job.payload["ask"]["tasks"] == [str(kept)]


def test_an_uploaded_file_without_questions_is_refused(studio: Workspace, run: Run) -> None:
    app = tab(run)
    app.file_uploader(key="asked_upload").upload("x.jsonl", b"{", "application/jsonl").run()
    assert "Line 1 of x.jsonl is no question" in app.toast[0].value.replace("\\", "")
    assert not list(questions.kept_folder(studio).iterdir())


def test_a_run_without_its_adapter_cannot_be_asked(studio: Workspace, run: Run) -> None:
    (run.adapter / "adapter_model.safetensors").unlink()
    assert "asked_ask" not in [button.key for button in tab(run).button]


def test_the_plain_command_is_there_to_copy(studio: Workspace, run: Run) -> None:
    app = tab(run)
    (command,) = [code.value for code in app.code if code.value.startswith("lm_eval")]
    assert "mixcpt_wells" in command and str(run.adapter) in command
    found = run.results()["evaluation"]
    found["asked"]["wells"]["precision"] = "nf4"
    run.write_results("evaluation", found)
    assert "In 4 bits the plain command cannot hold the base" in texts(app.run())
