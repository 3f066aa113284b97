"""The second stage in Chromium: score, choose, align twice, see the chain, ask all stages at once, take it along."""

import zipfile
from pathlib import Path

import pytest
from adapted import end_process
from browser import PATIENCE_S, Server, visit
from playwright.sync_api import Page, expect
from test_browser import browser, by_key, click, page, queue_tiny, server, state_of, typed, waited

from mixcpt import samples
from mixcpt.corpus import ingest_records
from mixcpt.records import Message, Record
from mixcpt.runs import Run, Runs
from mixcpt.scores import list_tables
from mixcpt.selection import open_selection
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

__all__ = ["browser", "page", "server"]  # fixtures

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


def add_samples(workspace: Workspace, tokenizer: TextTokenizer) -> None:
    """Short instructions `talk` and pairs `taste`: the tiny model's tokens are bytes."""
    talk = [
        Record(
            "instructions", messages=(Message("user", f"What is at place {n}?"), Message("assistant", f"A mill, {n}."))
        )
        for n in range(24)
    ]
    taste = [
        Record(
            "preferences", messages=(Message("user", f"Is place {n} far?"),), chosen=f"Not far, {n}.", rejected="No."
        )
        for n in range(16)
    ]
    for name, records in (("talk", talk), ("taste", taste)):
        ingest_records(workspace, name, records, files=[], tokenizer=tokenizer)


def launched(page: Page, workspace: Workspace, before: int) -> Run:
    """Mend by a click what stands in the way (the tiny model sees 256 tokens), click Launch, and wait for the end."""
    advice = page.get_by_role("button", name="Set longest sample to")
    advice.first.click()
    expect(advice).to_have_count(0)
    launch = page.get_by_role("button", name="Launch", exact=True)
    expect(launch).to_be_enabled(timeout=2000 * PATIENCE_S)
    launch.dblclick()
    waited("the run", lambda: len(Runs(workspace).all()) == before + 1)
    run = Runs(workspace).all()[-1]
    waited("the run's end", lambda: state_of(run, workspace) in ("done", "failed"), 4 * PATIENCE_S)
    assert state_of(run, workspace) == "done"
    assert len(Runs(workspace).all()) == before + 1  # a double click is one launch
    return run


def test_from_a_knowledge_run_to_talking_with_its_chain(
    server: Server, page: Page, tiny_tokenizer: TextTokenizer, tmp_path: Path
) -> None:
    workspace = server.workspace
    add_samples(workspace, tiny_tokenizer)
    knowledge = queue_tiny(workspace, name="what to know")
    visit(page, server.address)  # the first visitor wakes the queue
    waited("the knowledge stage", lambda: state_of(knowledge, workspace) == "done", 4 * PATIENCE_S)

    visit(page, f"{server.address}/selection?source=talk&under={knowledge.id}&template=alpaca")
    click(page, "selection_score_go")
    waited("the scores", lambda: list_tables(workspace), 4 * PATIENCE_S)
    scores = list_tables(workspace)[0]
    assert (scores["source"], scores["run"]) == ("talk", knowledge.id)

    visit(page, f"{server.address}/selection?scores={scores['id']}")
    expect(by_key(page, "selection_histogram")).to_be_visible()
    name = typed(page, "Name of the selection")
    name.fill("easy-talk")
    name.press("Enter")
    click(page, "selection_save")
    expect(page.get_by_text("Saved as")).to_be_visible()
    chosen = open_selection(workspace, "easy-talk")
    assert 0 < len(chosen.ids) <= 24
    click(page, "selection_train")

    expect(page.get_by_role("heading", name="Align")).to_be_visible()
    expect(page.get_by_text("What the trainer reads first")).to_be_visible()
    expect(page.locator("[role=listbox][aria-label=tokens]").first).to_be_visible(timeout=2000 * PATIENCE_S)
    fine_tuned = launched(page, workspace, before=1)
    assert (fine_tuned.info.stage, fine_tuned.info.parent) == ("sft", knowledge.id)
    assert [row.id for row in samples.kept_samples(fine_tuned)] == chosen.ids

    visit(page, f"{server.address}/align?parent={fine_tuned.id}&stage=dpo")
    expect(page.get_by_text("a frozen copy of SFT run").first).to_be_visible()
    by_key(page, "align_source").locator("input").fill("taste")
    page.get_by_role("option", name="taste").click()
    preferring = launched(page, workspace, before=2)
    assert (preferring.info.stage, preferring.info.parent) == ("dpo", fine_tuned.id)
    assert preferring.config.model_dump()["preference"]["reference"] == fine_tuned.id

    visit(page, f"{server.address}/runs?run={preferring.id}")
    expect(page.get_by_text("Over the whole chain")).to_be_visible()
    expect(page.get_by_text("Rewards").first).to_be_visible()

    try:
        visit(page, f"{server.address}/talk?run={preferring.id}")
        box = by_key(page, "talk_input").locator("textarea")
        box.fill("What is at place 3?")
        box.press("Enter")
        expect(page.get_by_text("likely").first).to_be_visible(timeout=4000 * PATIENCE_S)
        page.reload()  # what was asked is still there
        expect(page.get_by_text("What is at place 3?").first).to_be_visible(timeout=2000 * PATIENCE_S)
    finally:
        end_process(workspace)

    visit(page, f"{server.address}/runs?run={preferring.id}")
    page.get_by_role("tab", name="Export").click()
    click(page, "export_start")
    expect(by_key(page, "export_zip").or_(by_key(page, "export_download")).first).to_be_visible(
        timeout=2000 * PATIENCE_S
    )
    if by_key(page, "export_zip").count():
        click(page, "export_zip")
    with page.expect_download() as download:
        click(page, "export_download")
    with zipfile.ZipFile(download.value.path()) as archive:
        names = {Path(name).name for name in archive.namelist()}
    assert {"adapter_model.safetensors", "chat_template.jinja", "README.md"} <= names
