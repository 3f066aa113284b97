"""The whole story in Chromium: upload, mix, launch, watch, compare, note, export; with reloads, tabs and restarts."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import PATIENCE_S, Server, a_browser, go, pretend_built_in, running, settle, visit
from conftest import PROSE
from playwright.sync_api import Browser, Page, expect

from mixcpt.config import override
from mixcpt.drafts import default_stage
from mixcpt.jobs import Jobs
from mixcpt.recipes import submit_run
from mixcpt.runs import Run, Runs
from mixcpt.workspace import Workspace

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]
NASTY = "<script>document.title='taken'</script> **b** $x$ :red[r]"
TINY = {
    "mixture.budget_tokens": 2048,
    "mixture.row_tokens": 128,
    "training.rows_per_step": 1,
    "training.rows_at_once": 1,
    "training.checkpoint_steps": 2,
    "measures.every_steps": 4,
    "measures.domain_tokens": 64,
    "measures.general_tokens": 64,
    "measures.prompt_tokens": 64,
    "evaluation.tasks": [],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with a_browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose errors are the test's errors; what the network refuses while a server restarts is none."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture
def server(workspace: Workspace, tiny_model_folder: Path) -> Iterator[Server]:
    pretend_built_in(workspace, tiny_model_folder)
    with running(workspace) as server:
        yield server


def field(page: Page, label: str) -> object:
    return page.get_by_label(label, exact=True)


def waited(what: str, done: object, seconds: float = 2 * PATIENCE_S) -> None:
    """Wait for something that happens on the disk."""
    deadline = time.monotonic() + seconds
    while not done():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def queue_tiny(workspace: Workspace, **changes: object) -> Run:
    stage = override(default_stage(), TINY | {name.replace("__", "."): value for name, value in changes.items()})
    run = Runs(workspace).create(stage, experiment="tiny", arm="tiny")
    submit_run(workspace, run)
    return run


def state_of(workspace: Workspace, run: Run) -> str:
    return run.state(Jobs(workspace))
