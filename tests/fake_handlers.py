"""Handlers for the tests of jobs and workers: each does one small thing, told by the job's payload."""

import multiprocessing
import os
import subprocess
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from mixcpt.errors import BadCorpus
from mixcpt.worker import JobContext


def note(context: JobContext) -> str:
    """Append the job's id to a file: one line is one start."""
    with open(context.job.payload["file"], "a") as file:
        file.write(context.job.id + "\n")
    return "noted"


def wait(context: JobContext) -> str:
    """Work until the file `go` is there, or until asked to stop."""
    go = Path(context.job.payload["go"])
    context.progress(0.25, "waiting")
    for _ in range(3000):
        if go.exists():
            return "went"
        context.check()
        time.sleep(0.01)
    raise TimeoutError(f"{go} never came")


def be_alone(context: JobContext) -> str:
    """Fails when another job is inside at the same time."""
    inside = Path(context.job.payload["file"])
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))
    time.sleep(0.15)
    inside.unlink()
    return "was alone"


def refuse(context: JobContext) -> str:
    raise BadCorpus("The corpus 'x' is empty: add files.")


def crash(context: JobContext) -> str:
    return str(1 // 0)


def vanish(context: JobContext) -> str:
    print("these were my last words", flush=True)
    os._exit(3)


def spawn(context: JobContext) -> str:
    """Leave a child in this session and hang without listening."""
    child = subprocess.Popen(["sleep", "60"])
    Path(context.job.payload["pid_file"]).write_text(str(child.pid))
    time.sleep(60)
    return "overslept"


def fork(context: JobContext) -> str:
    """Fork a helper and end it, as data loaders are."""
    forked = multiprocessing.get_context("fork")
    ready = forked.Event()
    helper = forked.Process(target=_help, args=(ready,))
    helper.start()
    ready.wait()
    helper.terminate()
    helper.join(5)
    helper.kill()
    helper.join()
    context.check()
    return f"helper ended with {helper.exitcode}"


def _help(ready: Event) -> None:
    ready.set()
    time.sleep(60)


def chatter(context: JobContext) -> str:
    """Report often, then fall silent."""
    for step in range(50):
        context.progress(step / 100, f"step {step}")
    return wait_silently(context)


def wait_silently(context: JobContext) -> str:
    while not Path(context.job.payload["go"]).exists():
        time.sleep(0.01)
    return "went"


def act(context: JobContext) -> str:
    do = {f.__name__: f for f in (note, wait, be_alone, refuse, crash, vanish, spawn, fork, chatter)}
    return do[context.job.payload["do"]](context)


HANDLERS = dict.fromkeys(("ingest", "train", "evaluate"), "tests.fake_handlers:act")
