"""What this machine can do, measured, and what it lacks, with the remedy.

Measuring never fails: what does not work is part of the answer.
"""

import functools
import json
import os
import platform
import shutil
import time
from pathlib import Path
from typing import Literal

import psutil
import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from mixcpt.workspace import Workspace, read_json, write_json

_SHAPES = ((1024, 576, 1536), (1024, 1024, 1024))
_SECONDS_PER_TIMING = 0.25
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_WINDOWS_SUBSYSTEM_GPU = Path("/dev/dxg")
CpuPrecision = Literal["bf16", "fp32"]


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
    name: str
    memory_gb: float
    memory_free_gb: float
    capability: str


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
    def precision(self) -> Literal["nf4", "bf16", "fp32"]:
        """What `precision: auto` means here, on the device that `device: auto` takes."""
        return "nf4" if self.cuda and not self.nf4_missing else "bf16" if self.cuda else self.cpu_precision

    @property
    def why(self) -> str:
        """The reason for `precision`, in words."""
        speeds = f"bf16 {self.timings.bf16:,.0f} GFLOP/s, fp32 {self.timings.fp32:,.0f} GFLOP/s"
        if self.cuda and self.nf4_missing:
            return "there is a GPU, but NF4 does not work on it"
        if self.cuda:
            return "on a GPU the frozen base is held in 4 bits (QLoRA), which needs a quarter of the memory of bf16"
        return f"matrix products here are faster in {self.precision} ({speeds})"


def machine(workspace: Workspace, refresh: bool = False) -> Machine:
    """Look at this machine; a few seconds the first time. The timings are kept in the workspace's machine.json until
    the processor, its threads or PyTorch change, or `refresh` is set."""
    gpu, cuda_missing = _gpu()
    bitsandbytes, nf4_missing = _nf4("cuda" if gpu else "cpu")
    memory = psutil.virtual_memory()
    limit = _memory_limit()
    return Machine(
        cpu=_cpu_name(),
        cores=_cores(),
        memory_gb=_gb(min(memory.total, limit)),
        memory_available_gb=_gb(min(memory.available, limit)),
        disk_free_gb=_gb(shutil.disk_usage(workspace.root).free),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=gpu,
        cuda_missing=cuda_missing,
        bitsandbytes=bitsandbytes,
        nf4_missing=nf4_missing,
        timings=_kept_timings(workspace.root / "machine.json", refresh),
    )


