"""The worker: one process that does one job, `python -m mixcpt.worker JOB_DIR`.

It starts light and imports what its kind of job needs only then. Whatever happens ends as a state and a sentence in
status.json; what it prints lands in log.txt. Started by a `Supervisor` only: by hand it refuses, because the queue
would not know of it. It gives up pooling: every job pays for its own imports and model load, and in return memory is
really freed, and a crash takes one job.
"""

import argparse
import faulthandler
import fcntl
import importlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from mixcpt.errors import BadInput, Interrupted, MixcptError
from mixcpt.jobs import Job, Jobs
from mixcpt.workspace import Workspace, locked, now, write_atomic

if TYPE_CHECKING:
    from mixcpt.corpus import Manifest

HANDLERS = {
    "doctor": "mixcpt.doctor:run_job",
    "fetch": "mixcpt.worker:fetch_job",
    "prepare": "mixcpt.worker:prepare_job",
    "ingest": "mixcpt.worker:ingest_job",
    "probes": "mixcpt.probe_sets:run_job",
    "train": "mixcpt.worker:train_job",
    "evaluate": "mixcpt.evaluation:run_job",
    "measure": "mixcpt.measuring:run_job",
    "score": "mixcpt.scoring:run_job",
    "export": "mixcpt.exporting:run_job",
    "study": "mixcpt.study_runs:run_job",
}
_TOLD = ("train", "evaluate")
"""Kinds of jobs after which a run has other figures."""
HEARTBEAT_SECONDS = 1.0
STATUS_SECONDS = 0.5


class JobContext:
    """What a handler gets: the workspace, its job, and the ways to be heard and to be stopped."""

    def __init__(self, workspace: Workspace, job: Job):
        self.workspace = workspace
        self.job = job
        self._lock = threading.Lock()  # the heartbeat writes progress too
        self._pending: dict[str, Any] = {}
        self._written = float("-inf")

    def progress(self, fraction: float | None, message: str) -> None:
        """Show how far the job is (0 to 1, None when unknown). May be called at will: two a second are written, and
        the heartbeat writes the last one if nothing follows it."""
        with self._lock:
            known = None if fraction is None else min(1.0, max(0.0, fraction))
            self._pending = {"progress": known, "message": message}
        if time.monotonic() - self._written >= STATUS_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the progress that was held back."""
        with self._lock:
            if self._pending:
                self.job.update(**self._pending)
                self._pending, self._written = {}, time.monotonic()

    def end(self, state: str, message: str, bad_input: bool = False) -> None:
        """Write the job's final state; progress stays where it was, except that what is done is done wholly."""
        self.say(f"{state}: {message}")
        with self._lock:
            final = {**self._pending, "state": state, "message": message, "bad_input": bad_input, "ended": now()}
            self._pending = {}
            self.job.update(**final | ({"progress": 1.0} if state == "done" else {}))

    def check(self) -> None:
        """Raises Interrupted once the job is asked to cancel or pause. Cheap: call it in every loop."""
        request = self.job.requested()
        if request == "cancel":
            raise Interrupted("Cancelled; what was done so far is kept.", "cancelled")
        if request == "pause":
            raise Interrupted("Paused; it can be resumed from here.", "paused")

    def say(self, text: str) -> None:
        """One line in the job's log, with the time."""
        print(f"{now()} {text}", flush=True)


Handler = Callable[[JobContext], str]  # its answer is the message of a done job


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m mixcpt.worker", description="Does one job; started by mixcpt.")
    parser.add_argument("job", type=Path, help="the job's folder")
    parser.add_argument("--handlers", default="mixcpt.worker", help="module whose HANDLERS names a function per kind")
    options = parser.parse_args(arguments)
    faulthandler.enable()  # a crash in native code leaves its stack in the log
    job = Job.open(options.job.absolute())
    context = JobContext(Workspace(job.folder.parent.parent), job)
    try:
        lock = claim(context)
    except BadInput as refusal:
        context.say(str(refusal))
        return refusal.exit_code
    with lock:
        signal.signal(signal.SIGTERM, lambda *_: write_atomic(job.request, "cancel"))
        os.register_at_fork(after_in_child=lambda: _be_nobody(lock))
        threading.Thread(target=_beat, args=(context,), daemon=True).start()
        return work(context, options.handlers)


