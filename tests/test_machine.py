"""The kept facts about a machine: when they are believed, what is looked at anew, and what `auto` means on it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from mixcpt import machine
from mixcpt.config import ModelConfig
from mixcpt.drafts import default_stage
from mixcpt.errors import Unavailable
from mixcpt.machine import Gpu, Machine, Timings
from mixcpt.stages import Stage
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
H200 = Gpu(name="H200", memory_gb=140.0, memory_free_gb=35.0, capability="9.0", uuid="GPU-1")
WITH_GPU = PLAIN.model_copy(update={"cuda": H200, "cuda_missing": None})
BROKEN_NF4 = "bitsandbytes 0.50.2 fails on this cuda (x); use bf16"


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's GPU, no container, and figures for memory and disk that can be told by hand."""
    machine._gpu_free_gb.cache_clear()
    monkeypatch.setattr(machine, "_CGROUPS", ())
    memory = SimpleNamespace(total=16e9, available=7e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=3e9))


@pytest.mark.parametrize(
    ("facts", "device", "precision", "wanted"),
    [
        (PLAIN, "cpu", "bf16", 900.0),
        (PLAIN, "cpu", "fp32", 200.0),
        (PLAIN, "cpu", "nf4", 900.0),  # multiplied in bf16, which is faster here
        (WITH_GPU, "cuda", "bf16", None),  # measured by an older version
        (PLAIN.model_copy(update={"cuda": H200.model_copy(update={"bf16": 700_000.0})}), "cuda", "nf4", 700_000.0),
        (PLAIN.model_copy(update={"cuda": H200.model_copy(update={"bf16": 700_000.0})}), "cuda", "fp32", None),
        (PLAIN, "cuda", "bf16", None),
    ],
)
def test_the_peak_is_that_of_the_numbers_that_are_multiplied(
    facts: Machine, device: str, precision: str, wanted: float | None
) -> None:
    assert machine.peak_gflops(facts, device, precision) == wanted


def nvidia_smi(monkeypatch: pytest.MonkeyPatch, answer: str | Exception) -> list[list[str]]:
    """Let nvidia-smi answer this; returns the commands that it was called with."""
    calls: list[list[str]] = []

    def run(command: list[str], **options: Any) -> SimpleNamespace:
        assert options["timeout"] <= 2
        calls.append(command)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_what_was_kept_is_read_with_memory_and_disk_as_they_are_now(workspace: Workspace) -> None:
    assert machine.read(workspace) is None
    machine.keep(workspace, PLAIN)
    found = machine.read(workspace)
    assert found == PLAIN.model_copy(
        update={"memory_gb": 16.0, "memory_available_gb": 7.0, "disk_free_gb": 3.0},
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("cpu_name", lambda: "Another CPU"), ("cores", lambda: 96), ("_version", lambda package: f"{package} 99")],
)
def test_facts_of_another_machine_or_version_are_not_believed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    machine.keep(workspace, PLAIN)
    monkeypatch.setattr(machine, name, value)
    assert machine.read(workspace) is None


