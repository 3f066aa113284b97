"""What this machine can do, measured, and what it lacks, with the remedy.

Measuring never fails: what does not work is part of the answer.
"""

import functools
import logging
import platform
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mixcpt import machine as facts
from mixcpt.machine import CpuPrecision, Gpu, Machine, Timings
from mixcpt.worker import JobContext
from mixcpt.workspace import Workspace

_SHAPES = ((1024, 576, 1536), (1024, 1024, 1024))
_GPU_SHAPES = ((8192, 4096, 4096), (8192, 4096, 14336))
_SECONDS_PER_TIMING = 0.25
_NVIDIA = Path("/proc/driver/nvidia/gpus")
_WINDOWS_SUBSYSTEM_GPU = Path("/dev/dxg")


def machine(workspace: Workspace, refresh: bool = False) -> Machine:
    """The facts about this machine: those kept in the workspace, as `mixcpt.machine.read` gives them, unless `refresh`
    is set or a GPU came or went. Measuring takes some seconds; what is found is kept."""
    kept = facts.read(workspace)
    if kept and not refresh and (kept.cuda is not None) == torch.cuda.is_available():
        return kept
    found = _look(workspace, _timings(kept.timings if kept else None))
    facts.keep(workspace, found)
    return found


def run_job(context: JobContext) -> str:
    """The `doctor` job: measures this machine anew and keeps what it finds."""
    context.progress(None, "measuring this machine")
    found = machine(context.workspace, refresh=True)
    where = found.cuda.name if found.cuda else f"the processor, {found.cores} cores"
    return f"Measured: training will use {where}, in {found.precision}."


def _look(workspace: Workspace, timings: Timings) -> Machine:
    gpu, cuda_missing = _gpu()
    bitsandbytes, nf4_missing = _nf4("cuda" if gpu else "cpu")
    memory, memory_available = facts.memory_gb()
    return Machine(
        cpu=facts.cpu_name(),
        cores=facts.cores(),
        memory_gb=memory,
        memory_available_gb=memory_available,
        disk_free_gb=facts.disk_free_gb(workspace),
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=gpu,
        cuda_missing=cuda_missing,
        bitsandbytes=bitsandbytes,
        nf4_missing=nf4_missing,
        timings=timings,
    )


def _gpu() -> tuple[Gpu | None, str | None]:
    """The first usable NVIDIA GPU, or why there is none."""
    if torch.cuda.is_available():
        seen = torch.cuda.get_device_properties(0)
        free, total = torch.cuda.mem_get_info(0)
        return Gpu(
            name=seen.name,
            memory_gb=facts.gigabytes(total),
            memory_free_gb=facts.gigabytes(free),
            capability=f"{seen.major}.{seen.minor}",
            uuid=f"GPU-{seen.uuid}",
            bf16=_gpu_gflops(),
        ), None
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


def _gpu_gflops() -> float | None:
    """The speed of matrix products in bf16; None on a GPU that cannot do them, or is full."""
    try:
        return _gflops(torch.bfloat16, "cuda", _GPU_SHAPES)
    except RuntimeError:  # out of memory is one, too
        return None


@functools.cache
def _nf4(device: str) -> tuple[str | None, str | None]:
    """The version of bitsandbytes, and why NF4 does not work on `device` (None: it does). Quantises and multiplies."""
    # It looks for faster kernels on a hub, and warns of what nobody needs when it finds none.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
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


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _timings(kept: Timings | None) -> Timings:
    """Timed anew, the better of that and what is kept, because whatever else ran at the time can only have made a
    figure worse."""
    timings = measure()
    if kept is None:
        return timings
    return timings.model_copy(update={"fp32": max(timings.fp32, kept.fp32), "bf16": max(timings.bf16, kept.bf16)})


def measure() -> Timings:
    """Time matrix products of the shapes of small models; about a second."""
    return Timings(
        fp32=_gflops(torch.float32),
        bf16=_gflops(torch.bfloat16),
        cpu=facts.cpu_name(),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


@functools.cache
def cpu_precision() -> CpuPrecision:
    """The faster of bf16 and fp32 on this CPU, measured once a process; for callers that have no workspace."""
    return measure().precision


def _gflops(dtype: torch.dtype, device: str = "cpu", shapes: tuple[tuple[int, int, int], ...] = _SHAPES) -> float:
    """The fastest repetition, harmonic over the shapes (as if each were multiplied in turn)."""
    seconds = sum(_seconds(shape, dtype, device) for shape in shapes)
    return round(sum(2 * m * k * n for m, k, n in shapes) / seconds / 1e9, 1)


def _seconds(shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> float:
    m, k, n = shape
    left, right = torch.ones(m, k, dtype=dtype, device=device), torch.ones(n, k, dtype=dtype, device=device)
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    with torch.inference_mode():
        torch.nn.functional.linear(left, right)  # the first product prepares kernels
        wait()
        taken: list[float] = []
        while len(taken) < 3 or (sum(taken) < _SECONDS_PER_TIMING and len(taken) < 200):
            start = time.perf_counter()
            torch.nn.functional.linear(left, right)
            wait()
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
