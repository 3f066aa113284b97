"""The loss in float64, entry by entry: what the tests hold `mixcpt.lssd` against. Shares no code with it."""

# mypy: allow-untyped-defs, allow-untyped-calls

import math

import numpy as np
import torch

from mixcpt.logits import Head

LN = math.log


def loop(student, teacher, labels, objective, weights=None):
    """(total, ce, kl, tokens, entropy) in float64: definitions written out entry by entry, no log-sum-exp trick.

    `student`, `teacher`: [n][vocabulary] Python floats. Entries of -inf have probability zero.
    `weights`: per token (factor of the cross-entropy, factor of the retention); sums are weighted, the count is not.
    """
    temperature, ce, kl, tokens, entropy = objective.temperature, 0.0, 0.0, 0, 0.0
    for row, label in enumerate(labels):
        if label == -100:
            continue
        tokens += 1
        for_ce, for_kl = weights[row] if weights is not None else (1.0, 1.0)
        if for_ce:
            ce -= for_ce * LN(probabilities(student[row], 1.0)[label])
        if objective.retention_weight and for_kl:
            z = list(teacher[row])
            if objective.swap:
                top = max(z)
                k = z.index(top)
                if z[label] != top:
                    z[k], z[label] = z[label], z[k]
            q, p = probabilities(z, temperature), probabilities(student[row], temperature)
            one, other = (p, q) if objective.reverse else (q, p)
            kl += for_kl * math.fsum(a * (LN(a) - LN(b)) for a, b in zip(one, other, strict=True) if a > 0)
            entropy -= for_kl * math.fsum(a * LN(a) for a in q if a > 0)
    return objective.ce_weight * ce + objective.retention_weight * temperature**2 * kl, ce, kl, tokens, entropy


def probabilities(logits, temperature):
    largest = max(logits)
    powers = [math.exp((value - largest) / temperature) for value in logits]
    total = math.fsum(powers)
    return [power / total for power in powers]


def shaped(hidden, head):
    """Logits of `head` in float64: scale * (h W^T + bias), soft-capped; by numpy."""
    logits = hidden.detach().double().numpy() @ head.weight.detach().double().numpy().T
    if head.bias is not None:
        logits = logits + head.bias.detach().double().numpy()
    logits = logits * head.scale
    return logits if head.softcap is None else head.softcap * np.tanh(logits / head.softcap)


def reference(hidden, teacher_hidden, labels, head, objective, teacher_head=None, weights=None):
    teacher = None if teacher_hidden is None else shaped(teacher_hidden, teacher_head or head).tolist()
    pairs = None if weights is None else list(zip(weights.ce.tolist(), weights.retention.tolist(), strict=True))
    return loop(shaped(hidden, head).tolist(), teacher, labels.tolist(), objective, pairs)


def numeric_gradient(
    hidden, teacher_hidden, labels, head, objective, entries, teacher_head=None, weights=None, step=1e-4
):
    """Central differences of the float64 loop at the (row, column) entries of the hidden states."""
    slopes = []
    for entry in entries:
        ends = []
        for sign in (1, -1):
            moved = hidden.detach().double().clone()
            moved[entry] += sign * step
            ends.append(reference(moved, teacher_hidden, labels, head, objective, teacher_head, weights)[0])
        slopes.append((ends[0] - ends[1]) / (2 * step))
    return slopes


def case(n=37, width=13, vocabulary=101, seed=0, masked=5, dtype=torch.float32, **shape):
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator)

    head = Head(normal(vocabulary, width).to(dtype), **shape)
    hidden = normal(n, width).to(dtype)
    # A teacher near the student, as it is in training: the KL is small, so cancellation would show.
    teacher = (hidden + 0.3 * normal(n, width)).to(dtype)
    labels = torch.randint(0, vocabulary, (n,), generator=generator)
    labels[:: max(2, n // max(masked, 1))] = -100
    # Every seventh label is the teacher's top token: there the swap must do nothing.
    top = head.logits(teacher).argmax(1)
    labels[1::7] = top[1::7]
    return hidden, teacher, labels, head


def agrees(sums, expected, objective, tolerance=1e-6):
    """CE and retention are off by no more than `tolerance` of (CE + teacher entropy), plus the rounding of the number
    itself; the total by what these two may be off, weighed."""
    total, ce, kl, tokens, entropy = expected
    of_ce = tolerance * (ce + entropy) + 2e-7 * ce
    of_kl = tolerance * (ce + entropy) + 2e-7 * kl
    assert sums.tokens == tokens
    assert abs(float(sums.ce) - ce) <= of_ce
    assert abs(float(sums.retention) - kl) <= of_kl
    weight = objective.retention_weight * objective.temperature**2
    assert abs(sums.total.item() - total) <= objective.ce_weight * of_ce + weight * of_kl + 1e-7 * abs(total)
