"""Tests for the worker: how every kind of end becomes a state and a sentence."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mixcpt import worker
from mixcpt.errors import BadInput, Interrupted
from mixcpt.jobs import Job, Jobs
from mixcpt.processes import find_process
from mixcpt.recipe import CorpusSpec
from mixcpt.records import Record
from mixcpt.supervisor import Supervisor
from mixcpt.worker import JobContext, claim, work
from mixcpt.workspace import Workspace

ROOT = Path(__file__).parent.parent
FAKE = "tests.fake_handlers"
POLL = 0.03


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Jobs(Workspace(tmp_path))


@pytest.fixture
def supervisor(jobs: Jobs) -> Iterator[Supervisor]:
    """Ends what a test, or its failure, leaves behind."""
    supervisor = Supervisor(jobs.workspace, handlers=FAKE)
    yield supervisor
    for job in jobs.all():
        jobs.request_cancel(job)
        if job.state == "running" and (process := find_process(job.status.pid, job.status.process_started)):
            process.kill()
    supervisor.run_until([job.id for job in jobs.all()], poll=POLL)


def submit(jobs: Jobs, do: str, kind: str = "ingest", **payload: Any) -> Job:
    return jobs.submit(kind, {"do": do, "go": str(jobs.workspace.root / "go"), **payload})


def context_of(jobs: Jobs, do: str, kind: str = "ingest") -> JobContext:
    job = submit(jobs, do, kind)
    job.update(state="running")
    return JobContext(jobs.workspace, job)


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(POLL)


def test_an_error_meant_for_the_user_is_shown_as_it_is(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "refuse")
    supervisor.run_until([job.id], poll=POLL)
    assert (job.state, job.status.message) == ("failed", "The corpus 'x' is empty: add files.")
    assert "Traceback" not in job.log.read_text()


def test_any_other_error_is_a_sentence_with_its_traceback_in_the_log(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "crash")
    supervisor.run_until([job.id], poll=POLL)
    assert job.state == "failed"
    assert job.status.message == "ZeroDivisionError: integer division or modulo by zero (details in the log)"
    log = job.log.read_text()
    assert "Traceback" in log and "1 // 0" in log


def test_a_termination_signal_is_a_cancel_request(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait")
    supervisor.step()
    until(lambda: job.status.message == "waiting")
    os.kill(job.status.pid or 0, signal.SIGTERM)
    supervisor.run_until([job.id], poll=POLL)
    assert (job.state, job.status.message) == ("cancelled", "Cancelled; what was done so far is kept.")


def test_ending_a_forked_helper_does_not_cancel_the_job(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "fork")
    supervisor.run_until([job.id], poll=POLL)
    assert (job.state, job.status.message) == ("done", "helper ended with -15")


def test_a_second_worker_leaves_with_a_message(jobs: Jobs) -> None:
    context = context_of(jobs, "wait")
    context.job.update(pid=os.getpid())
    with claim(context), pytest.raises(BadInput, match=f"Another worker is at job {context.job.id}"):
        claim(context)
    assert context.job.state == "running"


def test_a_worker_that_the_queue_did_not_start_leaves_with_a_message(jobs: Jobs) -> None:
    job = submit(jobs, "wait")
    stray = subprocess.run(
        [sys.executable, "-m", "mixcpt.worker", str(job.folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert stray.returncode == 2 and "let the queue start it" in stray.stdout
    assert job.state == "queued"


def test_the_heart_beats_and_shows_the_last_progress_while_the_handler_is_silent(
    jobs: Jobs, supervisor: Supervisor
) -> None:
    job = submit(jobs, "chatter")
    supervisor.step()
    os.utime(job.heartbeat, (0, 0))
    until(lambda: job.status.message == "step 49")
    assert job.status.progress == 0.49
    assert time.time() - job.heartbeat.stat().st_mtime < 5
    (jobs.workspace.root / "go").touch()
    supervisor.run_until([job.id], poll=POLL)


def test_progress_writes_at_most_two_a_second(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    context = context_of(jobs, "wait")
    writes: list[float] = []
    clock = 0.0
    monkeypatch.setattr("mixcpt.worker.time.monotonic", lambda: clock)
    monkeypatch.setattr(Job, "update", lambda job, **changes: writes.append(clock))
    for tick in range(16):
        clock = tick / 8
        context.progress(0.5, "busy")
    assert writes == [0.0, 0.5, 1.0, 1.5]


@pytest.mark.parametrize(("given", "shown"), [(-1.0, 0.0), (1.5, 1.0), (float("nan"), 0.0), (None, None)])
def test_progress_is_a_share_or_unknown(jobs: Jobs, given: float | None, shown: float | None) -> None:
    context = context_of(jobs, "wait")
    context.progress(given, "busy")
    assert context.job.status.progress == shown


@pytest.mark.parametrize(("request_", "state"), [("cancel", "cancelled"), ("pause", "paused")])
def test_check_raises_what_was_asked_for(jobs: Jobs, request_: str, state: str) -> None:
    context = context_of(jobs, "wait")
    context.check()
    context.job.request.write_text(request_)
    with pytest.raises(Interrupted) as caught:
        context.check()
    assert caught.value.state == state


def test_a_kind_without_a_handler_is_refused_by_name(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(worker.HANDLERS, "export")
    context = context_of(jobs, "wait", "export")
    assert work(context) == 1
    assert context.job.state == "failed" and "kind 'export'" in context.job.status.message


def test_a_worker_starts_without_the_heavy_libraries() -> None:
    code = "import sys, mixcpt.worker; print(sorted({'torch', 'numpy', 'pydantic', 'streamlit'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


class Asked(dict[str, Any]):
    """Stands for the functions that make a corpus, and keeps what they were asked for."""

    def __call__(self, workspace: Workspace, name: str, what: Any, **options: Any) -> SimpleNamespace:
        self.update(options, name=name, what=list(what))
        options["progress"]("Reading", 0.5)
        return SimpleNamespace(name=name, documents=1200, tokens=34_567)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr("mixcpt.corpus.ingest", asked)
    monkeypatch.setattr("mixcpt.corpus.ingest_records", asked)
    monkeypatch.setattr("mixcpt.modelstore.ensure_model", lambda workspace, name, **_: tmp_path / name)
    monkeypatch.setattr("mixcpt.tokens.TextTokenizer.from_folder", lambda folder: folder.name)
    return asked


def ingest(jobs: Jobs, spec: CorpusSpec, **more: Any) -> Job:
    job = jobs.submit("ingest", spec.model_dump() | {"model": "tiny"} | more)
    job.update(state="running")
    work(JobContext(jobs.workspace, job))
    return job


def test_an_ingest_job_makes_a_corpus_of_files(jobs: Jobs, asked: Asked) -> None:
    job = ingest(jobs, CorpusSpec(name="notes", files=["a.txt"], text_column="body"), seed=3, replace=True)
    assert job.status.message == "Corpus notes: 1,200 documents, 34,567 tokens."
    expected = {"name": "notes", "what": ["a.txt"], "tokenizer": "tiny", "text_column": "body", "seed": 3}
    assert {key: asked[key] for key in expected} == expected and asked["replace"] is True


def test_an_ingest_job_filters_a_hub_data_set(jobs: Jobs, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Record("documents", f"text {number}", meta={"part": number % 2}) for number in range(6)]
    configs: list[str | None] = []

    def read_hub(name: str, *, config: str | None, **_: Any) -> list[Record]:
        configs.append(config)
        return rows

    monkeypatch.setattr("mixcpt.sources.read_hub", read_hub)
    job = ingest(jobs, CorpusSpec(name="wiki", hub="a/b", hub_config="en", limit=2, where={"part": "1"}))
    assert (job.state, asked["what"], configs) == ("done", [rows[1], rows[3]], ["en"])


# What workers run on: scripts/setup.sh, with a Python that is played


def set_up(folder: Path, venv_code: int) -> "subprocess.CompletedProcess[str]":
    """Run the script in `folder` with a Python that makes .venv without pip and then ends with this code."""
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup.sh", folder / "scripts")
    python = folder / "python"
    made = f"mkdir -p .venv/bin; touch .venv/made; echo 'exit 1' > .venv/bin/python; exit {venv_code}"
    python.write_text(f'#!/bin/sh\ncase "$*" in *venv*) {made};; esac\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python)}
    script = str(folder / "scripts" / "setup.sh")
    return subprocess.run(["bash", script], capture_output=True, text=True, env=environment, timeout=60)


def test_a_failed_environment_leaves_nothing_half_made(tmp_path: Path) -> None:
    result = set_up(tmp_path, venv_code=1)
    assert result.returncode == 1 and "apt install python3-venv" in result.stderr
    assert not (tmp_path / ".venv").exists()


def test_an_environment_without_pip_is_made_anew(tmp_path: Path) -> None:
    left = tmp_path / ".venv" / "bin" / "python"
    left.parent.mkdir(parents=True)
    left.write_text("#!/bin/sh\necho No module named pip >&2; exit 1\n")
    left.chmod(0o755)
    set_up(tmp_path, venv_code=0)
    assert (tmp_path / ".venv" / "made").exists()
