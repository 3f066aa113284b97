"""What the inference process does: takes questions, answers them in turn, and gives the machine up when a job wants it.

Questions wait in a queue and are answered one after the other by one thread; others only put questions in and tell how
far they are. What an exchange is told as is a copy made after each token, so nobody sees one half-changed. What this
gives up: two models answering at the same time, for which one machine would only be half as fast each.
"""

import contextlib
import os
import queue
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixcpt.errors import BadInput, Busy, Interrupted, MixcptError
from mixcpt.exchanges import BROKEN_OFF, Exchange, Exchanges, Question, Turn, to_dict
from mixcpt.processes import lease
from mixcpt.prompts import Base, Prepared, base_of, form_of, prepare
from mixcpt.queue import TALK, at_machine, in_words, next_for_machine, taken
from mixcpt.records import Message
from mixcpt.runs import Run, Runs
from mixcpt.score_jobs import require_adapter
from mixcpt.settings import Config, validate
from mixcpt.workspace import Workspace

if TYPE_CHECKING:
    from mixcpt.resident import Resident

WATCH_SECONDS = 0.25
PATIENCE_SECONDS = 15.0
"""So long a job that could start is waited for. When it has not started by then, nobody works off the queue."""
SAVE_SECONDS = 1.0
WAITING = 16
LOSSES_SECONDS = 100.0


@dataclass(frozen=True)
class _Losses:
    """An order for the losses of one conversation, and where the answer goes."""

    base: Base
    run: Run | None
    template: str | None
    messages: list[Message]
    answer: "Future[dict[str, Any]]"


class LossesOrder(Config):
    """What `losses` is asked with."""

    run: str | None
    messages: list[Turn]
    template: str | None = None
    model: str = "smollm2-135m"


