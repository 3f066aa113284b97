"""The whole story in Chromium: upload, mix, launch, watch, compare, note, export; with reloads, tabs and restarts."""

import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from browser import PATIENCE_S, Server, a_browser, go, pretend_built_in, running, settle, visit
from conftest import PROSE
from playwright.sync_api import Browser, Locator, Page, expect

from mixcpt.corpus import corpus_names
from mixcpt.drafts import default_stage
from mixcpt.jobs import Jobs
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.submission import submit_run
from mixcpt.workspace import Workspace, read_json

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
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """A page whose errors are the test's errors; what the network refuses while a server restarts is none. Where a
    test ended is to be seen in last.png of its folder."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    expect.set_options(timeout=1000 * PATIENCE_S)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.screenshot(path=tmp_path / "last.png")
    context.close()
    assert errors == []


@pytest.fixture
def server(workspace: Workspace, tiny_model_folder: Path) -> Iterator[Server]:
    pretend_built_in(workspace, tiny_model_folder)
    with running(workspace) as server:
        yield server


def by_key(page: Page, key: str) -> Locator:
    """The widget of this key."""
    return page.locator(f".st-key-{key}").first


def typed(page: Page, label: str) -> Locator:
    return page.get_by_role("textbox", name=label, exact=True)


def click(page: Page, key: str) -> None:
    by_key(page, key).locator("button").first.click()


def waited(what: str, done: Callable[[], object], seconds: float = 2 * PATIENCE_S) -> None:
    """Wait for something that happens on the disk."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.1)


def queue_tiny(workspace: Workspace, name: str = "tiny", tokens: int = 2048) -> Run:
    stage = override(default_stage(), TINY | {"mixture.budget_tokens": tokens})
    run = Runs(workspace).create(stage, experiment="tiny", arm="tiny", name=name)
    submit_run(workspace, run)
    return run


def state_of(run: Run, workspace: Workspace) -> str:
    return run.state(Jobs(workspace))


def trained(workspace: Workspace) -> list[Run]:
    return Runs(workspace).all()


def test_the_whole_story(server: Server, page: Page, tmp_path: Path) -> None:
    workspace = server.workspace
    visit(page, server.address)
    expect(page.get_by_role("heading", name="Mix-CPT Studio")).to_be_visible()

    go(page, "Corpora")
    for name, places in (("mills.md", range(30)), ("roads.md", range(30, 60))):
        (tmp_path / name).write_text("\n\n".join(PROSE.format(f"place {place}") for place in places))
    page.locator("input[type=file]").set_input_files([tmp_path / "mills.md", tmp_path / "roads.md"])
    expect(page.get_by_text("roads.md")).to_be_visible()
    expect(typed(page, "Name")).to_have_value("mills")  # suggested once the files are there
    typed(page, "Name").fill("my-mills")
    typed(page, "Name").press("Enter")
    settle(page)
    click(page, "corpora_add")
    waited("the corpus", lambda: "my-mills" in corpus_names(workspace))
    visit(page, f"{server.address}/corpora?corpus=my-mills")
    expect(page.get_by_text("tokens are held out")).to_be_visible()

    go(page, "Mixture")
    by_key(page, "mixture_add").locator("input").fill("my-mills")
    page.get_by_role("option", name=re.compile("my-mills")).click()
    strip = page.locator("[role=listbox][aria-label=tokens]")
    expect(strip).to_be_visible(timeout=2000 * PATIENCE_S)
    expect(strip.get_by_text("my-mills").first).to_be_visible()
    chip = strip.locator("[role=option]").nth(3)
    chip.click()
    expect(page.get_by_text("Learned: the model is asked")).to_be_visible()

    go(page, "Launch")
    typed(page, "Experiment").fill("story")
    typed(page, "Experiment").press("Enter")
    typed(page, "Name of this run (optional)").fill(NASTY)
    typed(page, "Name of this run (optional)").press("Enter")
    page.get_by_role("radio", name="Taste").or_(page.get_by_role("button", name="Taste")).first.click()
    expect(page.get_by_text("4,000 tokens: see once")).to_be_visible()
    expect(page.get_by_role("spinbutton", name="Training tokens")).to_have_value("4000")
    launch = page.get_by_role("button", name="Launch", exact=True)
    expect(launch).to_be_enabled(timeout=2000 * PATIENCE_S)
    launch.dblclick()
    expect(page.get_by_role("heading", level=1)).to_contain_text("<script>")
    assert page.title() != "taken"
    (run,) = trained(workspace)
    assert run.config.mixture.domain_sources() == ["my-mills"]
    assert run.config.mixture.budget_tokens == 4000

    expect(page.get_by_text("Gained and forgotten")).to_be_visible(timeout=2000 * PATIENCE_S)
    waited("the run's end", lambda: state_of(run, workspace) == "done", 4 * PATIENCE_S)
    expect(page.get_by_text("done").first).to_be_visible()
    expect(page.get_by_text(re.compile("^field: .* → ")).first).to_be_visible()  # the curve is that of the end
    page.get_by_role("button", name="Pin", exact=True).first.click()
    expect(page.get_by_role("button", name="Pinned").first).to_be_visible()

    go(page, "Compare")
    visit(page, f"{server.address}/compare?runs={run.id}")
    expect(page.get_by_text("Gain against forgetting").first).to_be_visible()

    visit(page, f"{server.address}/notebook?experiment=story")
    click(page, "notebook_write")
    note = typed(page, "Text in Markdown")
    note.fill(f"# What I saw\n\nIt works, {NASTY}")
    note.press("Control+Enter")
    click(page, "notebook_save")
    expect(note).to_have_count(0)
    settle(page)  # a download that is asked for while the page is being drawn is refused
    expect(page.get_by_role("heading", name="What I saw")).to_be_visible()
    assert page.title() != "taken"
    click(page, "notebook_export")
    with page.expect_download() as download:
        click(page, "notebook_export_ipynb")
    exported = json.loads(Path(download.value.path()).read_text())
    cells = "\n".join("".join(cell["source"]) for cell in exported["cells"])
    assert "What I saw" in cells
    assert run.id in cells


