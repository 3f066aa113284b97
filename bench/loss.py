"""The loss alone, from final hidden states to their gradient: ours, the usual code, the fused losses people install.

    python bench/loss.py [--quick] [--device cuda] [--tokens 1024] [--runs 5] [--precision bf16] [--chunk 128]
    pip install --no-deps liger-kernel orda-kernel      # peers that are not there are left out, with a sentence

Two pieces of work over a frozen head, each on the same states: KL(teacher || student), which all of them can do, and
CE + LSSD, which only ours and the usual code can. The usual code makes whole fp32 logits of both sides, a clone for the
swap, and takes kl_div. What a peer computes is held against ours before it is timed.

Times are medians; the peers take turns within every run, so that a busy moment of the machine meets all. Extra memory
is what a first call takes beyond its inputs: on a GPU `max_memory_allocated`; on a processor the highest resident size
of a fresh process (VmHWM, which is set back before the call), with the allocator told to give back what is freed.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from mixcpt.lssd import Head, Objective, chunked_loss

SHAPES = [(32_000, 2048), (49_152, 576), (128_256, 2048), (262_144, 640)]
"""Vocabulary and width of a 1.1B Llama, SmolLM2-135M, Llama 3.2 1B and Gemma 3 270M."""
QUICK = [(2_000, 64), (5_003, 32)]
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Case:
    """hidden, teacher: [tokens, width]. weight: [vocabulary, width], frozen. labels: [tokens], one in ten masked."""

    hidden: Tensor
    teacher: Tensor
    weight: Tensor
    labels: Tensor
    chunk: int

    @classmethod
    def of(cls, vocabulary: int, width: int, tokens: int, precision: str, device: str, chunk: int) -> "Case":
        generator = torch.Generator().manual_seed(0)
        dtype = DTYPES[precision]

        def normal(*size: int) -> Tensor:
            return torch.randn(*size, generator=generator, dtype=dtype)

        weight, hidden = normal(vocabulary, width).mul_(3 * width**-0.5), normal(tokens, width)
        teacher = hidden + 0.3 * normal(tokens, width)
        labels = torch.randint(0, vocabulary, (tokens,), generator=generator)
        labels[::10] = -100
        return cls(hidden.to(device), teacher.to(device), weight.to(device), labels.to(device), chunk)


Peer = Callable[[Case, Tensor], Tensor]
"""The loss of a case for student states that want a gradient, summed over the counted tokens."""


def ours(case: Case, student: Tensor) -> Tensor:
    objective = Objective(ce_weight=0.0, swap=False)
    return chunked_loss(student, case.teacher, case.labels, Head(case.weight), objective, case.chunk).total


def ours_lssd(case: Case, student: Tensor) -> Tensor:
    return chunked_loss(student, case.teacher, case.labels, Head(case.weight), Objective(), case.chunk).total


def usual(case: Case, student: Tensor) -> Tensor:
    logits, teacher = _whole_logits(case, student)
    terms = functional.kl_div(logits.log_softmax(-1), teacher.softmax(-1), reduction="none").sum(-1)
    return terms.masked_fill(case.labels == -100, 0.0).sum()


def usual_lssd(case: Case, student: Tensor) -> Tensor:
    logits, teacher = _whole_logits(case, student)
    swapped = teacher.clone()
    index = case.labels.clamp(min=0).unsqueeze(1)
    top, place = teacher.max(-1, keepdim=True)
    swapped.scatter_(1, place, teacher.gather(1, index)).scatter_(1, index, top)
    terms = functional.kl_div(logits.log_softmax(-1), swapped.softmax(-1), reduction="none").sum(-1)
    ce = functional.cross_entropy(logits, case.labels, reduction="sum")
    return ce + terms.masked_fill(case.labels == -100, 0.0).sum()


def _whole_logits(case: Case, student: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        teacher = (case.teacher @ case.weight.T).float()
    return (student @ case.weight.T).float(), teacher


def trl(case: Case, student: Tensor) -> Tensor:
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    counted = case.labels != -100
    terms, _ = ChunkedDivergenceFunction.apply(  # type: ignore[no-untyped-call]
        student[counted], case.weight, None, case.teacher[counted], case.weight, None, 0.0
    )
    return terms.sum()  # type: ignore[no-any-return]


def liger(case: Case, student: Tensor) -> Tensor:
    """The one in plain PyTorch, compiled where PyTorch can; it means over the counted tokens."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(0.0, 1.0, beta=0.0, compiled=case.hidden.is_cuda)
    mean = loss(student, case.weight, case.teacher, case.weight, case.labels)
    return mean * (case.labels != -100).sum()  # type: ignore[no-any-return]


def liger_kernel(case: Case, student: Tensor) -> Tensor:
    """The Triton one; it means over the counted tokens."""
    from liger_kernel.transformers.fused_linear_jsd import LigerFusedLinearJSD

    mean = LigerFusedLinearJSD(jsd_beta=0.0)(student, case.weight, case.teacher, case.weight, case.labels)
    return mean * (case.labels != -100).sum()  # type: ignore[no-any-return]


