"""Tests for the queue on disk: orders, states, and who may change them. No worker is started here."""

import json
from pathlib import Path
from typing import Any

import pytest

from mixcpt.errors import BadInput, NotFound
from mixcpt.jobs import Job, Jobs
from mixcpt.workspace import Workspace


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(Workspace(tmp_path))


def submit(jobs: Jobs, kind: str = "ingest", **options: Any) -> Job:
    return jobs.submit(kind, {"x": 1}, **options)


def test_jobs_are_listed_in_the_order_of_submission(jobs: Jobs) -> None:
    submitted = [submit(jobs, label=str(number)).id for number in range(8)]  # all within one second
    assert [job.id for job in Jobs(jobs.workspace).all()] == submitted


def test_an_order_is_read_back_as_it_was_given(jobs: Jobs) -> None:
    first = submit(jobs)
    jobs.submit("train", {"a": [1, "é"]}, run="cpt-1", after=[first.id], label="two")
    read = Jobs(jobs.workspace).all()[1]
    assert (read.kind, read.run, read.payload, read.after, read.label) == (
        "train", "cpt-1", {"a": [1, "é"]}, [first.id], "two",
    )  # fmt: skip
    assert (read.state, read.status.attempt, read.status.progress) == ("queued", 1, None)


def test_an_unfinished_folder_is_no_job(jobs: Jobs) -> None:
    (jobs.workspace.jobs / ".building-job-1-abc").mkdir()
    assert jobs.all() == []


@pytest.mark.parametrize("there", [[], ["job.json"], ["status.json"]])
def test_a_half_copied_folder_is_no_job(jobs: Jobs, there: list[str]) -> None:
    job = submit(jobs)
    copy = jobs.workspace.jobs / "job-copy"
    copy.mkdir()
    for name in there:
        (copy / name).write_bytes((job.folder / name).read_bytes())
    (jobs.workspace.jobs / "notes.txt").touch()
    assert [job.id for job in jobs.all()] == [job.id]
    with pytest.raises(NotFound):
        jobs.get("job-copy")


def test_what_another_version_wrote_is_read(jobs: Jobs) -> None:
    job = submit(jobs)
    (job.folder / "status.json").write_text('{"state": "failed", "mood": "grim"}')
    order = {"id": job.id, "kind": "ingest", "mood": "grim"}
    (job.folder / "job.json").write_text(json.dumps(order))
    read = Jobs(jobs.workspace).get(job.id)
    assert (read.state, read.status.attempt, read.status.pid) == ("failed", 1, None)
    assert (read.kind, read.run, read.payload, read.after, read.name) == ("ingest", None, {}, [], job.id)
    assert jobs.requeue(read).status.attempt == 2


def test_an_unknown_kind_is_refused_with_the_known_ones(jobs: Jobs) -> None:
    with pytest.raises(BadInput, match=r"'trian' is unknown: .*train"):
        submit(jobs, "trian")


def test_waiting_for_an_unknown_job_is_refused(jobs: Jobs) -> None:
    with pytest.raises(NotFound, match="no job 'job-7'"):
        submit(jobs, after=["job-7"])
    assert jobs.all() == []


def test_a_mistyped_id_is_answered_with_the_near_one(jobs: Jobs) -> None:
    job = submit(jobs)
    with pytest.raises(NotFound, match=job.id):
        jobs.get(job.id.replace("job-", "jib-"))


@pytest.mark.parametrize("id", ["", ".lock", "../runs", "/"])
def test_no_id_leads_out_of_the_folder(jobs: Jobs, id: str) -> None:
    submit(jobs)
    with pytest.raises(NotFound):
        jobs.get(id)


def test_a_queued_job_is_cancelled_or_paused_at_once(jobs: Jobs) -> None:
    one, two = submit(jobs), submit(jobs)
    jobs.request_cancel(one)
    jobs.request_pause(two)
    assert (one.state, two.state) == ("cancelled", "paused")