def claim(context: JobContext) -> TextIO:
    """The locked worker.lock of the job, which makes this process its only worker.

    Raises:
        BadInput: the queue did not start this process, or another worker is at the job.
    """
    job = context.job
    with locked(Jobs(context.workspace).lock):
        status = job.status
        if (status.state, status.pid) != ("running", os.getpid()):
            raise BadInput(f"Job {job.id} is {status.state} and not process {os.getpid()}'s: let the queue start it.")
        lock = open(job.worker_lock, "a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise BadInput(f"Another worker is at job {job.id}: wait for its end.") from None
    return lock


def work(context: JobContext, handlers: str = "mixcpt.worker") -> int:
    """Run the job's handler and write down how it ended; returns the exit code of the process."""
    job = context.job
    context.say(f"{job.kind} {job.name}, attempt {job.status.attempt}, process {os.getpid()}")
    bad_input = False
    try:
        state, message = "done", find_handler(job.kind, handlers)(context)
        if job.kind in _TOLD and job.run:
            keep_summary(context)
    except Interrupted as stop:
        state, message = stop.state, str(stop)
    except MixcptError as error:
        state, message, bad_input = "failed", str(error), isinstance(error, BadInput)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        state, message = "failed", f"{type(error).__name__}: {error} (details in the log)"
    context.end(state, message, bad_input)
    return int(state == "failed")


def keep_summary(context: JobContext) -> None:
    """Keep what a comparison needs of the job's run, so that the first look at it is quick. It saves time and nothing
    else, so the job is done also where it fails; that is told in the log."""
    from mixcpt import summaries
    from mixcpt.runs import Runs

    try:
        summaries.kept(Runs(context.workspace).get(str(context.job.run)))
    except Exception as problem:
        context.say(f"no summary for comparisons was kept: {type(problem).__name__}: {problem}")


def find_handler(kind: str, handlers: str) -> Handler:
    """Import the function that `handlers`.HANDLERS names for this kind.

    Raises:
        BadInput: it names none.
    """
    table: dict[str, str] = importlib.import_module(handlers).HANDLERS
    if kind not in table:
        raise BadInput(f"No worker can do a job of kind {kind!r}: the kinds are {', '.join(table)}.")
    module, _, function = table[kind].partition(":")
    handler: Handler = getattr(importlib.import_module(module), function)
    return handler


def _be_nobody(lock: TextIO) -> None:
    """In a forked child, say a data loader: it must not pass for the living worker, nor cancel the job when ended."""
    lock.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _beat(context: JobContext) -> None:
    while True:
        context.job.heartbeat.touch()
        context.flush()
        time.sleep(HEARTBEAT_SECONDS)


def fetch_job(context: JobContext) -> str:
    """Fetch and convert a model. Payload: `model`, and `accept_terms` (default False) when the user has just accepted
    its terms."""
    from mixcpt.modelstore import ensure_model

    payload = context.job.payload
    ensure_model(
        context.workspace,
        payload["model"],
        accept_terms=payload.get("accept_terms", False),
        progress=lambda message: context.progress(None, message),
        should_stop=context.check,
    )
    return f"The model {payload['model']} is ready."


def train_job(context: JobContext) -> str:
    """Train the job's run, by what its stage asks for."""
    from mixcpt.runs import Runs
    from mixcpt.stages import Stage

    if isinstance(Runs(context.workspace).get(str(context.job.run)).config, Stage):
        from mixcpt.training import run_job
    else:
        from mixcpt.alignment import run_job
    return run_job(context)


def prepare_job(context: JobContext) -> str:
    """Make and tokenise the sources of a mixture. Payload: `model`, whose tokenizer cuts the text, and what
    `mixcpt.mixture.needs` says of the mixture. `texts` (fingerprints) only makes it another job for other texts."""
    from mixcpt.mixture import needing, prepare
    from mixcpt.modelstore import ensure_model
    from mixcpt.tokens import TextTokenizer

    payload = dict(context.job.payload)
    folder = ensure_model(
        context.workspace,
        payload.pop("model"),
        progress=lambda message: context.progress(None, message),
        should_stop=context.check,
    )
    config = needing(payload)
    prepare(
        context.workspace,
        config,
        TextTokenizer.from_folder(folder),
        progress=context.progress,
        should_stop=context.check,
    )
    return f"Tokenised: {', '.join(config.target_tokens())}."


def ingest_job(context: JobContext) -> str:
    """Make a corpus. Payload: what a `mixcpt.recipe.CorpusSpec` says, `model`, whose tokenizer counts, and optionally
    `seed`, `heldout_fraction` and `replace` as `mixcpt.corpus.ingest` takes them."""
    from mixcpt.modelstore import ensure_model
    from mixcpt.tokens import TextTokenizer

    payload = context.job.payload
    folder = ensure_model(
        context.workspace,
        payload["model"],
        progress=lambda message: context.progress(None, message),
        should_stop=context.check,
    )
    options: dict[str, Any] = {
        key: payload[key] for key in ("kind", "seed", "heldout_fraction", "replace") if key in payload
    }
    options |= {
        "tokenizer": TextTokenizer.from_folder(folder),
        "progress": lambda message, fraction: context.progress(fraction, message),
        "should_stop": context.check,
    }
    manifest = (_from_hub if payload.get("hub") else _from_files)(context.workspace, payload, options)
    return f"Corpus {manifest.name}: {manifest.documents:,} documents, {manifest.tokens:,} tokens."


def _from_files(workspace: Workspace, payload: dict[str, Any], options: dict[str, Any]) -> "Manifest":
    from mixcpt.corpus import ingest

    chosen: dict[str, Any] = {key: payload.get(key) for key in ("text_column", "where", "limit")}
    return ingest(workspace, payload["name"], payload["files"], **chosen, **options)


def _from_hub(workspace: Workspace, payload: dict[str, Any], options: dict[str, Any]) -> "Manifest":
    from mixcpt.corpus import FileInfo, ingest_records
    from mixcpt.manifest import Spec
    from mixcpt.sources import read_hub, select

    spec = Spec(**{key: value for key, value in payload.items() if key in Spec.model_fields})
    hub, config, directory, split = str(spec.hub), spec.hub_config, spec.hub_dir, spec.split
    records = read_hub(
        hub, config=config, directory=directory, split=split, kind=spec.kind, text_column=spec.text_column
    )
    chosen = select(records, spec.where, spec.limit)
    origin = FileInfo(name=":".join(part for part in (hub, config, directory, split) if part))
    return ingest_records(workspace, payload["name"], chosen, files=[origin], spec=spec, **options)


if __name__ == "__main__":
    from mixcpt import worker  # the module proper, so that handlers and this process share one JobContext

    sys.exit(worker.main())
