"""A head that is trained: the chunked loss gives its weight and its bias the gradient that autograd would."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="union-attr,index"

import pytest
import torch
from loss_loop import case, reference

from mixcpt.logits import Head
from mixcpt.lssd import Objective, TokenWeights, chunked_loss, plain_loss

SHAPES = {
    "plain": {},
    "bias": {"bias": torch.linspace(-2, 2, 101)},
    "all": {"bias": torch.linspace(-2, 2, 101), "scale": 0.5, "softcap": 4.0},
}


def trained(head):
    """A copy that asks for gradients."""
    bias = None if head.bias is None else head.bias.clone().requires_grad_()
    return Head(head.weight.float().clone().requires_grad_(), bias, head.softcap, head.scale)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("objective", [Objective(), Objective(temperature=2.0, swap=False, reverse=True)])
@pytest.mark.parametrize("chunk", [5, 1000])
def test_the_gradient_of_a_trained_head_equals_autograd(shape, objective, chunk):
    hidden, teacher, labels, head = case(**shape)
    weights = TokenWeights.of(torch.arange(37) % 4 / 2)
    found = {}
    for way in ("chunked", "plain"):
        mine, student = trained(head), hidden.clone().requires_grad_()
        if way == "chunked":
            sums = chunked_loss(student, teacher, labels, mine, objective, chunk, head, weights)
        else:
            logits = student @ mine.weight.T if mine.bias is None else student @ mine.weight.T + mine.bias
            logits = logits * mine.scale
            logits = logits if mine.softcap is None else mine.softcap * (logits / mine.softcap).tanh()
            sums = plain_loss(logits, head.logits(teacher), labels, objective, weights)
        (sums.total / sums.tokens).backward()
        found[way] = [student.grad, mine.weight.grad, None if mine.bias is None else mine.bias.grad]
    for ours, theirs in zip(found["chunked"], found["plain"], strict=True):
        if theirs is not None:
            assert theirs.abs().max() > 1e-3
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


def test_the_gradient_of_the_weight_equals_finite_differences_of_the_loop():
    hidden, teacher, labels, head = case()
    mine = trained(head)
    chunked_loss(hidden, teacher, labels, mine, Objective(), 8, head).total.backward()
    for entry in ((0, 0), (int(labels[1]), 4), (57, 12)):
        ends = []
        for sign in (1, -1):
            moved = Head(head.weight.double().clone())
            moved.weight[entry] += sign * 1e-4
            ends.append(reference(hidden, teacher, labels, moved, Objective(), head)[0])
        assert mine.weight.grad[entry].item() == pytest.approx((ends[0] - ends[1]) / 2e-4, abs=2e-5)


def test_one_weight_that_is_both_embeddings_and_head_gets_the_sum():
    """Tied: it is looked up for the inputs and multiplied for the outputs, as autograd adds the two up."""
    _, teacher, labels, head = case()
    ids = torch.arange(37) * 2
    found = []
    for way in ("chunked", "plain"):
        tied = head.weight.clone().requires_grad_()
        hidden = torch.nn.functional.embedding(ids, tied).tanh()
        if way == "chunked":
            sums = chunked_loss(hidden, teacher, labels, Head(tied), Objective(), 8, head)
        else:
            sums = plain_loss(hidden @ tied.T, head.logits(teacher), labels, Objective())
        sums.total.backward()
        found.append(tied.grad)
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_a_trained_head_in_fp32_works_in_the_type_of_the_states():
    """bf16 states: products in bf16, as under autocast, but the gradient is summed and kept in fp32."""
    hidden, teacher, labels, head = case(n=150, dtype=torch.bfloat16)
    mine, student = trained(head), hidden.clone().requires_grad_()
    sums = chunked_loss(student, teacher, labels, mine, Objective(), 64, head)
    sums.total.backward()
    exact = trained(head)
    same = chunked_loss(hidden.float(), teacher.float(), labels, exact, Objective(), 64, Head(head.weight.float()))
    same.total.backward()
    assert mine.weight.grad.dtype == torch.float32 and student.grad.dtype == torch.bfloat16
    assert sums.total.item() == pytest.approx(same.total.item(), rel=1e-2)
    assert (mine.weight.grad - exact.weight.grad).norm() <= 0.05 * exact.weight.grad.norm()


def test_states_without_a_gradient_leave_the_head_its_own():
    hidden, _, labels, head = case()
    mine = trained(head)
    chunked_loss(hidden, None, labels, mine, Objective(retention_weight=0.0)).total.backward()
    assert mine.weight.grad.abs().sum() > 0


def test_a_frozen_head_gets_none():
    hidden, teacher, labels, head = case()
    student = hidden.clone().requires_grad_()
    chunked_loss(student, teacher, labels, head, Objective()).total.backward()
    assert head.weight.grad is None and student.grad.abs().sum() > 0


def test_a_trained_head_is_not_taken_for_the_teachers():
    hidden, teacher, labels, head = case()
    with pytest.raises(ValueError, match="pass the original as teacher_head"):
        chunked_loss(hidden, teacher, labels, trained(head), Objective())
