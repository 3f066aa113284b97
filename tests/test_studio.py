"""`mixcpt app` up to the moment when the server takes over, which is replaced here."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from made import made_job
from test_machine import PLAIN

from mixcpt import cli, machine, recorded, studio
from mixcpt.errors import BadInput, Unavailable
from mixcpt.jobs import Jobs
from mixcpt.roots import VARIABLE as ROOTS
from mixcpt.workspace import Workspace

Started = dict[str, Any]


@pytest.fixture
def started(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Started:
    """What the process would have become; the model is there, nobody listens."""
    became: Started = {}

    def become(program: str, command: list[str], environment: dict[str, str]) -> None:
        became.update(program=program, command=command, environment=environment, folder=Path.cwd())

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MIXCPT_HOME", str(workspace.root))
    monkeypatch.delenv(ROOTS, raising=False)
    monkeypatch.setattr(os, "execve", become)
    monkeypatch.setattr(studio, "is_there", lambda workspace, name: True)
    monkeypatch.setattr(studio, "ensure_model", lambda *_, **__: pytest.fail("the model is there"))
    return became


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_the_server_starts_where_its_settings_lie(
    started: Started, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    assert cli.main(["app", "--port", str(port), "--no-browser"]) == 0
    command = started["command"]
    assert started["program"] == command[0] == sys.executable and command[1:4] == ["-m", "streamlit", "run"]
    assert Path(command[4]).is_file() and (started["folder"] / ".streamlit" / "config.toml").is_file()
    options = dict(zip(command[5::2], command[6::2], strict=True))
    assert options == {
        "--server.port": str(port),
        "--server.address": "localhost",
        "--server.headless": "true",
        "--server.showEmailPrompt": "false",
    }
    assert started["environment"]["MIXCPT_HOME"] == str(workspace.root)
    out, err = capsys.readouterr()
    assert out == "" and f"http://localhost:{port}" in err and "Ctrl-C" in err and "login" not in err


def test_without_no_browser_a_window_opens() -> None:
    assert "--server.headless false" in " ".join(studio.command("localhost", 8501, browser=True))


def test_allowed_folders_become_roots(started: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("before", "a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv(ROOTS, str(tmp_path / "before"))
    cli.main(["app", "--port", str(free_port()), "--allow", "a", "--allow", str(tmp_path / "b")])
    roots = started["environment"][ROOTS].split(os.pathsep)
    assert roots == [str(tmp_path / name) for name in ("before", "a", "b")]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--allow", "nowhere"], "--allow 'nowhere' cannot be used"),
        (["--port", "0"], "--port 0 is none"),
        (["--port", "70000"], "--port 70000 is none"),
        (["--address", "no such host"], "--address 'no such host' is unknown"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    started: Started, workspace: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], part: str
) -> None:
    assert cli.main(["app", *arguments]) == 2
    assert part in capsys.readouterr().err and not started
    assert Jobs(workspace).all() == []


def test_a_port_that_is_taken_is_one_sentence(started: Started) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BadInput, match=rf"127\.0\.0\.1:{port} cannot be had .*another port"):
            studio.check_free("127.0.0.1", port)
    studio.check_free("127.0.0.1", port)


def test_any_other_address_is_warned_of(started: Started, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["app", "--address", "0.0.0.0", "--port", str(free_port())])
    err = capsys.readouterr().err
    assert "there is no login" in err and f"http://{socket.gethostname()}:" in err


def test_a_fresh_workspace_gets_what_the_first_page_shows(started: Started, workspace: Workspace) -> None:
    for _ in range(2):
        studio.prepare(workspace, print)
    assert [job.kind for job in Jobs(workspace).all()] == ["doctor"], "one look at the machine is enough"
    assert list(workspace.runs.glob("cpt-*")) and (workspace.experiments / recorded.EXPERIMENT).is_dir()


def test_a_machine_that_is_known_is_not_measured(started: Started, workspace: Workspace) -> None:
    machine.keep(workspace, PLAIN)
    studio.prepare(workspace, print)
    assert Jobs(workspace).all() == []


def test_a_failed_look_is_tried_again(started: Started, workspace: Workspace) -> None:
    made_job(workspace, "doctor", "failed")
    studio.prepare(workspace, print)
    assert [job.state for job in Jobs(workspace).all()] == ["failed", "queued"]


def test_the_model_is_fetched_when_missing(
    started: Started, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(studio, "is_there", lambda workspace, name: False)
    monkeypatch.setattr(studio, "ensure_model", lambda workspace, name, progress: progress(f"Downloading {name}."))
    studio.prepare(workspace, said.append)
    assert said == ["Downloading smollm2-135m."]


def test_without_network_the_studio_starts_all_the_same(
    started: Started, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise Unavailable("The package cannot be downloaded: check the network.")

    monkeypatch.setattr(studio, "is_there", lambda workspace, name: False)
    monkeypatch.setattr(studio, "ensure_model", fail)
    assert cli.main(["app", "--port", str(free_port())]) == 0
    assert "check the network. The studio starts without it." in capsys.readouterr().err and started
