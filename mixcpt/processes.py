"""What the kernel knows: who holds a lock, who has the accelerator, and whether a process is still the one we started.

Locks are `flock`s: they belong to open files, are freed when the last process that has the file open is gone, and so
cannot go stale. What this gives up: workspaces on network file systems that do not share flocks between machines.
"""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil

from mixcpt.workspace import Workspace


@contextlib.contextmanager
def lease(workspace: Workspace, holder: str) -> Iterator[int | None]:
    """Try to take the accelerator: yields the locked file descriptor, or None while someone else has it.

    A child that is given the descriptor keeps the lease after this block has closed its own copy, whatever becomes of
    this process, and the kernel frees the lease when that child is gone.
    """
    file = os.open(_lease_path(workspace), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _try_lock(file, fcntl.LOCK_EX):
            yield None
            return
        os.ftruncate(file, 0)
        os.pwrite(file, holder.encode(), 0)
        yield file
    finally:
        os.close(file)


def lease_holder(workspace: Workspace) -> str | None:
    """Who has the accelerator now: a job's id, or what else was given to `lease`; None when it is free."""
    path = _lease_path(workspace)
    return path.read_text(encoding="utf-8") if is_locked(path) else None


def is_locked(path: Path) -> bool:
    """Whether anyone holds an exclusive lock on the file.

    To look is to take a shared lock for an instant, which can make someone else's single try fail in that instant.
    """
    with open(path, "a") as file:
        return not _try_lock(file.fileno(), fcntl.LOCK_SH)


THREADS = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}
"""How threads that compute wait for each other, wherever nothing else was set: awake for some microseconds, then
asleep. A step has ten thousand such waits. Asleep at once it took a fifth longer on a quiet machine; awake thirty times
as long, it took three times as long as soon as anything else ran on the same cores (docs/engine.md)."""


def environment(workspace: Workspace) -> dict[str, str]:
    """What a process that computes is started with: `THREADS`, and one GPU, the first that is visible here. A run uses
    one, and where transformers sees several it wraps the model in DataParallel and fails."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    fixed = {"MIXCPT_HOME": str(workspace.root), "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": gpu}
    return {**THREADS, **os.environ, **fixed}


def find_process(pid: int | None, started: float | None) -> psutil.Process | None:
    """The process of this number and start time; None when it is gone, or the number belongs to another now."""
    if pid is None or started is None:
        return None
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - started) < 2 else None  # boot time is known to the second
    except psutil.NoSuchProcess:
        return None


def kill_leftovers(pid: int | None, started: float | None) -> None:
    """Kill what a dead session leader left behind, such as data loaders: it would hold memory and the lease."""
    if pid is None or (psutil.pid_exists(pid) and not find_process(pid, started)):
        return  # the number was given away again, which happens only once the session has no members
    for other in psutil.pids():
        with contextlib.suppress(ProcessLookupError):  # gone between the listing and the look
            if other != pid and os.getsid(other) == pid:
                os.kill(other, signal.SIGKILL)


def _lease_path(workspace: Workspace) -> Path:
    return workspace.root / "lease"


def _try_lock(file: int, mode: int) -> bool:
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
