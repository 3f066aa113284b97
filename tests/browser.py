"""The studio in a real browser: a real server over a workspace, and Chromium to click in it.

The workspace's built-in model is a random one of two layers, so that a training takes seconds and nothing is fetched.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from mixcpt.workspace import Workspace, write_json

ROOT = Path(__file__).parents[1]
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE_S = 60


def chromium() -> str:
    """The path of a Chromium; without one the test is skipped, but not on CI, where nothing may be skipped unseen."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    if found := os.environ.get("CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None):
        return found
    reason = "there is no Chromium: run `bash scripts/chromium.sh`, or set CHROMIUM to its path"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class Server:
    """The studio's server over a workspace, on a free port of this machine."""

    def __init__(self, workspace: Workspace, **environment: str):
        self.workspace = workspace
        self.environment = environment
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = workspace.root / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://localhost:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "streamlit", "run", "app/main.py", "--server.port", str(self.port)]
        environment = {**os.environ, "MIXCPT_HOME": str(self.workspace.root), "OMP_NUM_THREADS": "1"}
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=environment | self.environment, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            assert self._process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def stop(self) -> None:
        """As Ctrl-C does; workers go on."""
        assert self._process
        self._process.send_signal(signal.SIGINT)
        self._process.wait(PATIENCE_S)

    def kill(self) -> None:
        """As a crash does."""
        assert self._process
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/_stcore/health", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextmanager
def running(workspace: Workspace, **environment: str) -> Iterator[Server]:
    server = Server(workspace, **environment)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def a_browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


def visit(page: Page, address: str) -> None:
    """Open an address and wait until the page has been drawn."""
    page.goto(address)
    settle(page)


def settle(page: Page) -> None:
    """Wait until Streamlit has nothing to do, a running fragment aside."""
    page.wait_for_selector("h1", timeout=1000 * PATIENCE_S)
    page.wait_for_function(
        '() => !document.querySelector(\'[data-testid="stApp"][data-test-script-state="running"]\')',
        timeout=1000 * PATIENCE_S,
    )


def go(page: Page, title: str) -> None:
    """Click a page's name in the navigation."""
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=re.compile(title)).click()
    page.wait_for_function(
        "title => document.querySelector('h1')?.innerText.includes(title)", arg=title, timeout=1000 * PATIENCE_S
    )
    settle(page)


def pretend_built_in(workspace: Workspace, model_folder: Path) -> None:
    """Let the workspace have `model_folder` for its built-in model."""
    target = workspace.models / "smollm2-135m"
    shutil.copytree(model_folder, target)
    write_json(target / "mixcpt.json", {"name": "smollm2-135m", "source": "a test", "sha256": "", "licence": "none"})
