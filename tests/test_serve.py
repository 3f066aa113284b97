"""The inference process as a process: its door, its life, and whose turn the machine is. With models of two layers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from adapted import adapted_run, end_process, roomy_model

from mixcpt import client as client_module
from mixcpt import serve, wire
from mixcpt.client import Client
from mixcpt.errors import BadInput, Busy, NotFound
from mixcpt.exchanges import BROKEN_OFF, Exchange, Sampling, Voice
from mixcpt.jobs import Jobs
from mixcpt.processes import find_process, lease_holder
from mixcpt.records import Message
from mixcpt.runs import Run
from mixcpt.supervisor import Supervisor
from mixcpt.wire import HOST, REQUEST_BYTES, Address, read_address
from mixcpt.workspace import Workspace

ROOT = Path(__file__).parent.parent
ASK = [Message("user", "Which river?")]
LONG = Sampling(max_new_tokens=2000)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    workspace = Workspace(tmp_path_factory.mktemp("serve") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield workspace
    end_process(workspace)


@pytest.fixture(scope="module")
def run(home: Workspace, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return adapted_run(home, roomy_model(tiny_model_folder, tmp_path_factory.mktemp("roomy") / "model"), name="wells")


@pytest.fixture
def client(home: Workspace) -> Client:
    return Client(home)


def until(condition: Callable[[], object], seconds: float = 90.0, step: Callable[[], None] = lambda: None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        step()
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ended(client: Client, id: str) -> Exchange:
    until(lambda: client.exchange(id).is_final)
    return client.exchange(id)


def writing(client: Client, run: Run) -> str:
    """An exchange that is being written and has a good while to go."""
    id = client.ask([Voice(run=run.id)] * 4, ASK, sampling=LONG)
    until(lambda: client.exchange(id).answers[0].ids or client.exchange(id).is_final)
    exchange = client.exchange(id)
    assert exchange.state == "writing", f"{exchange.state}: {exchange.message} {client.status()}"
    return id


def pid_of(client: Client) -> int:
    return client.ensure().pid


def raw(address: Address, sent: bytes) -> dict[str, str]:
    """What is answered to bytes that no client of ours would send."""
    with socket.create_connection((HOST, address.port), 30) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as reply:
            found: dict[str, str] = json.loads(reply.readline())
            return found


def test_a_question_is_answered_by_base_and_run(client: Client, run: Run) -> None:
    id = client.ask([Voice(), Voice(run=run.id)], ASK, sampling=Sampling(max_new_tokens=8))
    exchange = ended(client, id)
    assert exchange.state == "done" and exchange.message == ""
    assert [len(answer.nats) for answer in exchange.answers] == [2, 2]
    assert lease_holder(client.workspace) == "talk"
    client.unload()
    until(lambda: lease_holder(client.workspace) is None)
    assert client.status()["base"] is None


def test_it_listens_on_this_machine_only_and_its_secret_is_its_owners(client: Client) -> None:
    address = client.ensure()
    listening = [one.laddr for one in psutil.Process(address.pid).net_connections() if one.status == "LISTEN"]
    assert [(place.ip, place.port) for place in listening] == [(HOST, address.port)]
    assert (client.workspace.root / "serve" / "address.json").stat().st_mode & 0o777 == 0o600
    assert len(address.token) >= 40


def test_it_is_in_a_session_of_its_own_and_writes_to_its_log(client: Client) -> None:
    pid = pid_of(client)
    assert os.getsid(pid) == pid
    outputs = {os.readlink(f"/proc/{pid}/fd/{number}") for number in (1, 2)}
    assert outputs == {str(client.workspace.root / "serve" / "log.txt")}


@pytest.mark.parametrize("token", ["", "x", "x" * 43, None, 7, ["a"]])
def test_who_has_no_token_is_told_nothing(client: Client, token: object) -> None:
    request = {"do": "status"} | ({} if token is None else {"token": token})
    reply = raw(client.ensure(), json.dumps(request).encode() + b"\n")
    assert reply["error"] == "BadInput" and "no valid token" in reply["sentence"]


@pytest.mark.parametrize(
    "sent",
    [
        b"\n",
        b"hello\n",
        b"[1, 2]\n",
        b'"text"\n',
        b"\xff\xfe\n",
        b"[" * 5000,
        b"POST / HTTP/1.1\r\nHost: x\r\n\r\n{}",
        b'{"do"',
    ],
)
def test_what_is_no_request_is_told_so(client: Client, sent: bytes) -> None:
    reply = raw(client.ensure(), sent)
    assert reply["error"] == "BadInput" and "no JSON object on one line" in reply["sentence"]


def test_too_large_a_request_is_refused_and_the_next_one_answered(client: Client) -> None:
    before = pid_of(client)
    reply = raw(client.ensure(), b'{"token": "' + b"a" * (3 * REQUEST_BYTES) + b'"}\n')
    assert reply["error"] == "BadInput" and f"{REQUEST_BYTES:,} are the most" in reply["sentence"]
    with pytest.raises(BadInput, match="are the most"):
        client.ask([Voice()], [Message("user", "x" * 300_000)] * 4)
    assert client.status()["pid"] == before


def test_errors_arrive_as_what_they_are(client: Client) -> None:
    with pytest.raises(NotFound, match="no run 'cpt-nope'"):
        client.ask([Voice(run="cpt-nope")], ASK)
    with pytest.raises(NotFound, match="no exchange talk-0"):
        client.exchange("talk-0")
    with pytest.raises(BadInput, match="ends with no question"):
        client.ask([Voice()], [Message("assistant", "x")])


def test_a_stop_keeps_what_was_written(client: Client, run: Run) -> None:
    id = writing(client, run)
    client.stop(id)
    exchange = ended(client, id)
    assert exchange.state == "stopped" and exchange.answers[0].ids and not exchange.answers[0].nats
    client.stop(id)
    assert client.exchange(id).state == "stopped"


def test_losses_come_over_the_wire(client: Client, run: Run) -> None:
    found = client.losses(run.id, [*ASK, Message("assistant", "The Aller.")], template="question-answer")
    assert len({len(found[name]) for name in ("ids", "texts", "base", "adapted", "mask")}) == 1
    assert "".join(found["texts"]).endswith("Answer:\nThe Aller.<eos>") and sum(found["mask"]) == 11
    assert found["base"][0] == 0 and found["base"] != found["adapted"]
    assert (
        client.losses(None, [*ASK, Message("assistant", "x")], "none", model=run.config.model.name)["adapted"] is None
    )


def test_whoever_comes_later_finds_it_also_after_the_one_who_started_it_is_gone(workspace: Workspace) -> None:
    script = (
        "import sys; from mixcpt import client; from mixcpt.workspace import Workspace\n"
        "client.VERSION = sys.argv[2]\n"
        "print(client.Client(Workspace(sys.argv[1])).ensure().pid)"
    )
    command = [sys.executable, "-c", script, str(workspace.root), client_module.VERSION]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    try:
        status = Client(workspace).status()
        assert (status["running"], status["pid"]) == (True, int(done.stdout))
        assert pid_of(Client(workspace)) == status["pid"]
    finally:
        end_process(workspace)


def test_a_training_has_the_machine_within_seconds_and_is_named(client: Client, run: Run) -> None:
    jobs, supervisor = Jobs(client.workspace), Supervisor(client.workspace, handlers="tests.fake_handlers")
    go = client.workspace.root / "go"
    id = writing(client, run)
    job = jobs.submit("train", {"do": "wait", "go": str(go)}, run=run.id)
    submitted = time.monotonic()
    until(lambda: job.state == "running", step=supervisor.step)
    assert time.monotonic() - submitted < 8 and lease_holder(client.workspace) == job.id
    sentence = "Training wells has the machine; Talk goes on when it is done."
    exchange = ended(client, id)
    assert (exchange.state, exchange.message) == ("interrupted", sentence) and exchange.answers[0].text
    with pytest.raises(Busy, match=sentence):
        client.ask([Voice(run=run.id)], ASK)
    with pytest.raises(Busy, match=sentence):
        client.losses(run.id, [*ASK, Message("assistant", "x")])
    assert client.status()["busy"] == sentence and client.status()["base"] is None
    go.touch()
    supervisor.run_until([job.id], poll=0.05)
    again = client.ask([Voice(run=run.id)], ASK, sampling=Sampling(max_new_tokens=2))
    assert ended(client, again).state == "done"


def test_a_killed_process_is_told_of_and_the_next_question_starts_another(client: Client, run: Run) -> None:
    old, id = pid_of(client), writing(client, run)
    time.sleep(1.2)  # what was written is on disk after a second
    client.exchange(id)
    os.kill(old, signal.SIGKILL)
    until(lambda: not client.status()["running"])
    exchange = client.exchange(id)
    assert (exchange.state, exchange.message) == ("failed", BROKEN_OFF)
    assert exchange.question["messages"][0]["content"] == "Which river?" and exchange.answers[0].text
    until(lambda: lease_holder(client.workspace) is None)  # its files close with the last of its threads
    again = client.ask([Voice(run=run.id)], ASK, sampling=Sampling(max_new_tokens=2))
    assert pid_of(client) != old and ended(client, again).state == "done"
    assert client.exchange(id) == exchange


def test_a_terminated_process_leaves_whole_exchanges_and_no_address(client: Client, run: Run) -> None:
    address, id = client.ensure(), writing(client, run)
    os.kill(address.pid, signal.SIGTERM)
    until(lambda: find_process(address.pid, address.started) is None or not client.status()["running"])
    assert read_address(client.workspace) is None
    assert client.exchange(id).state == "interrupted" and client.exchange(id).answers[0].ended == "interrupted"


def test_one_of_another_version_is_replaced(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    old = pid_of(client)
    monkeypatch.setattr(client_module, "VERSION", "0.0.0")
    new = pid_of(client)
    assert new != old and pid_of(client) == new
    until(lambda: not psutil.pid_exists(old) or psutil.Process(old).status() == psutil.STATUS_ZOMBIE)


def test_there_is_only_one(client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pid = pid_of(client)
    monkeypatch.setattr(serve, "CONNECTION_SECONDS", 0.2)
    assert serve.main([str(client.workspace.root)]) == 2
    assert "is there already" in capsys.readouterr().err and pid_of(client) == pid


def test_it_ends_when_nobody_asks_for_long(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "home")
    command = [sys.executable, "-m", "mixcpt.serve", str(workspace.root), "--exit-after", "0.01"]
    assert subprocess.run(command, timeout=60).returncode == 0
    assert read_address(workspace) is None and not Client(workspace).status()["running"]


def test_one_that_cannot_start_says_why(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(Exception, match=r"could not be started \(it said nothing\): see .*log.txt"):
        Client(workspace).ensure()


def test_looking_starts_nothing(workspace: Workspace) -> None:
    assert Client(workspace).status()["running"] is False
    Client(workspace).unload()
    Client(workspace).stop("talk-0")
    with pytest.raises(NotFound):
        Client(workspace).exchange("talk-0")
    assert read_address(workspace) is None and wire.serve_folder(workspace).is_dir()
