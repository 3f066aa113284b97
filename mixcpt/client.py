"""Asking the inference process (`mixcpt.serve`), for pages and the command line. No torch.

The process is started when it is needed and found again by whoever comes later: its address lies in the workspace.
Every wait has an end, and what a process had written is read from the disk once it is gone. What this gives up:
knowing by which signal a process ended, for it is not always ours.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from mixcpt import __version__, wire
from mixcpt.errors import Unavailable
from mixcpt.exchanges import BROKEN_OFF, Exchange, Exchanges, Question, Sampling, Voice, from_dict
from mixcpt.processes import environment, find_process
from mixcpt.queue import at_machine, taken
from mixcpt.records import Message
from mixcpt.settings import validate
from mixcpt.wire import Address
from mixcpt.workspace import Workspace, locked

START_SECONDS = 60.0
QUICK_SECONDS = 5.0
ASK_SECONDS = 60.0
"""To read a large tokenizer, or to measure a machine that was not measured yet, takes a while."""
LOSSES_SECONDS = 120.0
ENDING_SECONDS = 2.0
LOG_BYTES = 5_000_000


def _code() -> str:
    """Which code this is: a process that runs another one, say from before an update, is replaced."""
    newest = max(path.stat().st_mtime_ns for path in Path(__file__).parent.glob("*.py"))
    return f"{__version__}-{newest:x}"


VERSION = _code()
_CHILDREN: list["subprocess.Popen[bytes]"] = []
"""Processes that were started here: asking how they are keeps zombies away."""


class Client:
    """The inference process of a workspace. Every method raises a `MixcptError` of one sentence, `Busy` when a job has
    the machine; none waits longer than two minutes."""

    def __init__(self, workspace: Workspace):
        self.workspace = workspace

    def status(self) -> dict[str, Any]:
        """How it stands; starts nothing.

        running: whether there is a process. doing: idle, loading, writing or scoring. exchange: the id of the one that
        is being answered. waiting: how many wait. base, runs: what is in memory. busy: the sentence of the job that
        has the machine, None when questions are taken.
        """
        address = self._living()
        if address:
            try:
                found: dict[str, Any] = wire.call(address, "status", {}, QUICK_SECONDS)
                return found
            except Unavailable:
                if not self._is_gone(address):
                    raise
        words = at_machine(self.workspace)
        nothing: dict[str, Any] = {
            "pid": None,
            "doing": "idle",
            "exchange": None,
            "waiting": 0,
            "base": None,
            "runs": [],
        }
        return {"running": False, **nothing, "busy": taken(words) if words else None}

    def ensure(self) -> Address:
        """The address of the process, which is started first when there is none.

        Raises:
            Unavailable: it cannot be started.
        """
        address = self._living()
        if address and address.version == VERSION:
            return address
        with locked(wire.serve_folder(self.workspace) / "start.lock"):
            address = self._living()
            if address and address.version != VERSION:
                wire.call(address, "quit", {}, QUICK_SECONDS)
                address = None
            return address or self._start()

    def ask(
        self,
        voices: Sequence[Voice],
        messages: Sequence[Message],
        *,
        after: str | None = None,
        template: str | None = None,
        sampling: Sampling | None = None,
        model: str = "smollm2-135m",
    ) -> str:
        """Ask several models; returns the id of the exchange at once. Arguments as those of `exchanges.Question`.

        Raises:
            BadInput, NotFound: it cannot be asked, and why. Busy: a job has the machine.
        """
        question = {
            "voices": voices,
            "messages": [asdict(message) for message in messages],
            "after": after,
            "template": template,
            "model": model,
            "sampling": sampling or Sampling(),
        }
        return self.put(validate(Question, question, "the question"))

    def put(self, question: Question) -> str:
        """As `ask`, of a question that was made before."""
        return str(self._call("ask", ASK_SECONDS, question=question.model_dump()))

    def exchange(self, id: str) -> Exchange:
        """An exchange as it stands now. Of a process that is gone, what it left.

        Raises:
            NotFound: there is none of this id.
        """
        address = self._living()
        if address:
            try:
                return from_dict(wire.call(address, "exchange", {"id": id}, QUICK_SECONDS))
            except Unavailable:
                if not self._is_gone(address):
                    raise
        exchange = Exchanges(self.workspace).get(id)
        if not exchange.is_final:
            exchange.end("failed", BROKEN_OFF)
        return exchange

    def stop(self, id: str) -> None:
        """End an exchange where it is; does nothing when it has ended."""
        if address := self._living():
            wire.call(address, "stop", {"id": id}, QUICK_SECONDS)

    def losses(
        self,
        run: str | None,
        messages: Sequence[Message],
        template: str | None = None,
        model: str = "smollm2-135m",
    ) -> dict[str, Any]:
        """Losses token by token of a conversation that ends with an answer, under the base and under a run.

        Args:
            run: its id; None asks the base `model` alone. template: as `templates.choose_template`, or "none".

        Returns:
            lists of equal length: ids; texts, of each token; base and adapted, -log p of each token in nats, 0 for the
            first (`adapted` is None without a run); mask, True where a label counts when a model is trained on it.
        """
        order = {"run": run, "messages": [asdict(one) for one in messages], "template": template, "model": model}
        found: dict[str, Any] = self._call("losses", LOSSES_SECONDS, **order)
        return found

    def unload(self) -> None:
        """Have it free its model and the machine, within a moment; does nothing when there is no process."""
        if address := self._living():
            wire.call(address, "unload", {}, QUICK_SECONDS)

    def _call(self, do: str, timeout: float, **arguments: Any) -> Any:
        """Ask the process; one that dies between being found and being asked is started anew, once."""
        address = self.ensure()
        try:
            return wire.call(address, do, arguments, timeout)
        except Unavailable as problem:
            if type(problem) is not Unavailable or not self._is_gone(address):
                raise
            return wire.call(self.ensure(), do, arguments, timeout)

    def _living(self) -> Address | None:
        """The address of the process that is there; None when it is gone."""
        _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
        address = wire.read_address(self.workspace)
        process = find_process(address.pid, address.started) if address else None
        try:
            return address if process and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None

    def _is_gone(self, address: Address) -> bool:
        """Whether it is gone; one that breaks off is given a moment, for its sockets close before it is gone."""
        deadline = time.monotonic() + ENDING_SECONDS
        while self._living() == address and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._living() != address

    def _start(self) -> Address:
        log = wire.serve_folder(self.workspace) / "log.txt"
        fresh = log.exists() and log.stat().st_size > LOG_BYTES
        with open(log, "wb" if fresh else "ab") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "mixcpt.serve", str(self.workspace.root), "--code", VERSION],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(self.workspace),
            )
        _CHILDREN.append(child)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and child.poll() is None:
            address = self._living()
            if address and address.pid == child.pid:
                return address
            time.sleep(0.05)
        last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2][-200:]
        raise Unavailable(f"The inference process could not be started ({last or 'it said nothing'}): see {log}.")