def _gb(size: float) -> float:
    return round(size / 1e9, 1)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory_limit() -> float:
    """The container's memory limit in bytes, or infinity."""
    try:
        return float(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no container, or its limit reads "max"
        return float("inf")


def _gpu() -> tuple[Gpu | None, str | None]:
    """The first usable NVIDIA GPU, or why there is none."""
    if torch.cuda.is_available():
        facts = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        capability = f"{facts.major}.{facts.minor}"
        return Gpu(name=facts.name, memory_gb=_gb(total), memory_free_gb=_gb(free), capability=capability), None
    if not (_NVIDIA.is_dir() or _WINDOWS_SUBSYSTEM_GPU.exists() or shutil.which("nvidia-smi")):
        return None, "no NVIDIA GPU was found"
    if torch.version.cuda is None:
        return None, (
            f"there is an NVIDIA GPU, but PyTorch {torch.__version__} is a build without CUDA; run "
            "`bash scripts/setup.sh`, which installs the build with CUDA"
        )
    return None, (
        f"there is an NVIDIA GPU, but PyTorch cannot use it: its CUDA {torch.version.cuda} needs a newer driver, or "
        "`nvidia-smi` reports a fault; update the NVIDIA driver"
    )


@functools.cache
def _nf4(device: str) -> tuple[str | None, str | None]:
    """The version of bitsandbytes, and why NF4 does not work on `device` (None: it does). Quantises and multiplies."""
    try:
        import bitsandbytes
        from bitsandbytes.autograd._functions import matmul_4bit
    except Exception as error:  # a missing or broken native library shows itself in many ways
        return None, f"bitsandbytes cannot be imported ({_short(error)}); run `bash scripts/setup.sh`"
    version: str = bitsandbytes.__version__
    try:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(128, 64, generator=generator).to(device, torch.bfloat16)
        rows = torch.randn(4, 64, generator=generator).to(device, torch.bfloat16)
        codes, state = bitsandbytes.functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        product = matmul_4bit(rows, codes.t(), quant_state=state).float()
        wanted = rows.float() @ weight.float().t()
        error_share = float((product - wanted).norm() / wanted.norm())
    except Exception as error:  # whatever the kernel raises is the answer
        return version, f"bitsandbytes {version} fails on this {device} ({_short(error)}); use bf16"
    if not error_share < 0.2:  # 4 bits cost about a tenth; NaN fails too
        return version, f"bitsandbytes {version} computes wrongly on this {device} (off by {error_share:.0%}); use bf16"
    return version, None


def nf4_missing(device: str) -> str | None:
    """Why NF4 does not work on `device`, or None: it does."""
    return _nf4(device)[1]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _kept_timings(path: Path, refresh: bool) -> Timings:
    """The kept timings of this processor; with `refresh` timed again and the better of both kept, because whatever else
    ran at the time can only have made them worse."""
    kept = _read_timings(path)
    if kept and not refresh:
        return kept
    timings = measure()
    if kept:
        timings = timings.model_copy(
            update={"fp32": max(timings.fp32, kept.fp32), "bf16": max(timings.bf16, kept.bf16)}
        )
    write_json(path, timings.model_dump())
    return timings


def _read_timings(path: Path) -> Timings | None:
    """What is kept, unless it was measured with another processor, number of threads or PyTorch."""
    if not path.is_file():
        return None
    try:
        kept = Timings.model_validate(read_json(path))
    except (json.JSONDecodeError, ValidationError):  # from another version: measure anew
        return None
    same = (kept.cpu, kept.threads, kept.torch) == (_cpu_name(), torch.get_num_threads(), torch.__version__)
    return kept if same else None


def measure() -> Timings:
    """Time matrix products of the shapes of small models; about a second."""
    return Timings(
        fp32=_gflops(torch.float32),
        bf16=_gflops(torch.bfloat16),
        cpu=_cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


@functools.cache
def cpu_precision() -> CpuPrecision:
    """The faster of bf16 and fp32 on this CPU, measured once a process; for callers that have no workspace."""
    return measure().precision


def _gflops(dtype: torch.dtype) -> float:
    """The fastest repetition, harmonic over the shapes (as if each were multiplied in turn)."""
    seconds = sum(_seconds(shape, dtype) for shape in _SHAPES)
    return round(sum(2 * m * k * n for m, k, n in _SHAPES) / seconds / 1e9, 1)


def _seconds(shape: tuple[int, int, int], dtype: torch.dtype) -> float:
    m, k, n = shape
    left, right = torch.ones(m, k, dtype=dtype), torch.ones(n, k, dtype=dtype)
    with torch.inference_mode():
        torch.nn.functional.linear(left, right)  # the first product prepares kernels
        taken: list[float] = []
        while len(taken) < 3 or (sum(taken) < _SECONDS_PER_TIMING and len(taken) < 200):
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            taken.append(time.perf_counter() - start)
    return min(taken)  # whatever else runs can only slow a product down


def report(machine: Machine) -> str:
    """The machine in plain words."""
    lines = [
        "This machine",
        f"  Processor   {machine.cpu}, {machine.cores} cores",
        f"  Memory      {machine.memory_gb:.0f} GB, {machine.memory_available_gb:.0f} GB of it free",
        f"  Disk        {machine.disk_free_gb:.0f} GB free",
        f"  GPU         {_gpu_words(machine)}",
        f"  Python      {machine.python}, with PyTorch {machine.torch} and bitsandbytes {machine.bitsandbytes}",
        "",
        "What will be used",
        f"  Device      {'the GPU' if machine.cuda else 'the processor'}",
        f"  Precision   {machine.precision}: {machine.why}.",
    ]
    missing = _lacks(machine)
    lines += ["", "What is missing"] + [f"  - {lack}." for lack in missing or ["nothing"]]
    return "\n".join(lines)


def _gpu_words(machine: Machine) -> str:
    gpu = machine.cuda
    if gpu is None:
        return "none that can be used"
    memory = f"{gpu.memory_gb:.0f} GB, {gpu.memory_free_gb:.0f} GB of it free"
    return f"{gpu.name}, {memory}, compute capability {gpu.capability}"


def _lacks(machine: Machine) -> list[str]:
    lacks = []
    if machine.cuda_missing and "no NVIDIA GPU" in machine.cuda_missing:
        lacks.append("A GPU: no NVIDIA GPU was found; small models train on the processor, large ones need a GPU")
    elif machine.cuda_missing:
        lacks.append(f"The GPU: {machine.cuda_missing}")
    if machine.nf4_missing:
        lacks.append(f"4-bit models (NF4): {machine.nf4_missing}")
    if machine.memory_available_gb < 4:
        lacks.append(
            f"Memory: {machine.memory_available_gb:.1f} GB are free, the built-in model needs about 4; close programs"
        )
    if machine.disk_free_gb < 5:
        lacks.append(f"Disk: {machine.disk_free_gb:.1f} GB are free and 5 are wanted; free some, or set MIXCPT_HOME")
    return lacks