@pytest.mark.parametrize("variable", ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES"])
def test_facts_of_another_environment_are_not_believed(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv(variable, raising=False)
    machine.keep(workspace, PLAIN)
    monkeypatch.setenv(variable, "7")
    assert machine.read(workspace) is None


def test_another_gpu_driver_means_measuring_anew(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(machine, "_DRIVER", driver)
    machine.keep(workspace, PLAIN)
    driver.write_text("NVRM version: 580\nGCC version: 12\n")
    assert machine.read(workspace) is None


def test_a_worker_and_the_app_believe_the_same_facts(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor lets a worker see the first GPU only, and names it where the app's environment names none."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    machine.keep(workspace, PLAIN)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert machine.read(workspace) is not None


@pytest.mark.parametrize(
    "kept",
    ["not json", "{}", "[]", json.dumps(TIMINGS.model_dump()), json.dumps({"origin": {}, "machine": {"cpu": "x"}})],
)
def test_a_file_of_an_older_version_is_measured_anew(workspace: Workspace, kept: str) -> None:
    """Before, machine.json held the timings alone."""
    (workspace.root / "machine.json").write_text(kept)
    assert machine.read(workspace) is None


def test_free_memory_of_the_gpu_is_asked_anew(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.keep(workspace, WITH_GPU)
    calls = nvidia_smi(monkeypatch, "133514, 20000\n")  # MiB: 140.0 GB, 21.0 GB
    found = [machine.read(workspace) for _ in range(20)]
    assert all(one and one.cuda and one.cuda.memory_free_gb == 21.0 for one in found)
    assert 1 <= len(calls) <= 2, "an answer serves for ten seconds"
    assert "--id=GPU-1" in calls[0]


@pytest.mark.parametrize(
    "answer",
    [
        FileNotFoundError("nvidia-smi"),
        subprocess.TimeoutExpired("nvidia-smi", 2),
        subprocess.CalledProcessError(6, "nvidia-smi"),
        "[N/A], [N/A]\n",
        "300000, 290000\n",  # the whole of a GPU of which only a slice is ours
    ],
)
def test_without_a_usable_answer_the_kept_figure_serves(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, answer: str | Exception
) -> None:
    machine.keep(workspace, WITH_GPU)
    nvidia_smi(monkeypatch, answer)
    found = machine.read(workspace)
    assert found and found.cuda and found.cuda.memory_free_gb == 35.0


def test_in_a_container_its_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4 GB allowed, 1.5 GB used, of which 0.5 GB are cache that makes room when asked: 3 GB are free."""
    (tmp_path / "memory.stat").write_text("anon 1000000000\ninactive_file 500000000\n")
    (tmp_path / "memory.current").write_text("1500000000\n")
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUPS", ((tmp_path, "memory.max", "memory.current", "inactive_file"),))
    limit.write_text("4000000000\n")
    assert machine.memory_gb() == (4.0, 3.0)
    limit.write_text("max\n")
    assert machine.memory_gb() == (16.0, 7.0)


def test_faster_precision_is_chosen_on_the_cpu() -> None:
    assert PLAIN.precision == "bf16"
    slow = PLAIN.model_copy(update={"timings": TIMINGS.model_copy(update={"bf16": 60.0})})
    assert slow.precision == "fp32" and "faster in fp32" in slow.why
    assert machine.resolve(ModelConfig(), slow) == ("cpu", "fp32")


def test_gpu_means_nf4_unless_it_fails() -> None:
    broken = WITH_GPU.model_copy(update={"nf4_missing": BROKEN_NF4})
    assert (WITH_GPU.precision, broken.precision) == ("nf4", "bf16")
    assert machine.resolve(ModelConfig(), WITH_GPU) == ("cuda", "nf4")
    assert machine.resolve(ModelConfig(), broken) == ("cuda", "bf16")


@pytest.mark.parametrize(
    ("device", "precision", "on", "meant"),
    [
        ("auto", "auto", PLAIN, ("cpu", "bf16")),
        ("auto", "fp32", PLAIN, ("cpu", "fp32")),
        ("auto", "nf4", PLAIN, ("cpu", "nf4")),
        ("cpu", "auto", WITH_GPU, ("cpu", "bf16")),
        ("cuda", "auto", WITH_GPU, ("cuda", "nf4")),
        ("auto", "bf16", WITH_GPU, ("cuda", "bf16")),
    ],
)
def test_what_a_setting_means_here(device: Any, precision: Any, on: Machine, meant: tuple[str, str]) -> None:
    assert machine.resolve(ModelConfig(device=device, precision=precision), on) == meant


def test_what_this_machine_cannot_do_is_refused_with_the_remedy() -> None:
    with pytest.raises(Unavailable, match=r"'cuda'.*no NVIDIA GPU was found.*set device to auto or cpu"):
        machine.resolve(ModelConfig(device="cuda"), PLAIN)
    with pytest.raises(Unavailable, match=r"'nf4'.*fails on this cuda.*set precision to bf16"):
        machine.resolve(ModelConfig(precision="nf4"), WITH_GPU.model_copy(update={"nf4_missing": BROKEN_NF4}))


def test_only_what_depends_on_no_machine_is_settled_without_one() -> None:
    assert machine.settled(ModelConfig(device="cpu", precision="bf16")) == ("cpu", "bf16")
    assert machine.settled(ModelConfig(device="cpu", precision="fp32")) == ("cpu", "fp32")
    for device, precision in (("cpu", "auto"), ("cpu", "nf4"), ("auto", "bf16"), ("cuda", "fp32")):
        assert machine.settled(ModelConfig.model_validate({"device": device, "precision": precision})) is None


def test_an_estimate_needs_no_torch_once_the_machine_is_known(workspace: Workspace, tiny_model_folder: Path) -> None:
    """In a process of its own: `check_fits` of a recipe, `estimate_stage` and `estimate_at_once`."""
    stage = default_stage().model_dump(mode="json") | {"model": {"name": str(tiny_model_folder)}}
    config = Stage.model_validate(stage)
    script = (
        "import sys\n"
        "from mixcpt import outlook, recipes\n"
        "from mixcpt.stages import Stage\n"
        "from mixcpt.recipe import Recipe\n"
        "from mixcpt.workspace import Workspace\n"
        "stage = Stage.model_validate_json(sys.argv[1])\n"
        "workspace = Workspace(sys.argv[2])\n"
        "needed = outlook.estimate_stage(workspace, stage)\n"
        "assert outlook.estimate_at_once(workspace, stage) == needed\n"
        "recipes.check_fits(workspace, Recipe(name='r', cpt=stage), print)\n"
        "print(*[name for name in ('torch', 'transformers', 'huggingface_hub.file_download') if name in sys.modules])\n"
    )
    machine.keep(workspace, PLAIN)
    command = [sys.executable, "-c", script, config.model_dump_json(), str(workspace.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told, imported = done.stdout.split("\n")[:2]
    assert "training is estimated at" in told and imported == ""
