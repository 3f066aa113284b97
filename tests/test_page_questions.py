"""What can be asked by the page: instructions, presets, and files of published data sets."""

import gzip
import json
import shutil

import pytest
from made import made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from mixcpt.evaluated import latest
from mixcpt.questions import kept_folder, read_questions
from mixcpt.runs import Run
from mixcpt.workspace import Workspace


@pytest.fixture
def run(studio: Workspace) -> Run:
    made = made_run(studio)
    (made.adapter / "adapter_config.json").write_text("{}")
    return made


def tab(run: Run) -> AppTest:
    app = open_page("runs", run=run.id, runs_view="Questions")
    assert not app.exception
    return app


def test_presets_say_what_they_need_and_are_ordered(studio: Workspace, run: Run) -> None:
    app = tab(run)
    options = app.multiselect(key="asked_tasks").options
    assert {"instructions", "preset:quick", "preset:paper"} <= set(options)
    app.multiselect(key="asked_tasks").set_value(["instructions", "preset:quick"]).run()
    said = texts(app).replace("\\", "").replace("\u2060", "")
    assert "4 of lm-eval's tasks with about 6,481 questions, which are fetched from the Hugging Face hub" in said
    app.button(key="asked_ask").click().run()
    (job,) = latest(studio, [run])
    assert not app.exception and job is not None
    assert job.payload["ask"]["tasks"] == ["instructions", "preset:quick"]


def test_a_packed_file_of_arc_is_taken_as_it_comes(studio: Workspace, run: Run) -> None:
    row = {"question": "Q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"}
    app = tab(run)
    content = gzip.compress(json.dumps(row).encode())
    app.file_uploader(key="asked_upload").upload("arc.jsonl.gz", content, "application/gzip").run()
    assert not app.exception and app.multiselect(key="asked_tasks").value == ["arc.jsonl"]
    assert read_questions(kept_folder(studio) / "arc.jsonl") == [{"question": "Q", "choices": ["a", "b"], "answer": 1}]


def test_the_launch_form_offers_them(studio: Workspace) -> None:
    app = open_page("launch")
    assert not app.exception
    assert {"instructions", "preset:quick", "preset:paper"} <= set(
        app.multiselect(key="launch_evaluation.tasks").options
    )


def test_all_runs_of_a_comparison_are_asked_at_once(studio: Workspace, run: Run) -> None:
    other, recorded = made_run(studio, arm="other", seed=1), made_run(studio, arm="recorded elsewhere")
    (other.adapter / "adapter_config.json").write_text("{}")
    shutil.rmtree(recorded.adapter)
    app = open_page("compare", runs=",".join(one.id for one in (run, other, recorded)))
    assert not app.exception
    assert any("Ask 2 of these runs more questions" in one.label for one in app.expander)
    app.multiselect(key="asked_tasks").set_value(["general"]).run()
    assert any(f"mixcpt evaluate {run.id} {other.id} --tasks general" in code.value for code in app.code)
    app.button(key="asked_ask").click().run()
    jobs = latest(studio, [run, other])
    assert not app.exception and [job.payload["ask"]["tasks"] for job in jobs] == [["general"], ["general"]]
    assert latest(studio, [recorded]) == []
    assert "2 of 3 runs are still to be asked" in texts(app)
