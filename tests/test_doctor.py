"""What the doctor says about machines, real and imagined."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_machine import H200, PLAIN, TIMINGS, WITH_GPU

from mixcpt import doctor, worker
from mixcpt import machine as facts
from mixcpt.doctor import machine, report
from mixcpt.jobs import Jobs
from mixcpt.machine import Timings
from mixcpt.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_machine_is_measured_and_reported(workspace: Workspace) -> None:
    found = machine(workspace)
    assert found.cores >= 1 and found.memory_gb > 0 and found.timings.fp32 > 0 and found.timings.bf16 > 0
    assert (found.cuda is None) == (found.cuda_missing is not None)
    assert found.cpu in report(found) and found.precision in report(found)


def test_nf4_really_works_here(workspace: Workspace) -> None:
    assert machine(workspace).nf4_missing is None


def test_timings_are_kept_until_asked_for_anew(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    here = TIMINGS.model_copy(
        update={"cpu": facts.cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    )

    def measure() -> Timings:
        calls.append(1)
        return here

    monkeypatch.setattr(doctor, "measure", measure)
    assert machine(workspace).timings == machine(workspace).timings == here
    assert len(calls) == 1
    machine(workspace, refresh=True)
    assert len(calls) == 2


def test_timings_on_a_busy_machine_do_not_replace_better_ones(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    here: dict[str, Any] = {"cpu": facts.cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    measured = [Timings(fp32=200, bf16=60, **here), Timings(fp32=20, bf16=70, **here)]
    monkeypatch.setattr(doctor, "measure", lambda: measured.pop(0))
    machine(workspace)
    later = machine(workspace, refresh=True).timings
    assert (later.fp32, later.bf16) == (200, 70)


def test_the_whole_machine_is_kept_and_read_without_measuring(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = machine(workspace)
    monkeypatch.setattr(doctor, "measure", lambda: pytest.fail("it was measured a moment ago"))
    free = {"memory_available_gb", "disk_free_gb", "cuda"}  # these are looked at anew
    for again in (machine(workspace), facts.read(workspace)):
        assert again and again.model_dump(exclude=free) == found.model_dump(exclude=free)


def test_a_file_with_timings_only_is_measured_anew(workspace: Workspace) -> None:
    """So it was kept before there was an app."""
    (workspace.root / "machine.json").write_text(json.dumps(TIMINGS.model_dump()))
    assert machine(workspace).timings.cpu == facts.cpu_name()
    assert facts.read(workspace) is not None


def test_a_gpu_that_came_is_noticed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "measure", lambda: TIMINGS)
    machine(workspace)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(doctor, "_gpu", lambda: (H200, None))
    monkeypatch.setattr(doctor, "_nf4", lambda device: ("0.50.2", f"fails on this {device}"))
    found = machine(workspace)
    assert found.cuda == H200 and found.precision == "bf16"


def test_the_doctor_is_a_job(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    timings = TIMINGS.model_copy(update={"fp32": 1.0, "bf16": 2.0})
    monkeypatch.setattr(doctor, "measure", lambda: timings)
    job = Jobs(workspace).submit("doctor", {})
    assert worker.work(worker.JobContext(workspace, job)) == 0
    found = facts.read(workspace)
    assert found and found.timings == timings
    assert job.state == "done" and f"in {found.precision}." in job.status.message


def test_a_gpu_in_the_report() -> None:
    assert "the GPU" in report(WITH_GPU)
    broken = WITH_GPU.model_copy(update={"nf4_missing": "bitsandbytes 0.50.2 fails on this cuda (x); use bf16"})
    assert "4-bit models (NF4)" in report(broken)


def test_free_memory_of_the_gpu_is_told_apart_from_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = SimpleNamespace(name="H200", major=9, minor=0, uuid="1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: seen)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (35_000_000_000, 140_000_000_000))
    monkeypatch.setattr(doctor, "_gflops", lambda dtype, device, shapes: 700_000.0)
    assert doctor._gpu() == (H200.model_copy(update={"bf16": 700_000.0}), None)

    def full(*_: object) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(doctor, "_gflops", full)
    assert doctor._gpu() == (H200, None)  # its speed stays unknown, and nothing fails
    assert "140 GB, 35 GB of it free" in report(WITH_GPU)


def test_gpu_beside_a_build_without_cuda_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor, "_NVIDIA", tmp_path)
    gpu, reason = doctor._gpu()
    assert gpu is None and "build without CUDA" in str(reason) and "scripts/setup.sh" in str(reason)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "driver" in str(doctor._gpu()[1])


def test_report_tells_what_is_missing() -> None:
    words = report(PLAIN.model_copy(update={"disk_free_gb": 1.0}))
    assert "set MIXCPT_HOME" in words and "needs a GPU" not in words.split("missing")[0]
    assert "nothing" in report(WITH_GPU)
