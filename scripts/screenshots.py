"""Pictures of the running studio for docs/screenshots: the recorded experiment, a corpus, a mixture, a run, stage two.

    make screenshots                    # or: python scripts/screenshots.py [--out docs/screenshots] [--all]

It starts a server over a workspace of its own with the built-in model, the recorded runs and the built-in corpora, and
takes every page at 1280x800 in the light theme; with --all also at 1920x1080 and in the dark theme. To have somebody to
talk to it trains a run for a moment, and it scores some samples, which takes two minutes together.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser

from mixcpt import doctor, mixture, recorded, score_jobs, submission, wire
from mixcpt.align_drafts import begin, stage_after
from mixcpt.cli_do import Follower
from mixcpt.client import QUICK_SECONDS, Client
from mixcpt.drafts import Drafts, default_stage
from mixcpt.exchanges import Sampling, Voice
from mixcpt.modelstore import ensure_model
from mixcpt.notebook import Notebook
from mixcpt.records import Message
from mixcpt.runs import Run, Runs
from mixcpt.settings import override
from mixcpt.supervisor import Supervisor
from mixcpt.tokens import TextTokenizer
from mixcpt.workspace import Workspace

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "tests"))
from browser import a_browser, running, visit  # noqa: E402 (the browser tests' server)

TOKENS = {"rows": "What the model reads", "mask": "What the trainer reads first"}
"""Pictures of tokens, by the heading above them."""
MOMENT = {"mixture.budget_tokens": 2048, "measures.every_steps": 0, "evaluation.tasks": []}
"""Settings of the run that is talked to."""
SCORED = 64
"""Samples."""
QUESTION = "What grows best in a shady garden?"
NOTE = """**Question:** does plain training forget, and what helps?

Plain training on the documents alone forgets most. Both LSSD and mixing in general text prevent it."""


def prepare(workspace: Workspace) -> dict[str, str]:
    """Fill the workspace; returns the address of each picture."""
    model = ensure_model(workspace, "smollm2-135m", progress=print)
    doctor.machine(workspace)
    recorded.add(workspace, recorded.STUDY)
    runs = recorded.add(workspace)
    draft = Drafts(workspace).create()
    mixture.prepare(workspace, draft.stage.mixture, TextTokenizer.from_folder(model))
    write_notebook(workspace, runs)
    ids = ",".join(run.id for run in runs)
    run, asked = converse(workspace)
    align = begin(workspace, stage_after(workspace, None, "sft", changes={"samples.rule.strategy": "random"}), None)
    return {
        "home": "",
        "corpora": "corpora",
        "corpus": "corpora?corpus=builtin-atlas",
        "mixture": f"mixture?draft={draft.id}",
        "rows": f"mixture?draft={draft.id}",
        "launch": f"launch?draft={draft.id}",
        "selection": f"selection?scores={score(workspace)}",
        "align": f"align?draft={align.id}",
        "mask": f"align?draft={align.id}",
        "runs": "runs",
        "run": f"runs?run={runs[1].id}",
        "compare": f"compare?runs={ids}",
        "studies": "studies",
        "study": f"studies?study={recorded.STUDY}",
        "talk": f"talk?run={run.id}&talk={asked}",
        "notebook": f"notebook?experiment={recorded.EXPERIMENT}",
    }


def converse(workspace: Workspace) -> tuple[Run, str]:
    """A run that was trained for a moment, and the id of an exchange in which it answers beside its base."""
    run = Runs(workspace).create(override(default_stage(), MOMENT), experiment="a-moment", name="trained for a moment")
    submission.finish(submission.submit_run(workspace, run), Supervisor(workspace), Follower())
    client = Client(workspace)
    id = client.ask([Voice(), Voice(run=run.id)], [Message("user", QUESTION)], sampling=Sampling(max_new_tokens=60))
    while not client.exchange(id).is_final:
        time.sleep(0.5)
    wire.call(client.ensure(), "quit", {}, QUICK_SECONDS)  # what was said lies on disk
    return run, id


def score(workspace: Workspace) -> str:
    """The id of scores of some instructions under the base."""
    job = score_jobs.submit(workspace, score_jobs.ScoreOrder(source="builtin/instructions", limit=SCORED))
    submission.finish([job], Supervisor(workspace), Follower())
    return score_jobs.table_of(job)


def write_notebook(workspace: Workspace, runs: list[Run]) -> None:
    notebook = Notebook(workspace, recorded.EXPERIMENT)
    notebook.save(notebook.begin(), NOTE)
    notebook.pin("plane", [run.id for run in runs], "Gain against forgetting, six ways of training")


def take(
    browser: Browser, address: str, pages: dict[str, str], out: Path, scheme: str, width: int, height: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page = context.new_page()
    suffix = "" if (scheme, width) == ("light", 1280) else f"-{scheme}-{width}"
    for name, path in pages.items():
        visit(page, f"{address}/{path}")
        page.wait_for_load_state("networkidle")
        page.wait_for_timeout(1500)  # charts are drawn after the page is
        if heading := TOKENS.get(name):
            page.get_by_role("heading", name=heading).evaluate("one => one.scrollIntoView()")
            page.locator(".chip").nth(12).click()
            page.wait_for_timeout(1500)
        page.screenshot(path=out / f"{name}{suffix}.png")
        print(out / f"{name}{suffix}.png")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "screenshots")
    parser.add_argument("--all", action="store_true", help="both themes at both sizes")
    parser.add_argument("--models", type=Path, help="a workspace's models folder to take the built-in model from")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    os.environ["OMP_NUM_THREADS"] = "1"  # as the server has it, which would measure the machine anew otherwise
    looks = [("light", 1280, 800)]
    if options.all:
        looks += [("dark", 1280, 800), ("light", 1920, 1080), ("dark", 1920, 1080)]
    with tempfile.TemporaryDirectory() as root:
        workspace = Workspace(root)
        if options.models:
            (workspace.models / "smollm2-135m").symlink_to(options.models.absolute() / "smollm2-135m")
        pages = prepare(workspace)
        with running(workspace) as server, a_browser() as browser:
            for scheme, width, height in looks:
                take(browser, server.address, pages, options.out, scheme, width, height)


if __name__ == "__main__":
    main()
