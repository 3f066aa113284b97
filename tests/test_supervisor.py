"""Tests for the supervisor with real worker processes, which do what tests/fake_handlers.py says."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mixcpt.jobs import Job, Jobs
from mixcpt.processes import environment, find_process, kill_leftovers, lease, lease_holder
from mixcpt.supervisor import Supervisor
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


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(POLL)


def submit(
    jobs: Jobs, do: str, kind: str = "ingest", *, after: tuple[str, ...] = (), run: str | None = None, **payload: Any
) -> Job:
    root = jobs.workspace.root
    return jobs.submit(
        kind, {"do": do, "file": str(root / "file"), "go": str(root / "go"), **payload}, after=after, run=run
    )


def started(supervisor: Supervisor, job: Job) -> int:
    """Step until the job's handler is at work; returns its process."""
    supervisor.step()
    until(lambda: job.status.message == "waiting")
    pid = job.status.pid
    assert pid is not None
    return pid


def go(jobs: Jobs) -> None:
    (jobs.workspace.root / "go").touch()


def test_a_job_runs_to_its_message_and_every_status_is_seen(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "note")
    seen: list[str] = []
    supervisor.run_until([job.id], lambda job: seen.append(job.state), POLL)
    assert (job.state, job.status.message, job.status.progress) == ("done", "noted", 1.0)
    assert seen[-1] == "done" and set(seen) <= {"running", "done"}
    assert job.status.started and job.status.ended


