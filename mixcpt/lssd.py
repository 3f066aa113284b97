"""Logit Swap Self-Distillation (LSSD): cross-entropy and a constraint to the frozen original, in chunks.

Paper: Mix-CPT, arXiv 2407.10804. The paper describes the swap; the weight, the direction of the divergence and the
temperature are not printed there and are ours (forward KL, weight 1, temperature 1), and so is the algebra below.

Per position, with
    y    the label (the token to be predicted)
    z    the teacher's logits, q = softmax(z / T), k = argmax z its top token
    z'   z with the entries k and y exchanged (nothing happens when z_y equals the maximum already), q' = softmax(z'/T)
    s    the student's logits, p = softmax(s), p_T = softmax(s / T)

    CE   = -log p[y]
    LSSD = KL(q' || p_T) = sum_v q'[v] (log q'[v] - log p_T[v])
    loss = ce_weight * CE + retention_weight * T^2 * LSSD

averaged over the positions whose label is not -100. Because an exchange does not change the entropy of q,

    KL(q' || p) = KL(q || p) - (q[k] - q[y]) (log p[y] - log p[k])                                     (ours)

so without the swap it is plain KL, which is zero when the student equals the teacher; with the swap the term is then
(q[k] - q[y]) log(q[k] / q[y]) >= 0: it holds the model near itself *and* lifts the right token. The gradient with
respect to the student's logits is

    ce_weight (p - onehot(y)) + retention_weight T (p_T - q')

A worked example, T = 1, vocabulary of three, four positions (the first label is masked):

    label y     teacher q             top k   q' after the swap
    -100        anything              -       not counted
    0           (0.7, 0.2, 0.1)       0       (0.7, 0.2, 0.1)    right already: nothing happens
    2           (0.6, 0.3, 0.1)       0       (0.1, 0.3, 0.6)    mass of 0 and 2 exchanged
    1           (0.4, 0.4, 0.2)       0       (0.4, 0.4, 0.2)    a tie at the top: nothing happens

With the student equal to the teacher, CE = (-ln 0.7 - ln 0.1 - ln 0.4) / 3 = 1.1919 and
LSSD = (0 + (0.6 - 0.1) ln(0.6 / 0.1) + 0) / 3 = 0.2986 nats per token.

`plain_loss` is the definition on whole logits, for reading, teaching and testing. `chunked_loss` starts from the final
hidden states, makes the logits of a few tokens at a time, and takes the gradient in the same pass, so no tensor of
[tokens, vocabulary] is ever held. It gives up training the head itself: the head's weight gets no gradient.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixcpt.packing import IGNORED


@dataclass(frozen=True)
class Head:
    """What turns final hidden states into logits: `scale * (h W^T + bias)`, then soft-capped where the model does so.

    weight: [vocabulary, width]. bias: [vocabulary] or None. softcap: cap * tanh(logits / cap). scale: Granite, Cohere.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary] in fp32 of hidden states [n, width]; the product itself runs in the weight's type."""
        logits = hidden.to(self.weight.dtype) @ self.weight.T
        if self.bias is not None:
            logits = logits + self.bias
        logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def backward(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Gradient [n, width] (fp32) with respect to the hidden states, given that of the logits (overwritten)."""
        if self.softcap is not None:
            gradient *= 1 - (logits / self.softcap) ** 2
        if self.scale != 1.0:
            gradient *= self.scale
        return (gradient.to(self.weight.dtype) @ self.weight).float()


@dataclass(frozen=True)
class Objective:
    """Weights of the loss. `retention_weight` 0 needs no teacher; `swap` False is plain KL to the teacher."""

    ce_weight: float = 1.0
    retention_weight: float = 1.0
    temperature: float = 1.0
    swap: bool = True

    @property
    def needs_teacher(self) -> bool:
        return self.retention_weight != 0


class LossSums(NamedTuple):
    """Sums over the counted positions. `total` carries the gradient; ce and retention are for showing (nats).

    total: ce_weight * ce + retention_weight * T^2 * retention. tokens: how many positions were counted.
    """

    total: Tensor
    ce: Tensor
    retention: Tensor
    tokens: int


def swap_top_with_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Exchange, in place, the largest logit of each row with that of its label.

    A label that ties at the top exchanges equal values, so nothing happens, as it should.

    Args:
        logits: [n, vocabulary]. labels: [n], all valid.
    """
    index = labels.unsqueeze(1)
    top, top_index = logits.max(dim=1, keepdim=True)
    at_label = logits.gather(1, index)
    return logits.scatter_(1, top_index, at_label).scatter_(1, index, top)


def plain_loss(student: Tensor, teacher: Tensor | None, labels: Tensor, objective: Objective) -> LossSums:
    """The definition on whole logits, with autograd. Slow and large on purpose: for reading and for tests.

    Args:
        student: [n, vocabulary]. teacher: the same shape, or None when no retention is asked.
        labels: [n], the token each row predicts, -100 where it does not count.
    """
    counted = labels != IGNORED
    labels, student = labels[counted], student[counted].float()
    ce = -student.log_softmax(1).gather(1, labels.unsqueeze(1)).sum()
    retention = torch.zeros((), device=student.device)
    temperature = objective.temperature
    if objective.needs_teacher:
        teacher = _needed(teacher)[counted].float().clone()
        if objective.swap:
            swap_top_with_label(teacher, labels)
        log_q = (teacher / temperature).log_softmax(1)
        log_p = (student / temperature).log_softmax(1)
        # Padded vocabulary has -inf on both sides; it carries no mass and must not make a NaN.
        terms = torch.where(log_q == -torch.inf, 0.0, log_q.exp() * (log_q - log_p))
        retention = terms.sum()
    total = objective.ce_weight * ce + objective.retention_weight * temperature**2 * retention
    return LossSums(total, ce.detach(), retention.detach(), int(counted.sum()))


def chunked_loss(
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    labels: Tensor,
    head: Head,
    objective: Objective,
    chunk: int = 128,
    teacher_head: Head | None = None,
) -> LossSums:
    """The same loss from final hidden states, `chunk` tokens at a time, value and gradient in one pass.

    Args:
        hidden: [n, width] student states after the final norm; gets the gradient.
        teacher_hidden: [n, width] teacher states, or None when no retention is asked.
        labels: [n], the token each row predicts, -100 where it does not count.
        head: frozen. teacher_head: when it differs from the student's.

    Raises:
        ValueError: retention is asked without a teacher.
    """
    counted = (labels != IGNORED).nonzero().squeeze(1)
    if objective.needs_teacher:
        teacher_hidden = _needed(teacher_hidden).detach().index_select(0, counted)
    total, ce, retention = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden.index_select(0, counted),
        teacher_hidden if objective.needs_teacher else None,
        labels.index_select(0, counted),
        head,
        teacher_head or head,
        objective,
        chunk,
    )
    return LossSums(total, ce, retention, len(counted))