def test_a_running_job_gets_the_flag_and_keeps_its_state(jobs: Jobs) -> None:
    job = submit(jobs)
    job.update(state="running")
    assert job.requested() is None
    jobs.request_pause(job)
    assert (job.state, job.requested()) == ("running", "pause")
    jobs.request_cancel(job)
    assert job.requested() == "cancel"


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_job_that_has_ended_stays_as_it_is(jobs: Jobs, state: str) -> None:
    job = submit(jobs)
    job.update(state=state, message="as it was")
    jobs.request_cancel(job)
    jobs.request_pause(job)
    assert (job.state, job.status.message, job.requested()) == (state, "as it was", None)


@pytest.mark.parametrize("state", ["failed", "cancelled", "paused"])
def test_a_requeued_job_starts_clean_with_its_next_attempt(jobs: Jobs, state: str) -> None:
    job = submit(jobs)
    job.update(state=state, message="old", pid=1, started="then", ended="then", progress=0.5)
    job.request.write_text("cancel")
    assert jobs.requeue(job).id == job.id
    status = job.status
    assert (status.state, status.attempt, status.message, status.pid, status.progress) == ("queued", 2, "", None, None)
    assert job.requested() is None


@pytest.mark.parametrize("state", ["queued", "running", "done"])
def test_only_an_ended_job_can_be_requeued(jobs: Jobs, state: str) -> None:
    job = submit(jobs)
    job.update(state=state)
    with pytest.raises(BadInput, match=state):
        jobs.requeue(job)
    assert job.status.attempt == 1


def test_requeue_brings_back_those_that_failed_by_waiting_only(jobs: Jobs) -> None:
    first = submit(jobs)
    waited = submit(jobs, after=[first.id])
    further = submit(jobs, after=[waited.id])
    tried, cancelled = submit(jobs, after=[first.id]), submit(jobs, after=[first.id])
    for job in (first, waited, further):
        job.update(state="failed")
    tried.update(state="failed", started="then")
    cancelled.update(state="cancelled")
    jobs.requeue(first)
    states = [job.state for job in (first, waited, further, tried, cancelled)]
    assert states == ["queued", "queued", "queued", "failed", "cancelled"]


def test_a_run_stands_as_its_first_job_that_is_not_done(jobs: Jobs) -> None:
    train = submit(jobs, "train", run="r")
    evaluate = submit(jobs, "evaluate", run="r", after=[train.id])
    submit(jobs, "export", run="r")
    submit(jobs, "train", run="another")

    def decisive() -> str:
        job = jobs.for_run("r")
        assert job is not None
        return job.id

    assert decisive() == train.id
    train.update(state="done")
    assert decisive() == evaluate.id
    evaluate.update(state="failed")
    again = submit(jobs, "evaluate", run="r")
    again.update(state="done")
    assert decisive() == again.id
    assert jobs.for_run("nobody") is None


def test_the_tail_of_a_log_is_whole_lines_of_any_bytes(jobs: Jobs) -> None:
    job = submit(jobs)
    assert job.tail() == []
    job.log.write_bytes(b"one\n\ntw\xff\n  \n")
    assert job.tail(1) == ["tw\ufffd"]
    assert job.tail() == ["one", "tw\ufffd"]


@pytest.mark.parametrize("content", ['{"a": ', "", "[1, 2]", "null", "{}", '{"state": 3}'])
def test_a_job_with_a_damaged_status_failed_and_can_be_put_back(jobs: Jobs, content: str) -> None:
    job, other = submit(jobs), submit(jobs)
    (job.folder / "status.json").write_text(content)
    looks = {look.id: status for look, status in jobs.snapshot()}
    assert looks[job.id].state == "failed" and "status.json is damaged" in looks[job.id].message
    assert looks[other.id].state == "queued"
    jobs.requeue(job)
    assert job.state == "queued"


@pytest.mark.parametrize("content", ['{"a": ', "[1, 2]", "{}", '{"id": 3, "kind": "ingest"}'])
def test_a_job_whose_order_is_damaged_does_not_hide_the_others(jobs: Jobs, content: str) -> None:
    job, other = submit(jobs), submit(jobs)
    (job.folder / "job.json").write_text(content)
    fresh = Jobs(jobs.workspace)
    assert [look.id for look, _ in fresh.snapshot()] == [other.id]
    assert [found.id for found in fresh.all()] == [other.id]
