"""What the inference process does, without the process: whose turn it is, what fails, what an earlier one left."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from adapted import adapted_run, write_adapter
from made import made_job, made_run

from mixcpt import resident, service
from mixcpt.errors import BadConfig, BadFile, BadInput, Busy, TooLittle
from mixcpt.exchanges import BROKEN_OFF, Answer, Exchanges, Question, begin
from mixcpt.jobs import Jobs
from mixcpt.processes import lease, lease_holder
from mixcpt.prompts import base_of
from mixcpt.runs import Run
from mixcpt.service import Service
from mixcpt.settings import validate
from mixcpt.workspace import Workspace


def question(*runs: Run, text: str = "Why?", tokens: int = 4) -> dict[str, Any]:
    return {
        "voices": [{"run": run.id} for run in runs],
        "messages": [{"role": "user", "content": text}],
        "sampling": {"max_new_tokens": tokens},
    }


@pytest.fixture
def run(workspace: Workspace, tiny_model_folder: Path) -> Run:
    return adapted_run(workspace, tiny_model_folder)


@contextmanager
def working(workspace: Workspace, unload_after: float = 60, exit_after: float = 600) -> Iterator[Service]:
    made = Service(workspace, unload_after, exit_after)
    threads = [threading.Thread(target=made.work), threading.Thread(target=made.watch)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.ending.set()
        for thread in threads:
            thread.join(30)


def ended(made: Service, id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        state = made.exchange(id)
        if state["state"] in ("done", "stopped", "interrupted", "failed"):
            return state
        time.sleep(0.02)
    raise AssertionError(f"waited in vain: {state}")


def test_a_question_is_answered_and_kept(workspace: Workspace, run: Run) -> None:
    with working(workspace) as made:
        state = ended(made, made.ask(question(run)))
        assert lease_holder(workspace) == "talk" and made.status()["runs"] == [run.id]
    assert state["state"] == "done" and len(state["answers"][0]["ids"]) == 4
    assert Exchanges(workspace).get(state["id"]).state == "done"
    assert lease_holder(workspace) is None


def test_what_an_earlier_process_left_unfinished_says_so(workspace: Workspace) -> None:
    asked = validate(Question, question() | {"voices": [{"run": None}]}, "the test")
    left = begin(asked, [Answer(None, 1.0, "base", "base", ids=[1], text="x")], [[]])
    Exchanges(workspace).save(left)
    Service(workspace, 60, 60)
    found = Exchanges(workspace).get(left.id)
    assert (found.state, found.message, found.answers[0].text) == ("failed", BROKEN_OFF, "x")


def test_a_job_at_the_machine_is_named(workspace: Workspace, run: Run) -> None:
    made, job = Service(workspace, 60, 60), made_run(workspace, name="wells", state="running")
    training = next(other for other in Jobs(workspace).all() if other.run == job.id and other.kind == "train")
    with lease(workspace, training.id), pytest.raises(Busy, match=r"^Training wells has the machine; Talk goes on"):
        made.ask(question(run))
    with lease(workspace, "a notebook"), pytest.raises(Busy, match=r"^A notebook has the machine"):
        made.losses(run=run.id, messages=[{"role": "user", "content": "x"}])
    made.ask(question(run))


def test_its_own_taking_of_the_machine_is_not_somebody_elses(
    workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease is taken first and named then; a look between the two would read no name, or an old one."""
    made, seen, write = Service(workspace, 60, 60), [], os.pwrite
    looks = [threading.Thread(target=lambda: seen.append(made.status()["busy"]))]

    def write_late(file: int, text: bytes, place: int) -> int:
        looks[0].start()
        looks[0].join(0.3)
        return write(file, text, place)

    monkeypatch.setattr("mixcpt.processes.os.pwrite", write_late)
    made._take_lease()
    looks[0].join(30)
    assert seen == [None] and lease_holder(workspace) == "talk"
    made._lease.close()


