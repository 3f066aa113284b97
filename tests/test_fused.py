"""The form for a compiler gives what the form for a processor gives; it is one graph; and it is taken on a GPU only."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="arg-type,call-arg,misc"

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_loop import agrees, case, reference

from mixcpt import fused, terms
from mixcpt.logits import Head
from mixcpt.lssd import Objective, TokenWeights, chunked_loss, token_losses


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The loss takes the fused form, not compiled."""
    monkeypatch.setattr(terms, "is_fused", lambda device: True)
    monkeypatch.setattr(fused, "_compiled", lambda: fused.uncompiled)


SHAPES = {
    "plain": {},
    "bias": {"bias": torch.linspace(-2, 2, 101)},
    "all": {"bias": torch.linspace(-2, 2, 101), "scale": -0.5, "softcap": 4.0},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize(
    "objective",
    [Objective(), Objective(0.7, 2.0, 2.5, swap=False), Objective(swap=False, reverse=True), Objective(1.0, 0.0)],
    ids=["lssd", "kl, warm", "reverse", "ce"],
)
def test_fused_values_equal_the_float64_loop(as_on_a_gpu, shape, objective):
    hidden, teacher, labels, head = case(**shape)
    weights = TokenWeights.of(torch.arange(37) % 4 / 2)
    sums = chunked_loss(hidden, teacher, labels, head, objective, 8, weights=weights)
    agrees(sums, reference(hidden, teacher, labels, head, objective, weights=weights), objective)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_fused_student_equal_to_teacher_has_no_retention_to_the_bit(as_on_a_gpu, dtype, reverse):
    hidden, _, labels, head = case(dtype=dtype)
    student = hidden.clone().requires_grad_()
    sums = chunked_loss(student, hidden, labels, head, Objective(0.0, 0.9, 0.7, False, reverse), 8)
    sums.total.backward()
    assert float(sums.retention) == 0.0 and student.grad is not None and student.grad.count_nonzero() == 0


@settings(deadline=None, max_examples=80, derandomize=True, database=None)
@given(data=st.data())
def test_fused_terms_equal_those_by_blocks(data):
    """Logits in quarters tie often, also at the top; padding is -inf on both sides or on the teacher's alone."""
    n, vocabulary = data.draw(st.integers(1, 5)), data.draw(st.integers(2, 9))
    rows = st.lists(
        st.lists(st.integers(-40, 40).map(lambda value: value / 4), min_size=vocabulary, max_size=vocabulary),
        min_size=n,
        max_size=n,
    )
    student, teacher = torch.tensor(data.draw(rows)), torch.tensor(data.draw(rows))
    padded = data.draw(st.integers(0, vocabulary - 1))
    padding = torch.zeros(vocabulary)
    padding[vocabulary - padded :] = -torch.inf
    both = Head(torch.empty(vocabulary, 1), padding if data.draw(st.booleans()) else None, scale=0.5)
    teachers = Head(both.weight, padding)
    labels = torch.tensor(data.draw(st.lists(st.integers(0, vocabulary - 1 - padded), min_size=n, max_size=n)))
    weights = torch.rand(2, n, 1, generator=torch.Generator().manual_seed(n)).unbind()
    swap, temperature = data.draw(st.booleans()), data.draw(st.sampled_from([1.0, 0.5, 3.0]))
    reverse = data.draw(st.booleans()) and both.bias is not None  # else the teacher's padding costs infinity, rightly
    has_teacher = data.draw(st.booleans())
    found = []
    for way in (terms.terms_of_products, fused.uncompiled):
        mine, other = student.clone(), teacher.clone() if has_teacher else None
        common = (temperature, swap, reverse, True)
        if way is fused.uncompiled:
            shapes = ((head.bias, head.scale, head.softcap) for head in (both, teachers))
            values = way(mine, other, labels, weights[0], weights[1] * temperature, *shapes, *common)
        else:
            values = way(mine, both, other, teachers, labels, *weights, *common)
        found.append((*values, mine))
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=2e-6, rtol=2e-6)


def test_the_fused_form_is_one_graph():
    """Compiled without a backend of its own, so that this is quick: `fullgraph` raises at whatever cannot be traced."""
    hidden, teacher, labels, head = case(softcap=4.0, scale=0.5, bias=torch.linspace(-2, 2, 101))
    labels = labels.clamp(min=0)
    one = torch.ones(len(labels), 1)
    shape = (head.bias, head.scale, head.softcap)
    compiled = torch.compile(fused.uncompiled, backend="aot_eager", fullgraph=True)
    for reverse in (False, True):
        found = []
        for way in (fused.uncompiled, compiled):
            student, other = hidden @ head.weight.T, teacher @ head.weight.T
            values = way(student, other, labels, one, one, shape, shape, 2.0, not reverse, reverse, True)
            found.append((*values, student))
        for each, same in zip(*found, strict=True):
            torch.testing.assert_close(each, same)


def test_a_processor_is_not_for_fused_terms():
    assert not fused.is_fused(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_compiled_on_a_gpu_it_equals_the_processor(dtype):
    hidden, teacher, labels, head = case(n=150, vocabulary=1003, width=32, dtype=dtype)
    found = []
    for device in ("cpu", "cuda"):
        student = hidden.to(device).requires_grad_()
        there = Head(head.weight.to(device))
        sums = chunked_loss(student, teacher.to(device), labels.to(device), there, Objective(), 64)
        sums.total.backward()
        assert student.grad is not None
        found.append((sums.total.item(), float(sums.retention), student.grad.float().cpu()))
        assert token_losses(*(t.to(device) for t in (hidden, hidden, labels)), there)[1].count_nonzero() == 0
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    assert found[0][:2] == pytest.approx(found[1][:2], rel=tolerance)
    assert (found[0][2] - found[1][2]).norm() <= 5 * tolerance * found[0][2].norm()
