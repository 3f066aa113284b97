"""The terms of `mixcpt.terms` in the form that a compiler turns into a few kernels: for a GPU, where passes over
[tokens, vocabulary] are what costs, and not the memory between them.

Nothing is gathered into or scattered onto such a tensor; the entries that matter are told by comparing columns. On a
processor it does not pay: compiling takes 24 s there, and `mixcpt.terms` by blocks in its cache is as fast.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mixcpt.logits import Head


def is_fused(device: torch.device) -> bool:
    """Whether terms are computed by compiled kernels there: on a GPU, with the compiler that PyTorch brings for it."""
    return device.type == "cuda" and find_spec("triton") is not None


def fused_terms(
    student: Tensor,
    head: Head,
    teacher: Tensor | None,
    teacher_head: Head,
    labels: Tensor,
    ce_weight: Tensor,
    retention_weight: Tensor,
    temperature: float,
    swap: bool,
    reverse: bool,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """As `terms.terms_of_products`, in a few kernels."""
    shapes = ((each.bias, each.scale, each.softcap) for each in (head, teacher_head))
    weights = (ce_weight, retention_weight * temperature)
    found: tuple[Tensor, Tensor] = _compiled()(
        student, teacher, labels, *weights, *shapes, temperature, swap, reverse, wants_gradient
    )
    return found


@cache
def _compiled() -> Any:
    return torch.compile(uncompiled)


def uncompiled(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    ce_weight: Tensor,
    pull_weight: Tensor,
    shape: tuple[Tensor | None, float, float | None],
    teacher_shape: tuple[Tensor | None, float, float | None],
    temperature: float,
    swap: bool,
    reverse: bool,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and retention [n]; overwrites `student` with the gradient. `pull_weight` holds the temperature."""
    index = labels.unsqueeze(1)
    column = torch.arange(student.shape[1], device=student.device)
    logits = _shaped(student, *shape)
    s = logits - logits.amax(1, keepdim=True)
    p, log_sum = _softmax(s)
    ce = (log_sum - s.gather(1, index)).squeeze(1)
    gradient = (p - (column == index).float()) * ce_weight
    retention = torch.zeros_like(ce)
    if teacher is not None:
        z = _shaped(teacher, *teacher_shape)
        top = z.argmax(1, keepdim=True)
        at_top, at_label = z.gather(1, top), z.gather(1, index)
        if swap:
            z = torch.where(column == top, at_label, torch.where(column == index, at_top, z))
        z = z - at_top
        if temperature != 1:
            s, z = s / temperature, z / temperature
            p, log_sum = _softmax(s)
        q, teacher_log_sum = _softmax(z)
        ratio, one, sign = (s - z, p, -1.0) if reverse else (z - s, q, 1.0)
        mean = torch.where(one == 0, 0.0, one * ratio).sum(1, keepdim=True)
        retention = (mean + sign * (log_sum - teacher_log_sum)).squeeze(1)
        pull = torch.where(p == 0, 0.0, p * (ratio - mean)) if reverse else p - q
        gradient = gradient + pull * pull_weight
    if wants_gradient:
        _, scale, softcap = shape
        if softcap is not None:
            gradient = gradient * (1 - (logits / softcap) ** 2)
        student.copy_(gradient * scale)
    return ce, retention


def _shaped(product: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Tensor:
    return Head(product, bias, softcap, scale).shaped(product)


def _softmax(relative: Tensor) -> tuple[Tensor, Tensor]:
    """As `terms._softmax`: the largest are left out of the sum of powers, however many tie."""
    powers, is_top = relative.exp(), relative == 0
    others = torch.where(is_top, 0.0, powers).sum(1, keepdim=True)
    tops = is_top.float().sum(1, keepdim=True)
    return powers / (others + tops), torch.log1p(others + (tops - 1))