def orda(case: Case, student: Tensor) -> Tensor:
    """On a processor it makes whole logits, as its makers say; only its KL is asked for."""
    from orda_kernel import TiedTeacher, distillation_loss

    found = distillation_loss(
        student, case.weight, case.labels, TiedTeacher(hidden=case.teacher), student_ce_weight=0.0,
        teacher_ce_weight=0.0, kl_weight=1.0, reduction="sum",
    )  # fmt: skip
    return found.loss  # type: ignore[no-any-return]


WORK: dict[str, dict[str, Peer]] = {
    "KL": {
        "ours": ours,
        "usual code": usual,
        "TRL, chunked": trl,
        "Liger, chunked": liger,
        "Liger, Triton": liger_kernel,
        "ORDA": orda,
    },
    "CE + LSSD": {"ours": ours_lssd, "usual code": usual_lssd},
}


def run(peer: Peer, case: Case) -> tuple[Tensor, Tensor]:
    """Loss and gradient [tokens, width] of one call."""
    student = case.hidden.clone().requires_grad_()
    loss = peer(case, student)
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    if case.hidden.is_cuda:
        torch.cuda.synchronize()
    return loss.detach(), student.grad


def usable(peers: dict[str, Peer], case: Case) -> dict[str, Peer]:
    """Those that are here, work on this device, and compute what ours does; of the others it is said why not."""
    expected, gradient = run(peers["ours"], case)
    found = {}
    for name, peer in peers.items():
        try:
            loss, slope = run(peer, case)
        except ImportError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        except (RuntimeError, ValueError, NotImplementedError) as error:
            reason = str(error).strip().partition("\n")[0][:160]
            print(f"{name} is left out, it does not run here: {reason}", file=sys.stderr)
            continue
        off = (slope.float() - gradient.float()).norm() / gradient.float().norm()
        if abs(loss.item() - expected.item()) > 0.02 * abs(expected.item()) or off > 0.1:
            print(f"{name} is left out: its loss is {loss.item():.4g} and not {expected.item():.4g}, its gradient "
                  f"{off:.0%} off", file=sys.stderr)  # fmt: skip
            continue
        found[name] = peer
    return found


def times(peers: dict[str, Peer], case: Case, runs: int) -> dict[str, float]:
    """Median seconds of a call, the peers by turns."""
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(runs):
        for name, peer in peers.items():
            started = time.perf_counter()
            run(peer, case)
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(each) for name, each in seconds.items()}


def extra_bytes(peer: Peer, case: Case) -> int:
    """Highest memory of one call beyond what is held before it. On a processor right only in a process in which
    nothing large was freed before: `extra_memory` starts one."""
    if case.hidden.is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(peer, case)
        return torch.cuda.max_memory_allocated() - before
    with contextlib.suppress(PermissionError):  # then the peak of the inputs' making counts, which is small
        Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    run(peer, case)
    return _status("VmHWM") - before


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


def extra_memory(work: str, name: str, case: Case, arguments: list[str]) -> int:
    """Bytes, as `extra_bytes`; on a processor in a process of its own."""
    if case.hidden.is_cuda:
        return extra_bytes(WORK[work][name], case)
    vocabulary, width = case.weight.shape
    command = [sys.executable, __file__, *arguments, "--alone", json.dumps([work, name, vocabulary, width])]
    kept = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, env={**os.environ, **kept}, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def alone(options: argparse.Namespace) -> int:
    """In a fresh process: a small call first, for what is loaded and compiled once, then the one that counts."""
    work, name, vocabulary, width = json.loads(options.alone)
    run(WORK[work][name], Case.of(512, 32, 64, options.precision, options.device, options.chunk))
    case = Case.of(vocabulary, width, options.tokens, options.precision, options.device, options.chunk)
    return extra_bytes(WORK[work][name], case)


def lines(options: argparse.Namespace, arguments: list[str]) -> Iterator[str]:
    """The table, a line as soon as it is known."""
    yield "| vocabulary × width | work | loss | time | usual ÷ it | extra memory | of the usual |"
    yield "| --- | --- | --- | ---: | ---: | ---: | ---: |"
    for vocabulary, width in QUICK if options.quick else SHAPES:
        case = Case.of(vocabulary, width, options.tokens, options.precision, options.device, options.chunk)
        for work, peers in WORK.items():
            there = usable(peers, case)
            seconds = times(there, case, options.runs)
            memory = {name: extra_memory(work, name, case, arguments) for name in there}
            for name in there:
                yield (
                    f"| {vocabulary:,} × {width:,} | {work} | {name} | {seconds[name] * 1000:,.1f} ms | "
                    f"{seconds['usual code'] / seconds[name]:.2f} | {memory[name] / 1e6:,.1f} MB | "
                    f"{memory[name] / memory['usual code']:.0%} |"
                )


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two tiny shapes, to see that it runs")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--precision", default="bf16", choices=tuple(DTYPES))
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=256, help="tokens whose logits ours makes at once")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> None:
    options = parsed(sys.argv[1:])
    if options.alone:
        print(alone(options))
        return
    place = torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} cores"
    print(
        f"{place}, torch {torch.__version__}, {options.precision}, {options.tokens:,} tokens, medians of {options.runs}"
    )
    for line in lines(options, sys.argv[1:]):
        print(line, flush=True)


if __name__ == "__main__":
    main()