class _ChunkedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        teacher_hidden: Tensor | None,
        labels: Tensor,
        head: Head,
        teacher_head: Head,
        objective: Objective,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty(hidden.shape, dtype=torch.float32, device=hidden.device) if wants_gradient else None
        ce = torch.zeros((), dtype=torch.float64, device=hidden.device)
        retention = torch.zeros_like(ce)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(labels), chunk):
                part = slice(start, start + chunk)
                token_ce, token_kl, part_gradient = _chunk(
                    hidden[part],
                    None if teacher_hidden is None else teacher_hidden[part],
                    labels[part],
                    head,
                    teacher_head,
                    objective,
                    wants_gradient,
                )
                ce += token_ce.sum(dtype=torch.float64)
                retention += token_kl.sum(dtype=torch.float64)
                if gradient is not None and part_gradient is not None:
                    gradient[part] = part_gradient
        if gradient is not None:
            ctx.save_for_backward(gradient.to(hidden.dtype))
        total = objective.ce_weight * ce + objective.retention_weight * objective.temperature**2 * retention
        ce, retention = ce.float(), retention.float()
        ctx.mark_non_differentiable(ce, retention)
        return total.float(), ce, retention

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None, None, None, None, None


def _chunk(
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    labels: Tensor,
    head: Head,
    teacher_head: Head,
    objective: Objective,
    wants_gradient: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Per-token cross-entropy [n] and retention [n] in nats, and the gradient of the weighted sum [n, width]."""
    temperature = objective.temperature
    index = labels.unsqueeze(1)
    logits = head.logits(hidden)
    p, log_sum = _softmax(logits)
    token_ce = (log_sum - logits.gather(1, index)).squeeze(1)
    if teacher_hidden is None:
        token_kl = torch.zeros_like(token_ce)
        gradient = p.mul_(objective.ce_weight) if wants_gradient else None
    else:
        teacher = teacher_head.logits(teacher_hidden)
        if objective.swap:
            swap_top_with_label(teacher, labels)
        student, soft_p, soft_log_sum = logits, p, log_sum
        if temperature != 1:
            teacher /= temperature
            student = logits / temperature
            soft_p, soft_log_sum = _softmax(student)
        q, teacher_log_sum = _softmax(teacher)
        # sum_v q (log q - log p) = sum_v q (z - s) - logsumexp z + logsumexp s
        difference = teacher.sub_(student)
        if head.bias is not None or teacher_head.bias is not None:
            difference.masked_fill_(q == 0, 0.0)  # a bias may hold -inf, from which 0 * inf would make a NaN
        token_kl = (difference.mul_(q).sum(1, keepdim=True) - teacher_log_sum + soft_log_sum).squeeze(1)
        gradient = None
        if wants_gradient:
            gradient = q.sub_(soft_p).mul_(-objective.retention_weight * temperature).add_(p, alpha=objective.ce_weight)
    if gradient is None:
        return token_ce, token_kl, None
    gradient.scatter_add_(1, index, torch.full_like(index, -objective.ce_weight, dtype=gradient.dtype))
    return token_ce, token_kl, head.backward(gradient, logits)


def _softmax(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax and log-sum-exp [n, 1] of each row, from one exponential. Unlike torch.log_softmax it stays exact to the
    last digits on a CPU however large the vocabulary, for `sum` adds pairwise."""
    top = logits.amax(1, keepdim=True)
    powers = (logits - top).exp_()
    total = powers.sum(1, keepdim=True)
    return powers.div_(total), top + total.log()


@torch.no_grad()
def token_losses(
    hidden: Tensor, teacher_hidden: Tensor | None, labels: Tensor, head: Head, chunk: int = 128
) -> tuple[Tensor, Tensor]:
    """Per-token cross-entropy and plain KL(teacher || student), both [n] in nats; 0 where the label is -100."""
    ce = torch.zeros(len(labels), device=hidden.device)
    kl = torch.zeros_like(ce)
    measure = Objective(swap=False)
    with torch.autocast(hidden.device.type, enabled=False):
        for part in torch.split((labels != IGNORED).nonzero().squeeze(1), chunk):
            teacher = None if teacher_hidden is None else teacher_hidden[part]
            ce[part], kl[part], _ = _chunk(hidden[part], teacher, labels[part], head, head, measure, False)
    return ce, kl


def _needed(teacher: Tensor | None) -> Tensor:
    if teacher is None:
        raise ValueError("retention_weight is not 0, but there is no teacher: pass its states, or set the weight to 0")
    return teacher
