"""The supervisor: starts queued jobs, each in a process of its own, and finds out how they ended.

Any number of supervisors may run at once, in the app and on the command line: each step holds jobs/.lock, so no job
starts twice. Workers live in their own sessions and outlive their supervisor; the next one sees them alive and follows
on. What this gives up: more than one job at a time on the accelerator, and any bound on the number of other jobs.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import psutil

from mixcpt.errors import Damaged, NotFound
from mixcpt.jobs import ACCELERATOR_KINDS, Job, Jobs, Status
from mixcpt.processes import environment, find_process, is_locked, kill_leftovers, lease
from mixcpt.workspace import Workspace, locked, now

OnChange = Callable[[Job], None]
ZOMBIE_GRACE = 10.0  # seconds in which only the parent of an ended worker, who knows how it ended, may judge it


_WAITED = "It was waiting for"


class Supervisor:
    """Step by hand with `step`, until something is done with `run_until`, or in a thread with `start_thread`.

    `handlers` names the module whose HANDLERS table the workers use. A worker that was asked to cancel may finish what
    it cannot leave, say a training step or a download: it is killed once its heart has not beaten for `cancel_grace`
    seconds, or `cancel_patience` seconds after it was asked, for the heart beats on while the handler hangs.
    """

    def __init__(
        self,
        workspace: Workspace,
        *,
        handlers: str = "mixcpt.worker",
        cancel_grace: float = 60.0,
        cancel_patience: float = 900.0,
    ):
        self.workspace = workspace
        self.jobs = Jobs(workspace)
        self.error: Exception | None = None  # what ended the thread of `start_thread`
        self._handlers = handlers
        self._cancel_grace = cancel_grace
        self._cancel_patience = cancel_patience
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def step(self) -> None:
        """Settle the jobs whose workers are gone, then start all that can start."""
        with locked(self.jobs.lock):
            ended = self._reap()
            jobs = self.jobs.all()
            for job in jobs:
                if job.state == "running":
                    self._reconcile(job, ended.get(job.id))
            self._start_ready(job for job in jobs if job.state == "queued")

    def run_until(self, job_ids: Iterable[str], on_change: OnChange = lambda job: None, poll: float = 0.5) -> None:
        """Step until none of these jobs moves any more and their workers are gone; `on_change` sees each new status."""
        jobs = [self.jobs.get(id) for id in job_ids]
        seen: dict[str, Status] = {}
        while True:
            self.step()
            for job in jobs:
                status = job.status
                if seen.get(job.id) != status:
                    seen[job.id] = status
                    on_change(job)
            if all(self.jobs.rests(job) and job.id not in self._children for job in jobs):
                return
            time.sleep(poll)

    def start_thread(self, poll: float = 0.5) -> None:
        """Step in a background thread until `stop`; does nothing while that thread lives."""
        if self._thread and self._thread.is_alive():
            return
        self.error = None
        self._stopping.clear()
        self._thread = threading.Thread(target=self._keep_stepping, args=(poll,), name="mixcpt-jobs", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread (the workers go on); raises what had ended it before."""
        self._stopping.set()
        if self._thread:
            self._thread.join()
        if self.error:
            raise self.error

    def _keep_stepping(self, poll: float) -> None:
        try:
            while not self._stopping.is_set():
                self.step()
                self._stopping.wait(poll)
        except Exception as error:  # a thread cannot raise to anyone: kept for `stop` and for the app to show
            self.error = error

    def _reap(self) -> dict[str, subprocess.Popen[bytes]]:
        """Own workers that have ended since; asking for them also keeps zombies away."""
        ended = {id: child for id, child in self._children.items() if child.poll() is not None}
        for id in ended:
            del self._children[id]
        return ended

    def _reconcile(self, job: Job, ended: subprocess.Popen[bytes] | None) -> None:
        status = job.status
        # What ended may be an earlier attempt: another supervisor may have started the next one since.
        code = ended.returncode if ended and ended.pid == status.pid else None
        if code is None and _worker_lives(job, status):
            self._press(job, status)
            return
        status = job.status  # read again: the worker may have written its end between the two looks
        if status.state == "running":
            kill_leftovers(status.pid, status.process_started)
            state = "cancelled" if job.requested() == "cancel" else "failed"
            job.update(state=state, message=_how_it_ended(job, code), ended=now())

    def _press(self, job: Job, status: Status) -> None:
        """Kill a worker that was asked to cancel long ago and does not: it may hang where it cannot poll."""
        if job.requested() != "cancel":
            return
        asked, silent = _age(job.request), _age(job.heartbeat)
        hangs = min(asked, silent) >= self._cancel_grace or asked >= self._cancel_patience
        if hangs and status.pid is not None and find_process(status.pid, status.process_started):
            with contextlib.suppress(ProcessLookupError):  # it ended at this very moment
                os.killpg(status.pid, signal.SIGKILL)

    def _start_ready(self, queued: Iterable[Job]) -> None:
        lease_tried = False  # only the oldest accelerator job may try, so that none overtakes it
        for job in queued:
            if not self._is_ready(job):
                continue
            if job.kind not in ACCELERATOR_KINDS:
                self._start(job, [])
            elif not lease_tried:
                lease_tried = True
                with lease(self.workspace, job.id) as descriptor:
                    if descriptor is not None:
                        self._start(job, [descriptor])

    def _is_ready(self, job: Job) -> bool:
        for id in job.after:
            try:
                earlier = self.jobs.get(id)
            except (NotFound, Damaged):
                self._fail(job, f"{_WAITED} {id}, which is gone or damaged: start that again, then this.")
                return False
            status = earlier.status
            if status.state in ("failed", "cancelled"):
                how = "was cancelled" if status.state == "cancelled" else "failed"
                goes_on = earlier.run is not None and earlier.run != job.run
                remedy = f" Resume that (`mixcpt resume {earlier.run}`), and this goes on too." if goes_on else ""
                told = status.message.startswith(_WAITED)  # of the one at the root of it all, with what helps
                why = f"{_WAITED} {earlier.name}, which {how}: {status.message}{remedy}"
                self._fail(job, status.message if told else why)
                return False
            if status.state != "done":
                return False
        return not is_locked(job.worker_lock)  # after a requeue, the worker before may still be on its way out

    def _start(self, job: Job, descriptors: list[int]) -> None:
        if before := self._children.pop(job.id, None):
            before.wait()
        job.request.unlink(missing_ok=True)
        job.heartbeat.touch()
        command = [sys.executable, "-m", "mixcpt.worker", str(job.folder), "--handlers", self._handlers]
        with open(job.log, "ab") as log:
            try:
                child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=descriptors,
                    env=environment(self.workspace),
                )
            except OSError as error:
                self._fail(job, f"No process could be started for it ({error}): close other programs and try again.")
                return
        # The worker waits for jobs/.lock, which we hold, and goes on only where it finds its own pid written.
        self._children[job.id] = child
        started = psutil.Process(child.pid).create_time()
        job.update(state="running", message="Starting", pid=child.pid, process_started=started, started=now())

    def _fail(self, job: Job, message: str) -> None:
        job.update(state="failed", message=message, ended=now())


def _worker_lives(job: Job, status: Status) -> bool:
    process = find_process(status.pid, status.process_started)
    if process is None:
        # Start times shift when the system's clock is set, so the lock, which cannot lie, has the last word.
        return is_locked(job.worker_lock)
    try:
        ended = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    return not ended or _age(job.heartbeat) < ZOMBIE_GRACE


def _age(file: Path) -> float:
    """Seconds since the file was written or touched."""
    return time.time() - file.stat().st_mtime


def _how_it_ended(job: Job, code: int | None) -> str:
    if job.requested() == "cancel" and code in (None, -signal.SIGKILL):  # None: the worker of another supervisor
        how = "was ended because it did not stop when asked"
    elif code == -signal.SIGKILL:
        how = "was killed by the system (signal 9), perhaps out of memory"
    elif code is not None and code < 0:
        how = f"was ended by signal {-code} ({signal.strsignal(-code)})"
    else:
        how = "ended without saying why" + (f" (exit code {code})" if code is not None else "")
    remedy = f"resume with mixcpt resume {job.run}" if job.run else "start it again"
    last = job.tail(1)
    return f"The worker {how}; {remedy}." + (f" Last line of its log: {last[0]}" if last else "")
