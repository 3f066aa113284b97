"""How the inference process is reached: an address on disk, and one line of JSON each way over a local socket.

    serve/address.json      who listens where, and the token that every request must carry; only its owner can read it

The process listens on 127.0.0.1 at a port that the system chose. Nothing is ever unpickled. One request a connection,
so a process that dies closes what it had open, and whoever waited is told at once. What this gives up: speed beyond a
few hundred requests a second, and being reached from other machines.
"""

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mixcpt import errors
from mixcpt.errors import BadInput, Damaged, MixcptError, Unavailable
from mixcpt.workspace import Workspace, read_json

HOST = "127.0.0.1"
REQUEST_BYTES = 1 << 20
"""The largest request that is read."""
_REPLY_BYTES = 64 << 20
_REFUSED = "The inference process broke off"
_ERRORS = {one.__name__: one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, MixcptError)}


@dataclass(frozen=True)
class Address:
    """A process (number and start time, as `processes.find_process` takes them), its port, its secret, and which code
    it runs."""

    pid: int
    started: float
    port: int
    token: str
    version: str


def serve_folder(workspace: Workspace) -> Path:
    """The folder of the inference process; only its owner may look into it."""
    folder = workspace.root / "serve"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_address(workspace: Workspace, address: Address) -> None:
    path = serve_folder(workspace) / "address.json"
    temporary = path.with_name(f".address.{os.getpid()}.{secrets.token_hex(4)}")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(file, "w", encoding="utf-8") as opened:
        json.dump(asdict(address), opened)
    os.replace(temporary, path)


def read_address(workspace: Workspace) -> Address | None:
    """None when no process has written one, or what stands there is none."""
    try:
        return Address(**read_json(workspace.root / "serve" / "address.json"))
    except (FileNotFoundError, Damaged, TypeError):
        return None


def remove_address(workspace: Workspace) -> None:
    (workspace.root / "serve" / "address.json").unlink(missing_ok=True)


def call(address: Address, do: str, arguments: dict[str, Any], timeout: float) -> Any:
    """Ask the process to `do` something; what it answers.

    Args:
        timeout: seconds without a sign of it after which it is given up.

    Raises:
        BadInput: the request is too large. Unavailable: nobody answers there, or not in time. Any other `MixcptError`:
        what the process refused with, in its words.
    """
    request = json.dumps({"token": address.token, "do": do, **arguments}).encode()
    if len(request) >= REQUEST_BYTES:
        raise BadInput(too_large(len(request)))
    try:
        with socket.create_connection((HOST, address.port), timeout) as connection:
            connection.sendall(request + b"\n")
            with connection.makefile("rb") as reply:
                line = reply.readline(_REPLY_BYTES)
    except TimeoutError:
        raise Unavailable(f"The inference process did not answer within {timeout:.0f} seconds: try again.") from None
    except OSError as error:
        raise Unavailable(f"{_REFUSED} ({error.strerror or error}): ask again, it is started anew.") from None
    return _understood(line)


def _understood(line: bytes) -> Any:
    try:
        reply = json.loads(line)
        if "error" in reply:
            error, sentence = str(reply["error"]), str(reply["sentence"])
        else:
            return reply["answer"]
    except (ValueError, TypeError, KeyError):
        raise Unavailable(f"{_REFUSED} in the middle of its answer: ask again, it is started anew.") from None
    raise _ERRORS.get(error, MixcptError)(sentence)


def answer(value: Any) -> bytes:
    """A reply as it goes over the wire."""
    return json.dumps({"answer": value}, allow_nan=False).encode() + b"\n"


def refusal(problem: MixcptError) -> bytes:
    """An error as it goes over the wire."""
    return json.dumps({"error": type(problem).__name__, "sentence": str(problem)}).encode() + b"\n"


def too_large(size: int) -> str:
    return f"The request has {size:,} bytes, and {REQUEST_BYTES:,} are the most: shorten the conversation."
