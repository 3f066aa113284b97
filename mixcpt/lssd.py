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

MoL (arXiv 2505.12043) holds the model by the other direction, and only where the text is general:

    reverse KL = KL(p_T || q) = sum_v p_T[v] r[v]      with  r[v] = log p_T[v] - log q[v]
    its gradient: retention_weight T p_T[v] (r[v] - KL(p_T || q))                                      (ours)

Every token may have weights of its own (`TokenWeights`: a, for its cross-entropy, and b, for its retention):

    loss = sum over the counted positions of (a ce_weight CE + b retention_weight T^2 LSSD) / how many are counted

The divisor is their number and not the sum of the weights (ours), so what a source is weighed by does not change the
pull of the others. MoL is a = 1, b = 0 on the field's tokens and a = 0, b = 1 on the others, with `reverse`.

A worked example, T = 1, vocabulary of three, four positions (the first label is masked):

    label y     teacher q             top k   q' after the swap
    -100        anything              -       not counted
    0           (0.7, 0.2, 0.1)       0       (0.7, 0.2, 0.1)    right already: nothing happens
    2           (0.6, 0.3, 0.1)       0       (0.1, 0.3, 0.6)    mass of 0 and 2 exchanged
    1           (0.4, 0.4, 0.2)       0       (0.4, 0.4, 0.2)    a tie at the top: nothing happens

With the student equal to the teacher, CE = (-ln 0.7 - ln 0.1 - ln 0.4) / 3 = 1.1919 and
LSSD = (0 + (0.6 - 0.1) ln(0.6 / 0.1) + 0) / 3 = 0.2986 nats per token; the loss is 1.4905.
With the third position weighed double, a = b = (-, 1, 2, 1): (-ln 0.7 - 2 ln 0.1 - ln 0.4 + 2 * 0.8959) / 3 = 2.5566.
MoL with the second position of the field, the last two general, and a student that says (1/3, 1/3, 1/3) everywhere:
CE = ln 3 on the second; KL(p || q) = -ln 3 - (ln 0.6 + ln 0.3 + ln 0.1) / 3 = 0.2405 on the third and
-ln 3 - (ln 0.4 + ln 0.4 + ln 0.2) / 3 = 0.0487 on the last, so the loss is (1.0986 + 0.2405 + 0.0487) / 3 = 0.4626.

`plain_loss` is the definition on whole logits, for reading, teaching and testing. `chunked_loss` starts from the final
hidden states, makes the logits of a few tokens at a time, and takes the gradient in the same pass, so no tensor of
[tokens, vocabulary] is ever held. It gives up second derivatives.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mixcpt.logits import Head as Head
from mixcpt.packing import IGNORED
from mixcpt.terms import swap_top_with_label, terms_of_products

_ROWS = 32
"""On a processor the rows of a product are a multiple of so many."""


@dataclass(frozen=True)
class Objective:
    """Weights of the loss. `retention_weight` 0 needs no teacher.

    swap: False is plain KL to the teacher. reverse: KL(p || q) instead of KL(q || p), as MoL has it, without a swap.
    """

    ce_weight: float = 1.0
    retention_weight: float = 1.0
    temperature: float = 1.0
    swap: bool = True
    reverse: bool = False

    @property
    def needs_teacher(self) -> bool:
        return self.retention_weight != 0


class TokenWeights(NamedTuple):
    """Factors on the terms of each token, on top of the objective's own weights: [n] each, finite and not negative."""

    ce: Tensor
    retention: Tensor

    @classmethod
    def of(cls, weights: Tensor) -> "TokenWeights":
        """One weight [n] for all that a token costs."""
        return cls(weights, weights)

    @classmethod
    def mol(cls, of_field: Tensor) -> "TokenWeights":
        """Cross-entropy where `of_field` [n] (bool) holds, retention elsewhere."""
        return cls(of_field.float(), (~of_field).float())


class LossSums(NamedTuple):
    """Sums over the counted positions. `total` carries the gradient; ce and retention are for showing (nats).

    total: ce_weight * ce + retention_weight * T^2 * retention. ce, retention: every token's weighted by its factor.
    tokens: how many positions were counted. ce_tokens, retention_tokens: sums of their factors, so that
    ce / ce_tokens is the mean; both equal `tokens` when no token has weights of its own.
    """

    total: Tensor
    ce: Tensor
    retention: Tensor
    tokens: int
    ce_tokens: float
    retention_tokens: float


