"""Address and wire: what is written where, and every way in which the other side can fail."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from mixcpt import wire
from mixcpt.errors import BadInput, Busy, MixcptError, NotFound, Unavailable
from mixcpt.wire import HOST, REQUEST_BYTES, Address, call, read_address, write_address
from mixcpt.workspace import Workspace


def address_of(port: int) -> Address:
    return Address(1, 2.0, port, "secret", "0")


@contextmanager
def answering(reply: Callable[[socket.socket], None]) -> Iterator[tuple[Address, list[bytes]]]:
    """A server that reads one line and then does `reply`; and the lines that it has read."""
    lines: list[bytes] = []
    with socket.create_server((HOST, 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, connection.makefile("rb") as given:
                lines.append(given.readline())
                reply(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield address_of(server.getsockname()[1]), lines
        thread.join(10)


def test_the_address_is_read_back_and_is_its_owners_alone(workspace: Workspace) -> None:
    assert read_address(workspace) is None
    for port in (1, 2):
        write_address(workspace, address_of(port))
        assert read_address(workspace) == address_of(port)
    path = workspace.root / "serve" / "address.json"
    assert path.stat().st_mode & 0o777 == 0o600 and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}', '{"pid": 1, "more": 2}'])
def test_what_is_no_address_counts_as_none(workspace: Workspace, text: str) -> None:
    (wire.serve_folder(workspace) / "address.json").write_text(text)
    assert read_address(workspace) is None


def test_a_request_carries_the_token_and_its_arguments() -> None:
    with answering(lambda to: to.sendall(wire.answer({"x": [1, "ü"]}))) as (address, lines):
        assert call(address, "look", {"at": "ü\n"}, 5) == {"x": [1, "ü"]}
    assert json.loads(lines[0]) == {"token": "secret", "do": "look", "at": "ü\n"} and lines[0].count(b"\n") == 1


@pytest.mark.parametrize("problem", [NotFound("no run"), Busy("training has it"), BadInput("too odd")])
def test_an_error_arrives_as_what_it_was(problem: MixcptError) -> None:
    with (
        answering(lambda to: to.sendall(wire.refusal(problem))) as (address, _),
        pytest.raises(type(problem), match=f"^{problem}$") as caught,
    ):
        call(address, "x", {}, 5)
    assert type(caught.value) is type(problem)


def test_an_error_that_is_not_known_is_still_a_sentence() -> None:
    reply = json.dumps({"error": "os.system", "sentence": "whatever"}).encode() + b"\n"
    with answering(lambda to: to.sendall(reply)) as (address, _), pytest.raises(MixcptError, match="whatever"):
        call(address, "x", {}, 5)


@pytest.mark.parametrize("reply", [b"", b"\n", b"{}\n", b"[]\n", b'{"answer": ', b"\xff\n"])
def test_a_reply_that_is_none_is_one_sentence(reply: bytes) -> None:
    with answering(lambda to: to.sendall(reply)) as (address, _), pytest.raises(Unavailable, match="broke off"):
        call(address, "x", {}, 5)


def test_nobody_there_and_nobody_who_answers() -> None:
    with socket.create_server((HOST, 0)) as server:
        address = address_of(server.getsockname()[1])
        with pytest.raises(Unavailable, match="did not answer within 0 seconds"):
            call(address, "x", {}, 0.2)
    with pytest.raises(Unavailable, match="broke off"):
        call(address, "x", {}, 1)


def test_too_large_a_request_is_not_sent() -> None:
    with pytest.raises(BadInput, match="1,048,576 are the most"):
        call(address_of(1), "x", {"text": "a" * REQUEST_BYTES}, 1)
