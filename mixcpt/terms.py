"""What single tokens cost: cross-entropy and distance to the teacher, and the gradient of both, from whole logits.

The formulas are those of `mixcpt.lssd`, which calls this for a few tokens at a time. No autograd. All logits are taken
relative to the largest of their row and that one is left out of the sum of powers, which is log1p's business then: so
the digits that matter survive where a model is sure of itself, and no large numbers are subtracted.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mixcpt.fused import fused_terms, is_fused
from mixcpt.logits import Head

_STRETCH = 256
"""Logits in a stretch of which first only the largest is looked for: PyTorch finds the place of a maximum on a
processor ten times slower than its value."""


_BLOCK = 1 << 19
"""Logits worked on at once on a processor: 2 MB in fp32, so that all that is made of them stays in its cache."""


class Terms(NamedTuple):
    """ce, retention: [n] in nats, not weighted. gradient: [n, vocabulary] of their weighted sum with respect to the
    student's logits, or None where it was not asked for."""

    ce: Tensor
    retention: Tensor
    gradient: Tensor | None


def terms_of_products(
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
    """Cross-entropy and retention of each token, [n] in nats and not weighted, from the products h W^T of student and
    teacher [n, vocabulary] in any type. Both may be overwritten: `student` with the gradient of the weighted sum with
    respect to h W^T + bias, where that is wanted.

    Args: as `terms`; head, teacher_head: what makes logits of the products.
    """
    if is_fused(student.device):
        return fused_terms(
            student, head, teacher, teacher_head, labels, ce_weight, retention_weight, temperature, swap, reverse,
            wants_gradient,
        )  # fmt: skip
    size, vocabulary = student.shape
    block = max(1, _BLOCK // vocabulary) if student.device.type == "cpu" else size
    padded = head.bias is not None or teacher_head.bias is not None
    ce, retention = torch.empty(2, size, device=student.device)
    for start in range(0, size, block):
        rows = slice(start, start + block)
        logits = head.shaped(student[rows])
        found = terms(
            logits,
            None if teacher is None else teacher_head.shaped(teacher[rows]),
            labels[rows],
            ce_weight[rows],
            retention_weight[rows],
            temperature,
            swap,
            reverse,
            padded,
            wants_gradient,
        )
        ce[rows], retention[rows] = found.ce, found.retention
        if found.gradient is not None:
            student[rows] = head.unshaped(found.gradient, logits)
    return ce, retention


def terms(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    ce_weight: Tensor,
    retention_weight: Tensor,
    temperature: float,
    swap: bool,
    reverse: bool,
    padded: bool,
    wants_gradient: bool,
) -> Terms:
    """The terms of each token.

    Args:
        student: logits [n, vocabulary] in fp32. teacher: the same, or None where nothing is retained.
        labels: [n], all valid. ce_weight, retention_weight: [n, 1]; they count in the gradient only.
        reverse: KL(student || teacher) instead of KL(teacher || student). padded: logits may be -inf.
    """
    index = labels.unsqueeze(1)
    value, top = largest(student)
    student = student - value
    p, log_sum = _softmax(student, top)
    ce = (log_sum - student.gather(1, index)).squeeze(1)
    retention, pull = torch.zeros_like(ce), None
    if teacher is not None:
        value, at = largest(teacher)
        teacher = teacher - value
        if swap:
            _exchange(teacher, at, index)
            at = index
        soft_p = p
        if temperature != 1:
            student, teacher = student / temperature, teacher.div_(temperature)
            soft_p, log_sum = _softmax(student, top)
        q, teacher_log_sum = _softmax(teacher, at)
        difference = log_sum - teacher_log_sum
        measure = _reverse if reverse else _forward
        retention, pull = measure(student, soft_p, teacher, q, difference, padded, wants_gradient)
    if not wants_gradient:
        return Terms(ce, retention, None)
    gradient = p * ce_weight
    gradient.scatter_add_(1, index, -ce_weight)
    if pull is not None:
        gradient.addcmul_(pull, retention_weight * temperature)
    return Terms(ce, retention, gradient)


def largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The largest logit of each row and the first place where it stands, [n, 1] each."""
    width = logits.shape[1]
    if logits.device.type != "cpu" or width < 2 * _STRETCH:
        value, place = logits.max(dim=1, keepdim=True)
        return value, place
    whole = width - width % _STRETCH
    maxima = logits[:, :whole].reshape(len(logits), -1, _STRETCH).amax(2)
    if whole < width:
        maxima = torch.cat([maxima, logits[:, whole:].amax(1, keepdim=True)], 1)
    stretch = maxima.argmax(1, keepdim=True)
    places = (stretch * _STRETCH + torch.arange(_STRETCH, device=logits.device)).clamp_(max=width - 1)
    return maxima.gather(1, stretch), places.gather(1, logits.gather(1, places).argmax(1, keepdim=True))


def swap_top_with_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Exchange, in place, the largest logit of each row with that of its label.

    A label that ties at the top exchanges equal values, so nothing happens, as it should.

    Args:
        logits: [n, vocabulary]. labels: [n], all valid.
    """
    return _exchange(logits, largest(logits)[1], labels.unsqueeze(1))


def _exchange(logits: Tensor, one: Tensor, other: Tensor) -> Tensor:
    at_one, at_other = logits.gather(1, one), logits.gather(1, other)
    return logits.scatter_(1, one, at_other).scatter_(1, other, at_one)


def _softmax(relative: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax [n, vocabulary] of logits relative to the largest, which stands at `top`, and their log-sum-exp [n, 1].
    `sum` adds pairwise, which torch.softmax does not do: it loses digits in large vocabularies."""
    powers = relative.exp()
    others = powers.scatter_(1, top, 0.0).sum(1, keepdim=True)
    return powers.scatter_(1, top, 1.0).div_(1 + others), others.log1p()


def _forward(
    student: Tensor, p: Tensor, teacher: Tensor, q: Tensor, difference: Tensor, padded: bool, wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """KL(q || p) [n], and p - q. Overwrites `teacher` and `q`."""
    ratio = teacher.sub_(student)  # log q - log p = ratio + difference
    if padded:
        ratio.masked_fill_(q == 0, 0.0)  # 0 * inf would make a NaN
    kl = (ratio.mul_(q).sum(1, keepdim=True) + difference).squeeze(1)
    return kl, torch.sub(p, q, out=q) if wants_gradient else None


def _reverse(
    student: Tensor, p: Tensor, teacher: Tensor, q: Tensor, difference: Tensor, padded: bool, wants_gradient: bool
) -> tuple[Tensor, Tensor | None]:
    """KL(p || q) [n], and p (log p - log q - KL). Overwrites `teacher` and `q`."""
    ratio = torch.sub(student, teacher, out=teacher)  # log p - log q = ratio - difference
    if padded:
        ratio.masked_fill_(p == 0, 0.0)
    mean = torch.mul(p, ratio, out=q).sum(1, keepdim=True)
    return (mean - difference).squeeze(1), ratio.sub_(mean).mul_(p) if wants_gradient else None