def test_a_reload_and_a_second_tab_in_mid_run_find_it_again(server: Server, page: Page) -> None:
    run = queue_tiny(server.workspace, tokens=40_000)
    visit(page, f"{server.address}/runs?run={run.id}")
    waited("the first steps", lambda: len(run.losses()) > 2)
    expect(page.get_by_text("running").first).to_be_visible()
    page.reload()
    settle(page)
    expect(page.get_by_text("running").first).to_be_visible()
    other = page.context.new_page()
    visit(other, f"{server.address}/runs?run={run.id}")
    tokens = other.get_by_test_id("stMetricValue").nth(4)
    before = tokens.inner_text()
    waited("more steps", lambda: len(run.losses()) > 12)
    expect(tokens).not_to_have_text(before)  # it moves by itself
    click(other, "runs_cancel")
    click(other, "runs_cancel_yes")
    waited("the cancel", lambda: state_of(run, server.workspace) == "cancelled")
    expect(page.get_by_text("cancelled").first).to_be_visible()  # the first tab sees it, too
    assert len(trained(server.workspace)) == 1
    other.close()


def test_typing_is_not_lost_while_a_run_is_live(server: Server, page: Page) -> None:
    run = queue_tiny(server.workspace, tokens=40_000)
    visit(page, f"{server.address}/runs?run={run.id}")
    waited("the first steps", lambda: len(run.losses()) > 2)
    click(page, "runs_rename")
    name = typed(page, "Name")
    name.fill("half typed")
    steps = len(run.losses())
    waited("more steps", lambda: len(run.losses()) > steps + 10)
    page.wait_for_timeout(3000)  # several refreshes
    assert name.input_value() == "half typed"


@pytest.mark.parametrize("crash", [False, True], ids=["stopped", "killed"])
def test_a_restarted_server_finds_the_run_still_going(server: Server, page: Page, crash: bool) -> None:
    run = queue_tiny(server.workspace, tokens=12_000)
    visit(page, f"{server.address}/runs?run={run.id}")
    waited("the first steps", lambda: len(run.losses()) > 2)
    (job,) = Jobs(server.workspace).all()
    worker = job.status.pid
    server.kill() if crash else server.stop()
    waited("steps without a server", lambda: len(run.losses()) > 8)
    server.start()
    visit(page, f"{server.address}/runs?run={run.id}")
    waited("its end", lambda: state_of(run, server.workspace) == "done")
    expect(page.get_by_text("done").first).to_be_visible()
    assert (job.status.attempt, job.status.pid) == (1, worker)
    steps = [record["step"] for record in run.losses()]
    assert steps == list(range(1, len(steps) + 1))  # nothing doubled, nothing lost


def drafts(workspace: Workspace) -> list[Any]:
    return [read_json(path) for path in (workspace.root / "drafts").glob("[!.]*.json")]


def is_in_a_draft(workspace: Workspace, name: str) -> bool:
    return name in [draft["name"] for draft in drafts(workspace)]


def test_two_clicks_at_once_both_count(server: Server, page: Page) -> None:
    """What is typed reaches the server when the next click takes the focus away, so two messages arrive together."""
    visit(page, f"{server.address}/launch")
    typed(page, "Name of this run (optional)").fill("typed")
    page.get_by_role("radio", name="Plain training").evaluate(
        "button => { document.activeElement.blur(); button.click() }"
    )
    page.get_by_role("radio", name="Taste").evaluate("button => button.click()")

    def kept() -> bool:
        (draft,) = drafts(server.workspace)
        stage = draft["stage"]
        budget, retention = stage["mixture"]["budget_tokens"], stage["objective"]["retention"]
        return (draft["name"], budget, retention) == ("typed", 4000, "none")

    waited("all three", kept)
    page.wait_for_timeout(5000)  # nothing that the browser still holds takes it back
    settle(page)
    assert kept()
    expect(typed(page, "Name of this run (optional)")).to_have_value("typed")
    expect(page.get_by_role("spinbutton", name="Training tokens")).to_have_value("4000")


def test_two_people_have_forms_of_their_own(server: Server, page: Page, browser: Browser) -> None:
    context = browser.new_context()
    other = context.new_page()
    for one, text in ((page, "mine"), (other, "yours")):
        visit(one, f"{server.address}/launch")
        name = typed(one, "Name of this run (optional)")
        name.fill(text)
        name.press("Enter")
        # Before a busy server has seen it, the page looks settled, and a reload would take back what was typed.
        waited(f"{text} in a draft", partial(is_in_a_draft, server.workspace, text))
    for one, text in ((page, "mine"), (other, "yours")):
        one.reload()
        settle(one)
        expect(typed(one, "Name of this run (optional)")).to_have_value(text)
    context.close()