def plain_loss(
    student: Tensor,
    teacher: Tensor | None,
    labels: Tensor,
    objective: Objective,
    weights: TokenWeights | None = None,
) -> LossSums:
    """The definition on whole logits, with autograd, in fp64. Slow and large on purpose: for reading and for tests.

    Args:
        student: [n, vocabulary]. teacher: the same shape, or None when no retention is asked.
        labels: [n], the token each row predicts, -100 where it does not count.
        weights: [n] each; None counts every token alike.

    Raises:
        ValueError: retention is asked without a teacher.
    """
    places = (labels != IGNORED).nonzero().squeeze(1)
    labels, student, factors = labels[places], student[places].double(), _at(places, weights)
    ce = -student.log_softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1)
    retention = torch.zeros_like(ce)
    temperature = objective.temperature
    if objective.needs_teacher:
        teacher = _needed(teacher)[places].to(torch.float64, copy=True)
        if objective.swap:
            swap_top_with_label(teacher, labels)
        log_q = (teacher / temperature).log_softmax(1)
        log_p = (student / temperature).log_softmax(1)
        retention = _kl(log_p, log_q) if objective.reverse else _kl(log_q, log_p)
    ce, retention = (ce * factors.ce).sum(), (retention * factors.retention).sum()
    total = objective.ce_weight * ce + objective.retention_weight * temperature**2 * retention
    sums = (len(places), float(factors.ce.sum()), float(factors.retention.sum()))
    return LossSums(total.float(), ce.detach().float(), retention.detach().float(), *sums)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) [n] of log-probabilities. Padded vocabulary has -inf on both sides: it carries no mass, and must not
    make a NaN, neither here nor in the gradient."""
    empty = log_p == -torch.inf
    return (log_p.exp() * (log_p.masked_fill(empty, 0.0) - log_q.masked_fill(empty, 0.0))).sum(1)


def chunked_loss(
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    labels: Tensor,
    head: Head,
    objective: Objective,
    chunk: int = 128,
    teacher_head: Head | None = None,
    weights: TokenWeights | None = None,
) -> LossSums:
    """The same loss from final hidden states, `chunk` tokens at a time, value and gradient in one pass.

    What a token's factors make zero is not computed: no teacher's logits where nothing is retained.

    Args:
        hidden: [n, width] student states after the final norm; gets the gradient.
        teacher_hidden: [n, width] teacher states, or None when no retention is asked (of any token).
        labels: [n], the token each row predicts, -100 where it does not count.
        head: where its weight or bias requires a gradient, it gets one too; its products then run in the type of
            `hidden`. teacher_head: when it differs from the student's, as it does when that is trained.
        weights: [n] each; None counts every token alike.

    Raises:
        ValueError: retention is asked without a teacher, or of a trained head without the teacher's own.
    """
    if objective.needs_teacher and head.is_trained and teacher_head is None:
        raise ValueError("the head is trained, so the teacher needs its own: pass the original as teacher_head")
    places = (labels != IGNORED).nonzero().squeeze(1)
    factors = _at(places, weights)
    sums = (len(places), float(factors.ce.sum()), float(factors.retention.sum()))
    held = len(places) if objective.needs_teacher else 0
    if weights is not None:
        order, held = _costly(factors, objective)
        places, factors = places[order], TokenWeights(factors.ce[order], factors.retention[order])
    if objective.needs_teacher and (held or weights is None):
        teacher_hidden = _needed(teacher_hidden).detach().index_select(0, places[:held])
    total, ce, retention = _ChunkedLoss.apply(  # type: ignore[no-untyped-call]
        hidden.index_select(0, places),
        head.weight,
        head.bias,
        teacher_hidden if held else None,
        labels.index_select(0, places),
        factors,
        head,
        teacher_head or head,
        objective,
        chunk,
    )
    return LossSums(total, ce, retention, *sums)


def _costly(factors: TokenWeights, objective: Objective) -> tuple[Tensor, int]:
    """The tokens that cost anything, those with retention first, and how many those are."""
    is_held = (factors.retention != 0) & objective.needs_teacher
    held, others = is_held.nonzero().squeeze(1), (~is_held & (factors.ce != 0)).nonzero().squeeze(1)
    return torch.cat([held, others]), len(held)


class _ChunkedLoss(torch.autograd.Function):
    """`teacher_hidden` is that of the first tokens; the others are not held by it."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher_hidden: Tensor | None,
        labels: Tensor,
        factors: TokenWeights,
        head: Head,
        teacher_head: Head,
        objective: Objective,
        chunk: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        if wants_weight or wants_bias:
            head = replace(head, weight=weight.to(hidden.dtype))
        of_hidden = torch.empty_like(hidden) if wants_hidden else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if wants_bias and bias is not None else None
        ce = torch.zeros((), dtype=torch.float64, device=hidden.device)
        retention = torch.zeros_like(ce)
        wanted = wants_hidden or wants_weight or wants_bias
        with torch.autocast(hidden.device.type, enabled=False):
            for part, part_ce, part_retention, states, gradient in _chunks(
                hidden, teacher_hidden, labels, factors, head, teacher_head, objective, chunk, wanted
            ):
                ce += (part_ce * factors.ce[part]).sum(dtype=torch.float64)
                retention += (part_retention * factors.retention[part]).sum(dtype=torch.float64)
                if of_hidden is not None:
                    of_hidden[part] = (gradient @ head.weight)[: len(part_ce)]
                if of_weight is not None:
                    of_weight += gradient.T @ states.to(gradient.dtype)
                if of_bias is not None:
                    of_bias += gradient.sum(0, dtype=torch.float32)
        ctx.save_for_backward(of_hidden, of_weight, of_bias)
        total = objective.ce_weight * ce + objective.retention_weight * objective.temperature**2 * retention
        ce, retention = ce.float(), retention.float()
        ctx.mark_non_differentiable(ce, retention)
        return total.float(), ce, retention

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = (None if each is None else each * gradients[0] for each in ctx.saved_tensors)
        return *found, None, None, None, None, None, None, None


