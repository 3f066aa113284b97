"""What the doctor says about machines, real and imagined."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mixcpt import doctor
from mixcpt.doctor import Gpu, Machine, Timings, machine, report
from mixcpt.workspace import Workspace

TIMINGS = Timings(fp32=200.0, bf16=900.0, cpu="Some CPU", threads=2, torch="2.13.0")
PLAIN = Machine(
    cpu="Some CPU",
    cores=2,
    memory_gb=24.0,
    memory_available_gb=20.0,
    disk_free_gb=50.0,
    python="3.11.7",
    torch="2.13.0",
    cuda=None,
    cuda_missing="no NVIDIA GPU was found",
    bitsandbytes="0.50.2",
    nf4_missing=None,
    timings=TIMINGS,
)
H200 = Gpu(name="H200", memory_gb=140.0, memory_free_gb=35.0, capability="9.0")
WITH_GPU = PLAIN.model_copy(update={"cuda": H200, "cuda_missing": None})


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
        update={"cpu": doctor._cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
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
    here: dict[str, Any] = {"cpu": doctor._cpu_name(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    measured = [Timings(fp32=200, bf16=60, **here), Timings(fp32=20, bf16=70, **here)]
    monkeypatch.setattr(doctor, "measure", lambda: measured.pop(0))
    machine(workspace)
    later = machine(workspace, refresh=True).timings
    assert (later.fp32, later.bf16) == (200, 70)


@pytest.mark.parametrize("kept", ["not json", "{}", json.dumps(TIMINGS.model_dump())])
def test_timings_of_another_machine_or_version_are_not_believed(workspace: Workspace, kept: str) -> None:
    (workspace.root / "machine.json").write_text(kept)
    assert machine(workspace).timings.cpu == doctor._cpu_name()


def test_faster_precision_is_chosen_on_the_cpu() -> None:
    assert PLAIN.precision == "bf16"
    slow = PLAIN.model_copy(update={"timings": TIMINGS.model_copy(update={"bf16": 60.0})})
    assert slow.precision == "fp32" and "faster in fp32" in slow.why


def test_gpu_means_nf4_unless_it_fails() -> None:
    assert WITH_GPU.precision == "nf4" and "the GPU" in report(WITH_GPU)
    broken = WITH_GPU.model_copy(update={"nf4_missing": "bitsandbytes 0.50.2 fails on this cuda (x); use bf16"})
    assert broken.precision == "bf16" and "4-bit models (NF4)" in report(broken)


def test_free_memory_of_the_gpu_is_told_apart_from_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="H200", major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (35_000_000_000, 140_000_000_000))
    assert doctor._gpu() == (H200, None)
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