class Service:
    """What the process does; `work` in one thread, `watch` in another, the requests in any.

    Args:
        unload_after, exit_after: seconds without a question.
    """

    def __init__(self, workspace: Workspace, unload_after: float, exit_after: float):
        self.workspace = workspace
        self.exchanges = Exchanges(workspace)
        self.ending = threading.Event()
        self._unload_after, self._exit_after = unload_after, exit_after
        self._orders: queue.Queue[Prepared | _Losses] = queue.Queue()
        self._shown: dict[str, dict[str, Any]] = {}  # what is told of exchanges that are not on disk whole yet
        self._stopped: set[str] = set()
        self._wanted_by: str | None = None  # the sentence of the job that wants the machine
        self._first_seen: tuple[tuple[str, int], float] | None = None
        self._claim_lock = threading.Lock()
        self._unload_asked = threading.Event()
        self._last_used = time.monotonic()
        self._doing, self._current = "idle", ""
        self._resident: Resident | None = None
        self._lease = contextlib.ExitStack()
        for exchange in self.exchanges.unfinished():  # an earlier process was killed in the middle of these
            exchange.end("failed", BROKEN_OFF)
            self.exchanges.save(exchange)

    # ---- requests ----------------------------------------------------------------------------------------------------

    def answer(self, do: str, arguments: dict[str, Any]) -> Any:
        """Do what a request asks. Raises any MixcptError, which is sent back in its words."""
        requests: dict[str, Callable[..., Any]] = {
            "status": self.status,
            "ask": self.ask,
            "exchange": self.exchange,
            "stop": self.stop,
            "losses": self.losses,
            "unload": self.unload,
            "quit": self.ending.set,
        }
        if do not in requests:
            raise BadInput(f"There is no request {do!r}: the requests are {', '.join(requests)}.")
        try:
            return requests[do](**arguments)
        except TypeError as error:
            if error.__traceback__ and error.__traceback__.tb_next is None:  # of this very call
                raise BadInput(f"The request {do!r} cannot be read ({error}): see mixcpt.client.") from None
            raise

    def status(self) -> dict[str, Any]:
        """Keys as `Client.status` describes them."""
        resident = self._resident
        return {
            "running": True,
            "pid": os.getpid(),
            "doing": self._doing,
            "exchange": self._current or None,
            "waiting": self._orders.qsize(),
            "base": str(resident.base) if resident else None,
            "runs": resident.runs if resident else [],
            "busy": self._claim(),
        }

    def ask(self, question: dict[str, Any]) -> str:
        """Put a question to the models; returns the id of its exchange at once."""
        asked = validate(Question, question, "the question")
        self._require_machine()
        prepared = prepare(self.workspace, asked)
        self._show(prepared.exchange)
        self.exchanges.save(prepared.exchange)
        self.exchanges.prune()
        self._order(prepared)
        return prepared.exchange.id

    def exchange(self, id: str) -> dict[str, Any]:
        shown = self._shown.get(id)
        return shown if shown is not None else to_dict(self.exchanges.get(id))

    def stop(self, id: str) -> None:
        """End an exchange where it is; one that has ended stays as it is."""
        self.exchanges.get(id)
        if id in self._shown:
            self._stopped.add(id)

    def losses(self, **order: Any) -> dict[str, Any]:
        """Losses token by token, see `talk.losses`; returns when they are known."""
        wanted = validate(LossesOrder, order, "the request")
        self._require_machine()
        run = None if wanted.run is None else Runs(self.workspace).get(wanted.run)
        if run:
            require_adapter(run)
        base = base_of(self.workspace, run, wanted.model)
        messages = [Message(turn.role, turn.content) for turn in wanted.messages]
        found: Future[dict[str, Any]] = Future()
        self._order(_Losses(base, run, wanted.template, messages, found))
        try:
            return found.result(LOSSES_SECONDS)
        except TooLate:
            found.cancel()
            raise Busy("The models are still answering other questions: try again in a while.") from None

    def unload(self) -> None:
        """Free the model, in a moment; what is being written is stopped."""
        if self._current:
            self._stopped.add(self._current)
        self._unload_asked.set()

    def _require_machine(self) -> None:
        if busy := self._claim():
            raise Busy(busy)
        if self._orders.qsize() >= WAITING:
            raise Busy(f"{WAITING} questions wait already: wait for their answers.")

    def _order(self, order: "Prepared | _Losses") -> None:
        self._last_used = time.monotonic()
        self._orders.put(order)

    # ---- whose turn it is --------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Look at the queue until the end, so that a job never waits long for the machine."""
        while not self.ending.wait(WATCH_SECONDS):
            self._claim()

    def _claim(self) -> str | None:
        """In one sentence, the job that has the machine or could start at once; None when the machine is ours. The
        writing thread goes by the latest answer."""
        with self._claim_lock:
            self._wanted_by = self._look_around()
            return self._wanted_by

    def _look_around(self) -> str | None:
        if words := at_machine(self.workspace):
            self._first_seen = None
            return taken(words)
        job = next_for_machine(self.workspace)
        if job is None:
            self._first_seen = None
            return None
        attempt = (job.id, job.status.attempt)
        if self._first_seen is None or self._first_seen[0] != attempt:
            self._first_seen = attempt, time.monotonic()
        if time.monotonic() - self._first_seen[1] > PATIENCE_SECONDS:
            return None
        return taken(in_words(self.workspace, job))

    # ---- work --------------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Carry out the orders, one after the other, until the end."""
        try:
            while not self.ending.is_set():
                try:
                    order = self._orders.get(timeout=WATCH_SECONDS)
                except queue.Empty:
                    self._rest()
                    continue
                if isinstance(order, Prepared):
                    self._converse(order)
                elif order.answer.set_running_or_notify_cancel():
                    self._look(order)
                self._doing, self._current, self._last_used = "idle", "", time.monotonic()
                self._rest()
        finally:
            self._free()
            while not self._orders.empty():
                self._drop(self._orders.get())

    def _rest(self) -> None:
        """Between two orders: give the machine up when it is wanted, or when nobody asked for long."""
        idle = time.monotonic() - self._last_used
        asked = self._unload_asked.is_set()
        self._unload_asked.clear()
        if self._resident and (asked or self._wanted_by or idle > self._unload_after):
            on_gpu = self._resident.base.device == "cuda"
            self._free()
            if on_gpu:
                self.ending.set()
        if idle > self._exit_after:
            self.ending.set()

    def _converse(self, prepared: Prepared) -> None:
        exchange = prepared.exchange
        self._current = exchange.id
        saved = time.monotonic()

        def changed() -> None:
            nonlocal saved
            self._doing = exchange.state
            self._show(exchange)
            if time.monotonic() - saved > SAVE_SECONDS:
                self.exchanges.save(exchange)
                saved = time.monotonic()

        def check() -> None:
            if exchange.id in self._stopped:
                raise Interrupted("Stopped; what was written until then is kept.", "stopped")
            if self._wanted_by or self.ending.is_set():
                raise Interrupted(self._wanted_by or BROKEN_OFF, "interrupted")

        try:
            check()
            if not self._has(prepared.base):
                exchange.state, exchange.message = "loading", f"loading {prepared.base}"
                changed()
            from mixcpt import talk  # takes seconds the first time, so after something was said

            resident = self._load(prepared.base)
            exchange.message = ""
            talk.answer(resident, prepared, changed, check)
        except Interrupted as stop:
            exchange.end(stop.state, str(stop))
        except Busy as refusal:
            exchange.end("interrupted", str(refusal))
        except Exception as error:
            exchange.end("failed", self._in_words(error))
        self._close(exchange)

    def _look(self, order: _Losses) -> None:
        from mixcpt import talk

        self._doing = "scoring"
        try:
            resident = self._load(order.base)
            adapter = order.run.adapter if order.run else None
            form = form_of(order.base.folder, order.template, adapter)
            order.answer.set_result(talk.losses(resident, order.run, form, order.messages))
        except MixcptError as error:
            order.answer.set_exception(error)
        except Exception as error:
            order.answer.set_exception(MixcptError(self._in_words(error)))
        self._drop_broken()

    def _drop(self, order: "Prepared | _Losses") -> None:
        """What still waits when the process ends."""
        if isinstance(order, Prepared):
            order.exchange.end("interrupted", self._wanted_by or BROKEN_OFF)
            self._close(order.exchange)
        else:
            order.answer.set_exception(Busy(self._wanted_by or "The inference process has ended: try again."))

    def _show(self, exchange: Exchange) -> None:
        self._shown[exchange.id] = to_dict(exchange)

    def _close(self, exchange: Exchange) -> None:
        """What has ended is told from the disk."""
        self.exchanges.save(exchange)
        self._shown.pop(exchange.id, None)
        self._stopped.discard(exchange.id)
        self._drop_broken()

    def _in_words(self, error: Exception) -> str:
        if isinstance(error, MixcptError):
            return str(error)
        traceback.print_exc()
        if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
            self._free()
            return "The memory was not enough for this: ask fewer models at once, or a shorter question."
        return f"{type(error).__name__}: {error} (details in serve/log.txt of the workspace)"

    # ---- the model ---------------------------------------------------------------------------------------------------

    def _has(self, base: Base) -> bool:
        return self._resident is not None and self._resident.base == base

    def _load(self, base: Base) -> "Resident":
        """The model in memory, loaded now if it is not yet. Raises Busy when a job was faster."""
        from mixcpt.resident import Resident

        if self._resident and self._has(base):
            return self._resident
        self._free()
        self._take_lease()
        print(f"loading {base}", flush=True)
        try:
            self._resident = Resident(base)
        except BaseException:
            self._lease.close()
            raise
        return self._resident

    def _take_lease(self) -> None:
        for _ in range(20):  # whoever only looks at the lease makes a single try fail now and then
            # nobody of ours looks at it between its being taken and its being named
            with self._claim_lock, contextlib.ExitStack() as stack:
                if stack.enter_context(lease(self.workspace, TALK)) is not None:
                    self._lease = stack.pop_all()
                    return
            time.sleep(0.05)
        raise Busy(self._claim() or taken("another program"))

    def _drop_broken(self) -> None:
        if self._resident and self._resident.broken:
            self._free()

    def _free(self) -> None:
        """Let go of the model, its memory and the lease."""
        if self._resident is None:
            return
        from mixcpt.resident import release_memory

        print(f"unloading {self._resident.base}", flush=True)
        self._resident = None
        release_memory()
        self._lease.close()