def test_a_job_that_could_start_goes_first_but_not_for_ever(
    workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Service(workspace, 60, 60)
    made_job(workspace, "ingest", "queued", label="papers")
    assert made.status()["busy"] is None
    first = made_job(workspace, "train", "queued", label="first")
    made_job(workspace, "evaluate", "queued", after=[first.id], label="second")
    with pytest.raises(Busy, match="Training first has the machine"):
        made.ask(question(run))
    monkeypatch.setattr(service, "PATIENCE_SECONDS", 0.0)  # nobody works off the queue
    made.ask(question(run))
    first.update(state="done")
    monkeypatch.setattr(service, "PATIENCE_SECONDS", 15.0)
    assert made.status()["busy"] == "The evaluation of second has the machine; Talk goes on when it is done."


def test_what_writes_is_interrupted_by_a_job_and_the_model_is_freed(
    workspace: Workspace, tiny_model_folder: Path, run: Run
) -> None:
    with working(workspace) as made:
        id = made.ask(question(run, run, run, run, tokens=240))
        until(lambda: made.exchange(id)["state"] == "writing")
        made_job(workspace, "train", "queued", label="wells")
        state = ended(made, id)
        until(lambda: lease_holder(workspace) is None)
        assert made.status()["base"] is None
    assert state["state"] == "interrupted" and state["message"].startswith("Training wells has the machine")
    assert {answer["ended"] for answer in state["answers"]} == {"interrupted"}


def until(condition: Any) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_the_model_is_freed_when_nobody_asks(workspace: Workspace, run: Run) -> None:
    with working(workspace, unload_after=0.4, exit_after=1.2) as made:
        ended(made, made.ask(question(run)))
        until(lambda: lease_holder(workspace) is None)
        assert not made.ending.is_set()
        assert ended(made, made.ask(question(run)))["state"] == "done"
        until(made.ending.is_set)


def test_a_broken_adapter_fails_its_question_and_not_the_next(
    workspace: Workspace, tiny_model_folder: Path, run: Run
) -> None:
    odd = adapted_run(workspace, tiny_model_folder)
    (odd.adapter / "adapter_model.safetensors").write_bytes(b"{}" * 20)
    with working(workspace) as made:
        state = ended(made, made.ask(question(odd)))
        assert state["state"] == "failed" and "adapter" in state["message"]
        assert ended(made, made.ask(question(run)))["state"] == "done"
        write_adapter(odd, tiny_model_folder, 1)
        assert ended(made, made.ask(question(odd)))["state"] == "done"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (TooLittle("It needs 9 GB of memory."), "It needs 9 GB"),
        (BadFile("The weights hold NaN."), "hold NaN"),
        (MemoryError(), "The memory was not enough"),
        (RuntimeError("odd"), "RuntimeError: odd (details in serve/log.txt"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_one_sentence_and_frees_the_machine(
    workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch, problem: Exception, words: str
) -> None:
    def fail(base: object) -> None:
        raise problem

    monkeypatch.setattr(resident, "Resident", fail)
    with working(workspace) as made:
        state = ended(made, made.ask(question(run)))
        assert state["state"] == "failed" and words in state["message"]
        with pytest.raises(Exception, match=words.replace("(", r"\(")):
            made.losses(run=run.id, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
        assert lease_holder(workspace) is None


def test_a_job_that_was_faster_interrupts(workspace: Workspace, run: Run) -> None:
    made = Service(workspace, 60, 60)
    id = made.ask(question(run))
    with lease(workspace, "a notebook"):
        worker = threading.Thread(target=made.work)
        worker.start()
        assert ended(made, id)["message"].startswith("A notebook has the machine")
        made.ending.set()
        worker.join(30)


def test_only_so_many_wait_and_losses_do_not_wait_for_ever(
    workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody works here."""
    monkeypatch.setattr(service, "WAITING", 2)
    monkeypatch.setattr(service, "LOSSES_SECONDS", 0.05)
    made = Service(workspace, 60, 60)
    made.ask(question(run))
    with pytest.raises(Busy, match="still answering"):
        made.losses(run=run.id, messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}])
    with pytest.raises(Busy, match="2 questions wait already"):
        made.ask(question(run))


def test_what_waits_at_the_end_is_not_lost(workspace: Workspace, run: Run) -> None:
    made = Service(workspace, 60, 60)
    id = made.ask(question(run, text="remember me"))
    made.ending.set()
    made.work()
    kept = Exchanges(workspace).get(id)
    assert kept.state == "interrupted" and kept.question["messages"][0]["content"] == "remember me"


def test_a_stop_before_its_turn_and_one_too_late(workspace: Workspace, run: Run) -> None:
    made = Service(workspace, 60, 60)
    id = made.ask(question(run))
    made.stop(id)
    threading.Thread(target=made.work).start()
    state = ended(made, id)
    assert (state["state"], state["answers"][0]["ended"], state["answers"][0]["ids"]) == ("stopped", "stopped", [])
    made.stop(id)
    made.ending.set()


@pytest.mark.parametrize(
    ("do", "arguments", "words"),
    [
        ("dance", {}, "There is no request 'dance'"),
        ("ask", {}, "cannot be read"),
        ("ask", {"question": {}}, "is missing"),
        ("ask", {"question": 7}, "the question"),
        ("exchange", {"id": "../x"}, "cannot be used"),
        ("exchange", {"id": "talk-0"}, "no exchange"),
        ("stop", {"id": "talk-0"}, "no exchange"),
        ("losses", {"run": None, "messages": [], "odd": 1}, "the key 'odd' is unknown"),
        ("status", {"extra": 1}, "cannot be read"),
    ],
)
def test_requests_that_cannot_be_read(workspace: Workspace, do: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, BadConfig), match=words):
        Service(workspace, 60, 60).answer(do, arguments)


def test_on_a_gpu_it_ends_with_its_model(workspace: Workspace, run: Run) -> None:
    """Only so is all of the GPU's memory given back; on a processor it goes on."""
    for device, ends in (("cpu", False), ("cuda", True)):
        made = Service(workspace, 60, 60)
        base = replace(base_of(workspace, run, ""), device=device)
        made._resident = SimpleNamespace(base=base, runs=[])  # type: ignore[assignment]
        made.unload()
        made._rest()
        assert made.ending.is_set() is ends and made.status()["base"] is None
