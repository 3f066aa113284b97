"""Facts about this machine, without torch: `mixcpt.doctor` measures them, machine.json in the workspace keeps them.

What changes by the minute (free memory and disk) is looked at anew whenever they are read. They are not believed any
more once anything has changed that they follow from: processor, threads, PyTorch, bitsandbytes or the GPU's driver. It
gives up noticing that a GPU broke while all of that stayed the same: whoever imports torch does (`doctor.machine`).
"""

import functools
import math
import os
import platform
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Literal

import psutil
from pydantic import BaseModel, ConfigDict, ValidationError

from mixcpt.config import ModelConfig
from mixcpt.errors import Unavailable
from mixcpt.workspace import Workspace, write_json

Device = Literal["cuda", "cpu"]
Precision = Literal["nf4", "bf16", "fp32"]
CpuPrecision = Literal["bf16", "fp32"]
Origin = dict[str, str | int]

_DRIVER = Path("/proc/driver/nvidia/version")
_CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
_GPU_SECONDS = 10
"""How long a reading of the GPU's free memory serves: nvidia-smi can take half a second."""


class _Facts(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Timings(_Facts):
    """Speed of matrix products on the CPU in GFLOP/s, and what they were measured with."""

    fp32: float
    bf16: float
    cpu: str
    threads: int
    torch: str

    @property
    def precision(self) -> CpuPrecision:
        return "bf16" if self.bf16 > self.fp32 else "fp32"


class Gpu(_Facts):
    """`memory_free_gb` is that of the latest look; `uuid` is the name that nvidia-smi knows it by; `bf16` is the speed
    of its matrix products in GFLOP/s, None where an older version looked."""

    name: str
    memory_gb: float
    memory_free_gb: float
    capability: str
    uuid: str
    bf16: float | None = None


class Machine(_Facts):
    """This machine. Sizes in GB (1e9 bytes); a `..._missing` field holds the reason, or None when it is there."""

    cpu: str
    cores: int
    memory_gb: float
    memory_available_gb: float
    disk_free_gb: float
    python: str
    torch: str
    cuda: Gpu | None
    cuda_missing: str | None
    bitsandbytes: str | None
    nf4_missing: str | None
    timings: Timings

    @property
    def cpu_precision(self) -> CpuPrecision:
        return self.timings.precision

    @property
    def precision(self) -> Precision:
        """What `precision: auto` means here, on the device that `device: auto` takes."""
        return "nf4" if self.cuda and not self.nf4_missing else "bf16" if self.cuda else self.cpu_precision

    def computes_in(self, device: str, precision: str) -> str:
        """The type of the products of a base in this precision: NF4 has none of its own; see `models.compute_type`."""
        if precision != "nf4":
            return precision
        return "bf16" if device == "cuda" else self.cpu_precision

    @property
    def why(self) -> str:
        """The reason for `precision`, in words."""
        speeds = f"bf16 {self.timings.bf16:,.0f} GFLOP/s, fp32 {self.timings.fp32:,.0f} GFLOP/s"
        if self.cuda and self.nf4_missing:
            return "there is a GPU, but NF4 does not work on it"
        if self.cuda:
            return "on a GPU the frozen base is held in 4 bits (QLoRA), which needs a quarter of the memory of bf16"
        return f"matrix products here are faster in {self.precision} ({speeds})"


class _Kept(_Facts):
    origin: Origin
    machine: Machine


def read(workspace: Workspace) -> Machine | None:
    """The kept facts, with free memory and disk as they are now; None when this machine was not measured yet, or has
    changed since. Takes a millisecond; with a GPU once in ten seconds as long as nvidia-smi does, two at most."""
    try:
        kept = _Kept.model_validate_json(_path(workspace).read_bytes())
    except (FileNotFoundError, ValidationError):  # never measured, or by another version
        return None
    return _refreshed(kept.machine, workspace) if kept.origin == _origin() else None


def keep(workspace: Workspace, machine: Machine) -> None:
    """Write down what was measured now, for `read`."""
    write_json(_path(workspace), _Kept(origin=_origin(), machine=machine).model_dump())


def here(workspace: Workspace) -> Machine:
    """The kept facts; without any it measures, which imports torch and takes about ten seconds."""
    if kept := read(workspace):
        return kept
    from mixcpt import doctor

    return doctor.machine(workspace)


def resolve(config: ModelConfig, machine: Machine) -> tuple[Device, Precision]:
    """The device and precision that `config` means on `machine`.

    Raises:
        Unavailable: CUDA or NF4 was asked for, and this machine cannot do it.
    """
    if config.device == "cuda" and machine.cuda is None:
        raise Unavailable(
            f"device is 'cuda', but it cannot be used ({machine.cuda_missing}): set device to auto or cpu."
        )
    device: Device = "cuda" if config.device != "cpu" and machine.cuda else "cpu"
    if config.precision == "auto":
        return device, machine.precision if device == "cuda" else machine.cpu_precision
    if config.precision == "nf4" and machine.nf4_missing:
        raise Unavailable(
            f"precision is 'nf4', but it does not work on this machine ({machine.nf4_missing}): set precision to bf16."
        )
    return device, config.precision


def peak_gflops(facts: Machine, device: str, precision: str) -> float | None:
    """The measured speed of matrix products in the type that this precision computes in; None where it was not."""
    if device == "cuda":
        return facts.cuda.bf16 if facts.cuda and precision != "fp32" else None
    return facts.timings.bf16 if facts.computes_in(device, precision) == "bf16" else facts.timings.fp32


def settled(config: ModelConfig) -> tuple[Device, Precision] | None:
    """What `config` means on any machine, so that none need be measured; None when it depends."""
    if config.device == "cpu" and (config.precision == "bf16" or config.precision == "fp32"):
        return "cpu", config.precision
    return None


@functools.cache
def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gigabytes(size: float) -> float:
    return round(size / 1e9, 1)


def memory_gb() -> tuple[float, float]:
    """All memory and what is free of it, in GB; in a container what it may use."""
    memory = psutil.virtual_memory()
    limit, used = _container()
    return gigabytes(min(memory.total, limit)), gigabytes(min(memory.available, limit - used))


def disk_free_gb(workspace: Workspace) -> float:
    return gigabytes(shutil.disk_usage(workspace.root).free)


def _container() -> tuple[float, float]:
    """The container's memory limit and what is used of it, in bytes, without the file cache that makes room when
    asked; outside of one infinity and 0."""
    for folder, limit, used, cache in _CGROUPS:
        try:
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            in_use = float((folder / used).read_text(encoding="ascii")) - float(stat[cache])
            return float((folder / limit).read_text(encoding="ascii")), in_use
        except (OSError, ValueError, KeyError):  # not this kind of container, or its limit reads "max"
            continue
    return math.inf, 0.0


def _path(workspace: Workspace) -> Path:
    return workspace.root / "machine.json"


def _origin() -> Origin:
    """All that the measured facts follow from."""
    threads = {name: os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]  # a worker sees only the first
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        **threads,
        "gpu": gpu,
        "driver": _DRIVER.read_text(encoding="utf-8").partition("\n")[0] if _DRIVER.exists() else "",
        "python": platform.python_version(),
        "torch": _version("torch"),
        "bitsandbytes": _version("bitsandbytes"),
    }


@functools.cache
def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _refreshed(machine: Machine, workspace: Workspace) -> Machine:
    total, available = memory_gb()
    changes = {"memory_gb": total, "memory_available_gb": available, "disk_free_gb": disk_free_gb(workspace)}
    if machine.cuda is None:
        return machine.model_copy(update=changes)
    free = _gpu_free_gb(machine.cuda.uuid, machine.cuda.memory_gb, int(time.monotonic() / _GPU_SECONDS))
    gpu = machine.cuda.model_copy(update={} if free is None else {"memory_free_gb": free})
    return machine.model_copy(update={**changes, "cuda": gpu})


@functools.lru_cache(maxsize=4)
def _gpu_free_gb(uuid: str, memory_gb: float, _moment: int) -> float | None:
    """Free memory of a GPU as nvidia-smi tells it; None, and the kept figure serves, when it does not answer in time
    or speaks of more memory than `memory_gb`, because what we use is a part of that GPU (MIG)."""
    command = ["nvidia-smi", f"--id={uuid}", "--query-gpu=memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=2, check=True).stdout
        total, free = (gigabytes(float(mebibytes) * 2**20) for mebibytes in answer.split(","))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return free if total < 1.1 * memory_gb else None