def test_a_running_job_ends_orderly_within_two_seconds_of_its_cancel(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait")
    started(supervisor, job)
    asked = time.monotonic()
    jobs.request_cancel(job)
    supervisor.run_until([job.id], poll=POLL)
    assert time.monotonic() - asked < 2
    assert (job.state, job.status.progress) == ("cancelled", 0.25)
    assert "cancelled:" in job.tail(1)[0]


def test_a_paused_job_goes_on_after_requeue(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait")
    after = submit(jobs, "note", after=(job.id,))
    started(supervisor, job)
    jobs.request_pause(job)
    supervisor.run_until([job.id, after.id], poll=POLL)
    assert (job.state, after.state) == ("paused", "queued")
    go(jobs)
    jobs.requeue(job)
    supervisor.run_until([job.id, after.id], poll=POLL)
    assert (job.state, job.status.attempt, after.state) == ("done", 2, "done")


def test_a_killed_worker_is_failed_with_its_signal_and_frees_the_lease(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait", "train", run="cpt-7")
    pid = started(supervisor, job)
    assert lease_holder(jobs.workspace) == job.id
    os.kill(pid, signal.SIGKILL)
    supervisor.run_until([job.id], poll=POLL)
    message = job.status.message
    assert job.state == "failed"
    assert "signal 9" in message and "mixcpt resume cpt-7" in message and "attempt 1" in message
    assert lease_holder(jobs.workspace) is None


def test_a_worker_that_vanishes_is_failed_with_its_code_and_last_words(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "vanish")
    supervisor.run_until([job.id], poll=POLL)
    assert job.state == "failed"
    assert "exit code 3" in job.status.message and "these were my last words" in job.status.message


def test_children_of_a_killed_worker_are_killed_too(jobs: Jobs, supervisor: Supervisor, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    job = submit(jobs, "spawn", pid_file=str(note))
    supervisor.step()
    until(lambda: note.exists() and note.read_text())
    child = psutil.Process(int(note.read_text()))
    os.kill(job.status.pid or 0, signal.SIGKILL)
    supervisor.run_until([job.id], poll=POLL)
    until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def deaf(jobs: Jobs, supervisor: Supervisor, tmp_path: Path) -> Job:
    """A job whose worker was asked to cancel two minutes ago, and does not listen."""
    note = tmp_path / "pid"
    job = submit(jobs, "spawn", pid_file=str(note))
    supervisor.step()
    until(note.exists)
    jobs.request_cancel(job)
    age(job.request, 120)
    return job


def age(file: Path, seconds: float) -> None:
    """Let the file be that old."""
    then = time.time() - seconds
    os.utime(file, (then, then))


def test_a_worker_that_does_not_listen_has_time_while_its_heart_beats(supervisor: Supervisor, deaf: Job) -> None:
    worker = psutil.Process(deaf.status.pid)
    supervisor.step()
    with pytest.raises(AssertionError, match="waited in vain"):
        until(lambda: worker.status() == psutil.STATUS_ZOMBIE, 0.5)
    supervisor.step()
    assert deaf.state == "running"
    age(deaf.request, 1000)
    supervisor.step()
    until(lambda: worker.status() == psutil.STATUS_ZOMBIE)
    supervisor.run_until([deaf.id], poll=POLL)
    assert deaf.state == "cancelled"
    assert "was ended because it did not stop when asked" in deaf.status.message


def test_a_worker_that_does_not_listen_is_killed_when_its_heart_stands_still(supervisor: Supervisor, deaf: Job) -> None:
    worker = psutil.Process(deaf.status.pid)
    worker.suspend()
    until(lambda: worker.status() == psutil.STATUS_STOPPED)
    age(deaf.heartbeat, 120)
    supervisor.step()
    until(lambda: worker.status() == psutil.STATUS_ZOMBIE)
    supervisor.run_until([deaf.id], poll=POLL)
    assert deaf.state == "cancelled" and "did not stop when asked" in deaf.status.message


def test_the_end_of_an_earlier_attempt_is_not_that_of_the_next(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait")
    first = psutil.Process(started(supervisor, job))
    jobs.request_pause(job)
    until(lambda: first.status() == psutil.STATUS_ZOMBIE)  # ended, and `supervisor` does not know it yet
    jobs.requeue(job)
    other = Supervisor(jobs.workspace, handlers=FAKE)
    second = started(other, job)
    supervisor.step()
    assert (job.state, job.status.pid) == ("running", second)
    go(jobs)
    other.run_until([job.id], poll=POLL)
    assert (job.state, job.status.message, job.status.attempt) == ("done", "went", 2)


def test_a_stray_folder_stops_no_step(jobs: Jobs, supervisor: Supervisor) -> None:
    (jobs.workspace.jobs / "job-copy").mkdir()
    job = submit(jobs, "note")
    supervisor.run_until([job.id], poll=POLL)
    assert job.state == "done"


@pytest.mark.parametrize(("here", "there"), [(None, "0"), ("2,3", "2"), ("GPU-8a, 1", "GPU-8a"), ("1", "1"), ("", "")])
def test_a_worker_sees_one_gpu(jobs: Jobs, monkeypatch: pytest.MonkeyPatch, here: str | None, there: str) -> None:
    if here is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", here)
    assert environment(jobs.workspace)["CUDA_VISIBLE_DEVICES"] == there


def test_a_session_whose_number_was_given_away_is_spared() -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & wait"], start_new_session=True)
    until(lambda: psutil.Process(leader.pid).children())
    member = psutil.Process(leader.pid).children()[0]
    kill_leftovers(leader.pid, started=1.0)  # our worker began in 1970, so this session is not what it left
    with pytest.raises(psutil.TimeoutExpired):
        member.wait(0.2)
    os.killpg(leader.pid, signal.SIGKILL)
    leader.wait()


def test_a_worker_survives_its_supervisor_and_the_next_one_adopts_it(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait", "train")
    program = (
        "import sys; from mixcpt.supervisor import Supervisor; from mixcpt.workspace import Workspace; "
        f"Supervisor(Workspace(sys.argv[1]), handlers={FAKE!r}).run_until([sys.argv[2]])"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(jobs.workspace.root), job.id], cwd=ROOT)
    until(lambda: job.status.message == "waiting")
    first.kill()
    first.wait()
    supervisor.step()
    assert job.state == "running" and psutil.pid_exists(job.status.pid or 0)
    assert lease_holder(jobs.workspace) == job.id
    go(jobs)
    supervisor.run_until([job.id], poll=POLL)
    assert (job.state, job.status.message, job.status.attempt) == ("done", "went", 1)


def test_two_supervisors_start_every_job_once(jobs: Jobs) -> None:
    submitted = [submit(jobs, "note") for _ in range(20)]
    supervisors = [Supervisor(jobs.workspace, handlers=FAKE) for _ in range(2)]
    for supervisor in supervisors:
        supervisor.start_thread(poll=0.01)
    try:
        until(lambda: all(job.state == "done" for job in submitted), 20)
    finally:
        for supervisor in supervisors:
            supervisor.stop()
            supervisor.run_until([job.id for job in submitted], poll=POLL)
    starts = (jobs.workspace.root / "file").read_text().split()
    assert sorted(starts) == sorted(job.id for job in submitted)


def test_accelerator_jobs_are_never_alive_together(jobs: Jobs) -> None:
    submitted = [submit(jobs, "be_alone", kind) for kind in ("train", "evaluate", "train")]
    supervisors = [Supervisor(jobs.workspace, handlers=FAKE) for _ in range(2)]
    supervisors[1].start_thread(poll=0.01)
    ended: list[str] = []
    supervisors[0].run_until(
        [job.id for job in submitted], lambda job: ended.append(job.id) if job.state == "done" else None, POLL
    )
    supervisors[1].stop()
    supervisors[1].run_until([job.id for job in submitted], poll=POLL)
    assert [job.status.message for job in submitted] == ["was alone"] * 3
    assert ended == [job.id for job in submitted]


def test_no_accelerator_job_overtakes_an_older_one(
    jobs: Jobs, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease comes free between the tries of two jobs: the second must not have tried."""
    older, younger = submit(jobs, "note", "train"), submit(jobs, "note", "train")
    tries: list[str] = []

    @contextlib.contextmanager
    def busy(workspace: Workspace, holder: str) -> Iterator[None]:
        tries.append(holder)
        yield None

    monkeypatch.setattr("mixcpt.supervisor.lease", busy)
    supervisor.step()
    assert tries == [older.id] and younger.state == "queued"


def test_the_lease_is_shared_with_others_and_spares_other_kinds(jobs: Jobs, supervisor: Supervisor) -> None:
    train, ingest = submit(jobs, "note", "train"), submit(jobs, "note")
    with lease(jobs.workspace, "chat") as descriptor:
        assert descriptor is not None
        supervisor.run_until([ingest.id], poll=POLL)
        assert (ingest.state, train.state, lease_holder(jobs.workspace)) == ("done", "queued", "chat")
    supervisor.run_until([train.id], poll=POLL)
    assert train.state == "done"


def test_a_failure_reaches_all_that_wait_for_it(jobs: Jobs, supervisor: Supervisor) -> None:
    first = submit(jobs, "refuse")
    second = submit(jobs, "note", after=(first.id,))
    third = submit(jobs, "note", after=(second.id,))
    supervisor.run_until([third.id], poll=POLL)
    assert (first.state, second.state, third.state) == ("failed", "failed", "failed")
    why = f"It was waiting for {first.id}, which failed: The corpus 'x' is empty: add files."
    assert (second.status.message, third.status.message) == (why, why)
    assert not (jobs.workspace.root / "file").exists()


def test_a_job_starts_only_when_all_before_it_are_done(jobs: Jobs, supervisor: Supervisor) -> None:
    quick, slow = submit(jobs, "note"), submit(jobs, "wait")
    last = submit(jobs, "note", after=(quick.id, slow.id))
    started(supervisor, slow)
    supervisor.run_until([quick.id], poll=POLL)
    assert last.state == "queued"
    go(jobs)
    supervisor.run_until([last.id], poll=POLL)
    assert (jobs.workspace.root / "file").read_text().split() == [quick.id, last.id]


def test_a_requeued_job_waits_for_the_end_of_its_former_worker(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait")
    former = started(supervisor, job)
    job.update(state="cancelled")  # as a worker does that then takes its time to end
    jobs.requeue(job)
    supervisor.step()
    assert (job.state, psutil.pid_exists(former)) == ("queued", True)
    os.kill(former, signal.SIGKILL)
    go(jobs)
    supervisor.run_until([job.id], poll=POLL)
    assert (job.state, job.status.attempt) == ("done", 2)


def test_a_pid_that_belongs_to_another_process_is_no_living_worker(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "note")
    job.update(state="running", pid=os.getpid(), process_started=1.0)
    supervisor.step()
    assert job.state == "failed" and "ended without saying why" in job.status.message


def test_a_worker_outlives_a_change_of_the_clock(jobs: Jobs, supervisor: Supervisor) -> None:
    job = submit(jobs, "wait")
    started(supervisor, job)
    job.update(process_started=1.0)  # start times are counted from a boot time that moves with the clock
    supervisor.step()
    assert job.state == "running"
    go(jobs)
    supervisor.run_until([job.id], poll=POLL)
    assert job.state == "done"


def test_a_thread_tells_what_ended_it(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(supervisor, "step", full)
        supervisor.start_thread(poll=0.01)
        until(lambda: supervisor.error)
        with pytest.raises(OSError, match="No space"):
            supervisor.stop()


@pytest.mark.parametrize("file", ["job.json", "status.json"])
def test_a_damaged_job_does_not_stop_the_others(jobs: Jobs, supervisor: Supervisor, file: str) -> None:
    damaged, sound = submit(jobs, "note"), submit(jobs, "note")
    (damaged.folder / file).write_text("{")
    supervisor.run_until([sound.id], poll=0.02)
    assert sound.state == "done"
    shutil.rmtree(damaged.folder)  # for the fixture
