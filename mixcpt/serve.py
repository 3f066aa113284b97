"""The inference process: one for each workspace, `python -m mixcpt.serve WORKSPACE`, started by `mixcpt.client`.

It holds one base model and the adapters of the runs that were asked, answers questions one after the other, and tells
everyone who carries its token how far it is (`mixcpt.wire`). While a model is loaded it has the accelerator's lease;
as soon as a job wants the machine it stops writing, frees memory and lease, and refuses until the job is done. It
outlives whoever started it, unloads the model when nobody asks for a while, and ends when nobody does for longer.

Torch is imported with the first model. On a GPU the process ends when it unloads, for only that gives back all of the
GPU's memory. Here are its door and its life; what it does is in `mixcpt.service`.
"""

import argparse
import contextlib
import fcntl
import hmac
import json
import os
import secrets
import signal
import socketserver
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil

from mixcpt import __version__, wire
from mixcpt.errors import BadInput, MixcptError
from mixcpt.service import Service
from mixcpt.workspace import Workspace

CONNECTION_SECONDS = 10.0


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, service: Service, token: str):
        super().__init__((wire.HOST, 0), _Handler)
        self.service, self.token = service, token.encode()


class _Handler(socketserver.StreamRequestHandler):
    """One connection: a line of JSON in, a line of JSON out."""

    server: _Server
    timeout = CONNECTION_SECONDS

    def handle(self) -> None:
        try:
            line = self.rfile.readline(wire.REQUEST_BYTES + 1)
            if len(line) > wire.REQUEST_BYTES:
                self._refuse_large()
            elif line:
                self.wfile.write(self._reply(line))
        except OSError:  # whoever asked is gone, or never finished asking
            pass

    def _reply(self, line: bytes) -> bytes:
        try:
            do, arguments = _read(line, self.server.token)
            return wire.answer(self.server.service.answer(do, arguments))
        except MixcptError as error:
            return wire.refusal(error)
        except Exception as error:
            traceback.print_exc()
            return wire.refusal(MixcptError(f"{type(error).__name__}: {error} (details in serve/log.txt)"))

    def _refuse_large(self) -> None:
        """Say so, and take in a while what still comes: a connection that is cut would lose the sentence."""
        self.wfile.write(wire.refusal(BadInput(wire.too_large(wire.REQUEST_BYTES + 1).replace("has", "has more than"))))
        for _ in range(64):
            if not self.rfile.read1(1 << 20):
                break


def _read(line: bytes, token: bytes) -> tuple[str, dict[str, Any]]:
    """What is asked, once the token is right.

    Raises:
        BadInput: it is not JSON, carries no or another token, or asks for nothing.
    """
    try:
        request = json.loads(line)
        given, do = str(request.pop("token", "")), str(request.pop("do", ""))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise BadInput("The request is no JSON object on one line: see mixcpt.client.") from None
    if not hmac.compare_digest(given.encode(errors="replace"), token):
        raise BadInput("The request carries no valid token: only who can read serve/address.json may ask.")
    return do, request


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mixcpt.serve", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--unload-after", type=float, default=10.0, metavar="MINUTES", help="without a question (10)")
    parser.add_argument("--exit-after", type=float, default=60.0, metavar="MINUTES", help="without a question (60)")
    parser.add_argument("--code", default=__version__, help="how whoever starts it calls the code that it runs")
    options = parser.parse_args(arguments)
    workspace = Workspace(options.workspace)
    with open(wire.serve_folder(workspace) / "lock", "a") as lock:
        if not _only_one(lock):
            print(f"An inference process of {workspace.root} is there already.", file=sys.stderr)
            return 2
        run(Service(workspace, 60 * options.unload_after, 60 * options.exit_after), options.code)
    return 0


def _only_one(lock: TextIO) -> bool:
    """Whether this is the workspace's only inference process; one that is just ending is waited for."""
    deadline = time.monotonic() + CONNECTION_SECONDS
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)
    return False


def run(service: Service, code: str) -> None:
    """Serve until the end. The address is written once somebody listens there, and taken away first of all."""
    signal.signal(signal.SIGTERM, lambda *_: service.ending.set())
    signal.signal(signal.SIGINT, lambda *_: service.ending.set())
    token = secrets.token_urlsafe(32)
    with _Server(service, token) as server:
        started = psutil.Process().create_time()
        wire.write_address(service.workspace, wire.Address(os.getpid(), started, server.server_address[1], token, code))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        threading.Thread(target=service.watch, daemon=True).start()
        try:
            service.work()
        finally:
            wire.remove_address(service.workspace)
            server.shutdown()


if __name__ == "__main__":
    sys.exit(main())
