"""The frame of the studio and what all its pages have in common."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from made import made_run, open_page, texts
from streamlit.testing.v1 import AppTest

from app import state
from mixcpt.drafts import Drafts
from mixcpt.workspace import Workspace

ROOT = Path(__file__).parents[1]
PAGES = ("home", "corpora", "mixture", "launch", "runs", "compare", "talk", "notebook")
HEAVY = ["torch", "transformers", "peft", "lm_eval", "datasets", "bitsandbytes", "trl"]
NASTY = "<script>alert(1)</script> **bold** $x^2$ :red[red] ![i](http://a.b/i.png)"


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_with_nothing_there(studio: Workspace, page: str) -> None:
    app = open_page(page)
    assert not app.exception
    assert len(app.title) == 1


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_with_everything_there(studio: Workspace, page: str) -> None:
    for run_state in ("done", "running", "queued", "failed", "cancelled", "paused"):
        made_run(studio, state=run_state, message="as it was made")
    app = open_page(page)
    assert not app.exception
    assert not app.error


@pytest.mark.parametrize("page", PAGES)
def test_names_are_shown_as_they_were_typed(studio: Workspace, page: str) -> None:
    """What Streamlit reads as Markdown must not hold the name unescaped; tables and plain text may."""
    made_run(studio, name=NASTY, arm=NASTY, state="failed", message=f"{NASTY} \x1b[31m")
    made_run(studio, name=NASTY, arm=NASTY)
    app = open_page(page)
    assert not app.exception
    for kind in ("markdown", "caption", "error", "warning", "info", "success", "button", "toggle", "metric"):
        for element in app.get(kind):
            shown = str(getattr(element, "value", "")) + str(getattr(element, "label", ""))
            assert "<script>" not in shown
            assert "**bold**" not in shown
            assert "$x^2$" not in shown


def test_no_page_imports_torch(tmp_path: Path) -> None:
    script = f"""
import sys
from made import made_run, open_page
from mixcpt.supervisor import Supervisor
from mixcpt.workspace import Workspace
Supervisor.start_thread = lambda self, poll=0.5: None
made_run(Workspace()); made_run(Workspace(), state="running")
for page in {PAGES!r}:
    app = open_page(page)
    assert not app.exception, (page, app.exception)
print(*[name for name in {HEAVY!r} if name in sys.modules])
"""
    environment = {**os.environ, "MIXCPT_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == []


def test_an_error_that_a_page_does_not_answer_is_a_sentence(studio: Workspace) -> None:
    made_run(studio)
    (studio.root / "runs" / next(iter(os.listdir(studio.runs))) / "metrics.jsonl").write_text("{broken\n")
    app = open_page("compare", runs=next(iter(os.listdir(studio.runs))))
    assert not app.exception


def test_a_reload_finds_the_draft_by_its_address(studio: Workspace) -> None:
    drafts = Drafts(studio)
    draft = drafts.create(experiment="mine")
    drafts.save(draft.model_copy(update={"name": "typed before the reload"}))

    def page() -> None:
        import streamlit as st

        from app import launch_view

        st.text(launch_view.current().name)

    app = AppTest.from_function(page)
    app.query_params["draft"] = draft.id
    assert app.run().text[0].value == "typed before the reload"


def test_an_address_with_a_draft_that_is_gone_begins_a_new_one(studio: Workspace) -> None:
    def page() -> None:
        import streamlit as st

        from app import launch_view

        st.text(launch_view.current().id)

    app = AppTest.from_function(page)
    app.query_params["draft"] = "draft-20200101-000000-00000"
    fresh = app.run().text[0].value
    assert fresh != "draft-20200101-000000-00000"
    assert Drafts(studio).get(fresh).id == fresh
    assert app.run().text[0].value == fresh


def test_the_workspace_is_the_one_of_the_environment(studio: Workspace) -> None:
    assert state.workspace().root == studio.root
    assert state.supervisor() is state.supervisor()


def test_the_server_listens_on_this_machine_only_and_the_theme_has_both_modes() -> None:
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["server"]["address"] == "localhost"
    assert config["browser"]["gatherUsageStats"] is False
    assert config["logger"]["hideWelcomeMessage"] is True, "else Streamlit offers a developers' kit on every page"
    assert {"light", "dark"} <= config["theme"].keys()


def test_home_says_what_it_is_in_words(studio: Workspace) -> None:
    assert "your own field" in texts(open_page("home"))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("file", ["run.json", "config.yaml", "results.json", "labels.json"])
def test_a_damaged_run_takes_no_page_along(studio: Workspace, page: str, file: str) -> None:
    made_run(studio)
    (made_run(studio).folder / file).write_text("[1]")
    app = open_page(page)
    assert not app.exception


def test_a_full_disk_is_told_in_words(studio: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, draft: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixcpt.drafts.Drafts.save", full)
    app = open_page("launch")
    assert not app.exception
    assert "No space left on device" in app.error[0].value