class _Chunk(NamedTuple):
    """Some of the tokens: their cross-entropy and retention (not weighted), [n].

    states, gradient: final hidden states and the gradient with respect to h W^T + bias, in the type of that product and
    valid until the next chunk; of a few tokens more than [n], whose gradient is zero.
    """

    part: slice
    ce: Tensor
    retention: Tensor
    states: Tensor
    gradient: Tensor


def _chunks(
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    labels: Tensor,
    factors: TokenWeights,
    head: Head,
    teacher_head: Head,
    objective: Objective,
    chunk: int,
    wants_gradient: bool,
) -> Iterator[_Chunk]:
    held = 0 if teacher_hidden is None else len(teacher_hidden)
    of_student, of_teacher = _Products(head, hidden, chunk), None
    if teacher_hidden is not None:
        of_teacher = _Products(teacher_head, teacher_hidden, chunk)
    ce_weight = (objective.ce_weight * factors.ce).unsqueeze(1)
    retention_weight = (objective.retention_weight * factors.retention).unsqueeze(1)
    for part in (*_slices(0, held, chunk), *_slices(held, len(labels), chunk)):
        size = part.stop - part.start
        states, student = of_student.of(part)
        teacher = of_teacher.of(part)[1][:size] if of_teacher is not None and part.start < held else None
        ce, retention = terms_of_products(
            student[:size],
            head,
            teacher,
            teacher_head,
            labels[part],
            ce_weight[part],
            retention_weight[part],
            objective.temperature,
            objective.swap,
            objective.reverse,
            wants_gradient,
        )
        student[size:] = 0.0
        yield _Chunk(part, ce, retention, states, student)


class _Products:
    """h W^T of some of the tokens, in memory that is used again by the next call.

    On a processor their number is rounded up, by tokens that follow or by zeros: for every other shape of a product in
    bf16 PyTorch compiles kernels there, and keeps them.
    """

    def __init__(self, head: Head, hidden: Tensor, chunk: int):
        self.head = head
        self.step = min(_ROWS, chunk) if hidden.device.type == "cpu" else 1
        self.hidden = torch.nn.functional.pad(hidden, (0, 0, 0, self.step - 1)) if self.step > 1 else hidden
        most = self._rounded(min(chunk, len(hidden)))
        self.memory = torch.empty(most, len(head.weight), dtype=head.weight.dtype, device=hidden.device)

    def _rounded(self, size: int) -> int:
        return -(-size // self.step) * self.step

    def of(self, part: slice) -> tuple[Tensor, Tensor]:
        """The states of a part and what follows it, and their products."""
        size = self._rounded(part.stop - part.start)
        states = self.hidden[part.start : part.start + size]
        return states, self.head.product(states, self.memory[:size])


def _slices(start: int, stop: int, size: int) -> Iterator[slice]:
    return (slice(first, min(first + size, stop)) for first in range(start, stop, size))


@torch.no_grad()
def token_losses(
    hidden: Tensor,
    teacher_hidden: Tensor | None,
    labels: Tensor,
    head: Head,
    chunk: int = 128,
    teacher_head: Head | None = None,
) -> tuple[Tensor, Tensor]:
    """Per-token cross-entropy and plain KL(teacher || student), both [n] in nats; 0 where the label is -100. As in
    `chunked_loss`, the products of a head that is trained run in the type of `hidden`, and the teacher has its own."""
    if head.is_trained:
        head = replace(head, weight=head.weight.to(hidden.dtype))
    ce = torch.zeros(len(labels), device=hidden.device)
    kl = torch.zeros_like(ce)
    places = (labels != IGNORED).nonzero().squeeze(1)
    teacher_hidden = None if teacher_hidden is None else teacher_hidden[places]
    measure, factors = Objective(swap=False), _at(places, None)
    with torch.autocast(hidden.device.type, enabled=False):
        for found in _chunks(
            hidden[places], teacher_hidden, labels[places], factors, head, teacher_head or head, measure, chunk, False
        ):
            ce[places[found.part]], kl[places[found.part]] = found.ce, found.retention
    return ce, kl


def _at(places: Tensor, weights: TokenWeights | None) -> TokenWeights:
    """The factors of the tokens at `places`; ones when there are none."""
    if weights is None:
        return TokenWeights.of(torch.ones(len(places), device=places.device))
    return TokenWeights(*(factors.index_select(0, places).float() for factors in weights))


def _needed(teacher: Tensor | None) -> Tensor:
    if teacher is None:
        raise ValueError("retention_weight is not 0, but there is no teacher: pass its states, or set the weight to 0")
    return teacher
