"""The loss: chunked and plain against a float64 loop over tokens and vocabulary (`tests.loss_loop`)."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="union-attr,index"

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_loop import LN, agrees, case, loop, numeric_gradient, probabilities, reference, shaped

from mixcpt.lssd import Head, Objective, TokenWeights, chunked_loss, plain_loss, token_losses
from mixcpt.terms import swap_top_with_label

OBJECTIVES = {
    "lssd": Objective(),
    "kl": Objective(swap=False),
    "ce only": Objective(retention_weight=0.0),
    "retention only": Objective(ce_weight=0.0),
    "weights": Objective(ce_weight=0.7, retention_weight=2.5),
    "warm": Objective(temperature=2.5),
    "cold": Objective(temperature=0.5, retention_weight=0.3, swap=False),
    "reverse": Objective(swap=False, reverse=True),
    "reverse, warm": Objective(temperature=2.5, retention_weight=0.8, swap=False, reverse=True),
    "reverse of the swapped": Objective(reverse=True),
}


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_chunked_value_equals_the_float64_loop(objective, chunk):
    hidden, teacher, labels, head = case()
    sums = chunked_loss(hidden, teacher if objective.needs_teacher else None, labels, head, objective, chunk)
    agrees(sums, reference(hidden, teacher, labels, head, objective), objective)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_plain_value_equals_the_float64_loop(objective):
    hidden, teacher, labels, head = case()
    sums = plain_loss(head.logits(hidden), head.logits(teacher), labels, objective)
    agrees(sums, reference(hidden, teacher, labels, head, objective), objective)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_chunked_and_plain_gradients_equal_finite_differences_of_the_loop(objective):
    hidden, teacher, labels, head = case()
    entries = [(0, 0), (1, 3), (8, 12), (17, 5), (36, 9)]
    assert labels[0] == -100  # the first entry must have no gradient at all
    expected = numeric_gradient(hidden, teacher, labels, head, objective, entries)
    for way in ("chunked", "plain"):
        student = hidden.clone().requires_grad_()
        if way == "chunked":
            sums = chunked_loss(student, teacher, labels, head, objective, 8)
        else:
            sums = plain_loss(head.logits(student), head.logits(teacher), labels, objective)
        sums.total.backward()
        found = [student.grad[entry].item() for entry in entries]
        assert found[0] == 0.0
        assert found == pytest.approx(expected, abs=2e-5), way


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_every_entry_of_the_gradient_equals_the_derivation_in_float64(objective):
    """d(CE)/ds_v = p_v - [v = y]; d(T^2 KL(q'|p_T))/ds_v = T (p_T,v - q'_v), the other way round
    T p_T,v (log p_T,v - log q'_v - KL(p_T|q')); through the head by the chain rule."""
    hidden, teacher, labels, head = case(seed=1)
    student = hidden.clone().requires_grad_()
    chunked_loss(student, teacher, labels, head, objective, 10).total.backward()
    expected = np.zeros(hidden.shape)
    s, z = shaped(hidden, head), shaped(teacher, head)
    for row, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        slope = objective.ce_weight * np.array(probabilities(s[row].tolist(), 1.0))
        slope[label] -= objective.ce_weight
        swapped = z[row].copy()
        if objective.swap:
            k = int(swapped.argmax())
            swapped[k], swapped[label] = z[row][label], z[row][k]
        t = objective.temperature
        p, q = np.array(probabilities(s[row].tolist(), t)), np.array(probabilities(swapped.tolist(), t))
        ratio = np.log(p) - np.log(q)
        pull = p * (ratio - p @ ratio) if objective.reverse else p - q
        expected[row] = (slope + objective.retention_weight * t * pull) @ head.weight.double().numpy()
    np.testing.assert_allclose(student.grad.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("objective", [Objective(), Objective(temperature=2.0, swap=False)])
def test_bf16_is_within_a_hundredth_of_the_loop(objective):
    hidden, teacher, labels, head = case(n=150, dtype=torch.bfloat16)
    student = hidden.clone().requires_grad_()
    sums = chunked_loss(student, teacher, labels, head, objective, 64)
    agrees(sums, reference(hidden, teacher, labels, head, objective), objective, 1e-2)
    (sums.total / sums.tokens).backward()
    exact = hidden.float().requires_grad_()
    same = chunked_loss(exact, teacher.float(), labels, Head(head.weight.float()), objective, 64)
    (same.total / same.tokens).backward()
    assert student.grad.dtype == torch.bfloat16
    # A logit of 10 is rounded by 0.04, which moves its probability by 4 %.
    assert (student.grad.float() - exact.grad).norm() <= 0.05 * exact.grad.norm()


def test_bf16_gradient_is_scaled_by_the_exact_divisor():
    """A gradient of exactly 1.75 over 3 tokens is 0.58333, in bf16 149/256 = 0.58203; with 1/3 rounded to bf16 first it
    would be 150/256."""
    head = Head(torch.tensor([[3.5], [0.0]], dtype=torch.bfloat16))
    hidden = torch.zeros(1, 1, dtype=torch.bfloat16, requires_grad=True)
    sums = chunked_loss(hidden, None, torch.tensor([1]), head, Objective(retention_weight=0.0))
    (sums.total / 3).backward()
    assert hidden.grad.item() == 149 / 256  # p_0 * 3.5 / 3 with p_0 = 1/2


def test_worked_example_of_the_module():
    """The table in the docstring: CE = (-ln 0.7 - ln 0.1 - ln 0.4) / 3, LSSD = 0.5 ln 6 / 3."""
    q = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.4, 0.4, 0.2]])
    labels = torch.tensor([-100, 0, 2, 1])
    head = Head(torch.eye(3))
    for sums in (
        plain_loss(q.log(), q.log(), labels, Objective()),
        chunked_loss(q.log(), q.log(), labels, head, Objective(), 2),
    ):
        assert sums.tokens == 3
        assert float(sums.ce) / 3 == pytest.approx(1.1919, abs=5e-5)
        assert float(sums.retention) / 3 == pytest.approx(0.2986, abs=5e-5)
        assert sums.total.item() == pytest.approx(-LN(0.7 * 0.1 * 0.4) + 0.5 * LN(6), rel=1e-6)
        assert sums.total.item() / 3 == pytest.approx(1.4905, abs=5e-5)
    swapped = swap_top_with_label(q[1:].clone(), labels[1:])
    assert swapped.tolist() == [q[1].tolist(), q[2].flip(0).tolist(), q[3].tolist()]


def test_swap_leaves_a_tie_at_the_top_alone_when_the_label_is_in_it():
    logits = torch.tensor([[5.0, 1.0, 5.0], [5.0, 1.0, 5.0], [2.0, 2.0, 2.0]])
    labels = torch.tensor([0, 2, 1])
    assert swap_top_with_label(logits.clone(), labels).equal(logits)


def test_swap_of_a_label_below_a_tie_takes_the_first_of_the_tied():
    swapped = swap_top_with_label(torch.tensor([[1.0, 5.0, 5.0, 0.0]]), torch.tensor([3]))
    assert swapped.tolist() == [[1.0, 0.0, 5.0, 5.0]]


def test_ties_at_the_top_equal_the_loop():
    """Logits rounded to halves tie often, in teacher and student."""
    generator = torch.Generator().manual_seed(3)
    student = (torch.randn(60, 9, generator=generator) * 2).round() / 2
    teacher = (torch.randn(60, 9, generator=generator) * 2).round() / 2
    labels = torch.randint(0, 9, (60,), generator=generator)
    top = teacher.max(1).values
    assert ((teacher == top.unsqueeze(1)).sum(1) > 1).sum() > 5
    assert (
        (teacher.gather(1, labels.unsqueeze(1)).squeeze(1) == top) & ((teacher == top.unsqueeze(1)).sum(1) > 1)
    ).any()
    expected = loop(student.tolist(), teacher.tolist(), labels.tolist(), Objective())
    agrees(plain_loss(student, teacher, labels, Objective()), expected, Objective())
    agrees(chunked_loss(student, teacher, labels, Head(torch.eye(9)), Objective(), 7), expected, Objective())


def test_label_on_top_makes_lssd_the_plain_kl():
    hidden, teacher, _, head = case()
    labels = head.logits(teacher).argmax(1)
    swap = chunked_loss(hidden, teacher, labels, head, Objective())
    plain = chunked_loss(hidden, teacher, labels, head, Objective(swap=False))
    assert swap.total == plain.total
    assert swap.retention > 0


@pytest.mark.parametrize("reverse", [False, True], ids=["KL(q|p)", "KL(p|q)"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, 3.0])
@pytest.mark.parametrize("chunk", [1, 8, 1000])
def test_student_equal_to_teacher_without_swap_has_no_retention_and_no_pull(chunk, temperature, dtype, reverse):
    """Zero to the last bit, whatever the shape of the head, and from every token."""
    for shape in ({}, {"softcap": 3.0, "scale": 0.3, "bias": torch.linspace(-2, 2, 101)}):
        hidden, _, labels, head = case(dtype=dtype, **shape)
        student = hidden.clone().requires_grad_()
        objective = Objective(0.0, 0.9, swap=False, temperature=temperature, reverse=reverse)
        sums = chunked_loss(student, hidden, labels, head, objective, chunk)
        sums.total.backward()
        assert float(sums.retention) == 0.0 and sums.total.item() == 0.0
        assert student.grad.count_nonzero() == 0
        if not reverse:
            assert token_losses(hidden, hidden, labels, head, chunk)[1].count_nonzero() == 0


def test_student_equal_to_teacher_with_swap_has_the_closed_form():
    """KL(q'|q) = (q_k - q_y) log(q_k / q_y), summed over tokens."""
    hidden, _, labels, head = case()
    q = [probabilities(row, 1.0) for row in shaped(hidden, head).tolist()]
    pairs = [(max(q[i]), q[i][y]) for i, y in enumerate(labels.tolist()) if y != -100]
    expected = sum((top - at) * LN(top / at) for top, at in pairs)
    assert expected > 10
    assert float(chunked_loss(hidden, hidden, labels, head, Objective()).retention) == pytest.approx(expected, rel=1e-5)


def test_everything_masked_costs_nothing_and_pulls_nowhere():
    hidden, teacher, labels, head = case()
    labels = torch.full_like(labels, -100)
    for way in ("chunked", "plain"):
        student = hidden.clone().requires_grad_()
        if way == "chunked":
            sums = chunked_loss(student, teacher, labels, head, Objective())
        else:
            sums = plain_loss(head.logits(student), head.logits(teacher), labels, Objective())
        sums.total.backward()
        assert (sums.tokens, sums.total.item(), float(sums.ce), float(sums.retention)) == (0, 0.0, 0.0, 0.0)
        assert student.grad.abs().sum() == 0


def test_masked_positions_may_hold_anything():
    """NaN states where the label is -100 must not reach the loss or the gradient."""
    hidden, teacher, labels, head = case()
    expected = chunked_loss(hidden, teacher, labels, head, Objective()).total
    student, other = hidden.clone(), teacher.clone()
    student[labels == -100] = torch.nan
    other[labels == -100] = torch.nan
    student.requires_grad_()
    sums = chunked_loss(student, other, labels, head, Objective())
    sums.total.backward()
    assert sums.total == expected
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_padded_vocabulary_of_minus_infinity_is_as_if_it_were_not_there(swap, temperature):
    """A head whose last 11 entries have bias -inf equals the head without them: value and gradient."""
    hidden, teacher, labels, head = case(vocabulary=90)
    bias = torch.cat([torch.linspace(-1, 1, 90), torch.full((11,), -torch.inf)])
    padded = Head(torch.cat([head.weight, torch.randn(11, 13)]), bias)
    small = Head(head.weight, bias[:90])
    objective = Objective(swap=swap, temperature=temperature)
    expected = reference(hidden, teacher, labels, small, objective)
    results = []
    for each in (padded, small):
        student = hidden.clone().requires_grad_()
        sums = chunked_loss(student, teacher, labels, each, objective, 8)
        sums.total.backward()
        agrees(sums, expected, objective)
        results.append(student.grad)
        agrees(plain_loss(each.logits(hidden), each.logits(teacher), labels, objective), expected, objective)
    assert results[0].isfinite().all()
    torch.testing.assert_close(results[0], results[1], atol=5e-6, rtol=1e-6)


def test_plain_gradient_has_no_nan_with_padded_vocabulary():
    """`where` hides a NaN in the value but not in autograd: the gradient itself must be looked at."""
    logits = torch.tensor([[1.0, 2.0, -torch.inf], [0.5, 0.0, -torch.inf]], requires_grad=True)
    teacher = torch.tensor([[0.0, 2.0, -torch.inf], [3.0, 0.0, -torch.inf]])
    plain_loss(logits, teacher, torch.tensor([0, 1]), Objective()).total.backward()
    assert logits.grad.isfinite().all()
    assert logits.grad[:, 2].tolist() == [0.0, 0.0]


def test_a_token_only_the_teacher_lacks_costs_nothing_there():
    """Teacher (1, 0), student (1/4, 3/4), label 0: KL = ln 4, CE = ln 4."""
    head = Head(torch.eye(2), torch.tensor([0.0, 0.0]))
    teacher_head = Head(torch.eye(2), torch.tensor([0.0, -torch.inf]))
    student = torch.tensor([[LN(0.25), LN(0.75)]])
    sums = chunked_loss(student, torch.zeros(1, 2), torch.tensor([0]), head, Objective(), teacher_head=teacher_head)
    assert [float(sums.ce), float(sums.retention)] == pytest.approx([LN(4), LN(4)], rel=1e-6)


@pytest.mark.parametrize(
    "shape",
    [
        {"softcap": 3.0},
        {"scale": 0.25},
        {"scale": 1 / 8, "softcap": 2.0},
        {"bias": torch.linspace(-2, 2, 101)},
        {"bias": torch.linspace(-2, 2, 101), "scale": 0.5, "softcap": 4.0},
    ],
    ids=["softcap", "scale", "scale and softcap", "bias", "all"],
)
@pytest.mark.parametrize("objective", [Objective(), Objective(temperature=2.0)], ids=["T=1", "T=2"])
def test_shaped_heads_equal_the_loop_in_value_and_gradient(shape, objective):
    hidden, teacher, labels, head = case(**shape)
    student = hidden.clone().requires_grad_()
    sums = chunked_loss(student, teacher, labels, head, objective, 8)
    agrees(sums, reference(hidden, teacher, labels, head, objective), objective)
    sums.total.backward()
    entries = [(2, 0), (5, 7), (29, 12)]
    expected = numeric_gradient(hidden, teacher, labels, head, objective, entries)
    assert [student.grad[entry].item() for entry in entries] == pytest.approx(expected, abs=2e-5)


def test_teacher_with_a_head_of_its_own():
    hidden, teacher, labels, head = case()
    other = Head(head.weight.flip(0).contiguous(), scale=0.5)
    sums = chunked_loss(hidden, teacher, labels, head, Objective(), 8, other)
    agrees(sums, reference(hidden, teacher, labels, head, Objective(), other), Objective())


def test_one_token():
    hidden, teacher, labels, head = case(n=2)
    sums = chunked_loss(hidden[1:], teacher[1:], labels[1:], head, Objective())
    assert sums.tokens == 1
    agrees(sums, reference(hidden[1:], teacher[1:], labels[1:], head, Objective()), Objective())


def test_sums_of_two_halves_are_the_sum_of_the_whole():
    """One division by all tokens, after summing: unequal counts (16 against 17 here) must not be averaged apart."""
    hidden, teacher, labels, head = case()
    halves = []
    gradients = []
    for part in (slice(0, 20), slice(20, 37), slice(0, 37)):
        student = hidden[part].clone().requires_grad_()
        sums = chunked_loss(student, teacher[part], labels[part], head, Objective(), 8)
        sums.total.backward()
        halves.append([sums.total.item(), sums.ce.item(), sums.retention.item(), sums.tokens])
        gradients.append(student.grad)
    assert halves[0][3] != halves[1][3]
    assert np.add(halves[0], halves[1]) == pytest.approx(halves[2], rel=1e-6)
    torch.testing.assert_close(torch.cat(gradients[:2]), gradients[2], atol=1e-5, rtol=1e-5)


def test_gradient_follows_the_divisor():
    hidden, teacher, labels, head = case()
    gradients = []
    for divisor in (1, 40):
        student = hidden.clone().requires_grad_()
        (chunked_loss(student, teacher, labels, head, Objective()).total / divisor).backward()
        gradients.append(student.grad)
    torch.testing.assert_close(gradients[0] / 40, gradients[1])


def test_the_teacher_gets_no_gradient():
    hidden, teacher, labels, head = case()
    student, other = hidden.clone().requires_grad_(), teacher.clone().requires_grad_()
    chunked_loss(student, other, labels, head, Objective()).total.backward()
    assert other.grad is None
    assert student.grad.abs().sum() > 0


def test_shown_sums_carry_no_gradient():
    hidden, teacher, labels, head = case()
    student = hidden.clone().requires_grad_()
    sums = chunked_loss(student, teacher, labels, head, Objective())
    assert sums.total.requires_grad
    assert not sums.ce.requires_grad and not sums.retention.requires_grad


def test_inputs_are_not_changed():
    hidden, teacher, labels, head = case()
    before = [tensor.clone() for tensor in (hidden, teacher, labels, head.weight)]
    chunked_loss(hidden, teacher, labels, head, Objective(), 8)
    student, other = head.logits(hidden), head.logits(teacher)
    kept = student.clone(), other.clone()
    plain_loss(student, other, labels, Objective())
    assert all(a.equal(b) for a, b in zip((hidden, teacher, labels, head.weight), before, strict=True))
    assert student.equal(kept[0]) and other.equal(kept[1])


def test_autocast_around_the_loss_changes_nothing():
    hidden, teacher, labels, head = case()
    alone = chunked_loss(hidden, teacher, labels, head, Objective()).total
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert chunked_loss(hidden, teacher, labels, head, Objective()).total == alone


def test_token_losses_are_the_terms_of_the_sums():
    """Per token against the loop; sums against chunked_loss with plain KL; zero where masked."""
    hidden, teacher, labels, head = case()
    ce, kl = token_losses(hidden, teacher, labels, head, chunk=8)
    assert ce[labels == -100].count_nonzero() == kl[labels == -100].count_nonzero() == 0
    for row in range(37):
        one = slice(row, row + 1)
        _, want_ce, want_kl, _, entropy = reference(hidden[one], teacher[one], labels[one], head, Objective(swap=False))
        assert float(ce[row]) == pytest.approx(want_ce, abs=2e-6 * (1 + want_ce))
        assert float(kl[row]) == pytest.approx(want_kl, abs=3e-6 * (1 + want_ce + entropy))
    sums = chunked_loss(hidden, teacher, labels, head, Objective(swap=False))
    assert [float(ce.sum()), float(kl.sum())] == pytest.approx([float(sums.ce), float(sums.retention)], rel=1e-5)


def test_token_losses_without_teacher_have_no_kl():
    hidden, teacher, labels, head = case()
    ce, kl = token_losses(hidden, None, labels, head)
    assert ce.equal(token_losses(hidden, teacher, labels, head)[0])
    assert kl.count_nonzero() == 0


@pytest.mark.parametrize("way", ["chunked", "plain"])
def test_retention_without_a_teacher_is_refused(way):
    hidden, _, labels, head = case()
    with pytest.raises(ValueError, match="there is no teacher"):
        if way == "chunked":
            chunked_loss(hidden, None, labels, head, Objective())
        else:
            plain_loss(head.logits(hidden), None, labels, Objective())


def test_without_retention_the_teacher_is_not_looked_at():
    hidden, _, labels, head = case()
    objective = Objective(retention_weight=0.0)
    broken = torch.full_like(hidden, torch.nan)
    expected = chunked_loss(hidden, None, labels, head, objective)
    found = chunked_loss(hidden, broken, labels, head, objective)
    assert found.total == expected.total == expected.ce
    assert found.retention == 0


def test_extreme_logits_stay_finite():
    """Logits of +-10,000: all mass on one token. Label right: CE 0. Student sure of 0, teacher sure of 1, label 1:
    CE = 20,000 and KL = 20,000 (q' = onehot(1), log p_1 = -20,000)."""
    head = Head(torch.tensor([[10_000.0], [-10_000.0]]))
    student, teacher = torch.tensor([[1.0], [1.0]], requires_grad=True), torch.tensor([[1.0], [-1.0]])
    sums = chunked_loss(student, teacher, torch.tensor([0, 1]), head, Objective())
    sums.total.backward()
    assert [float(sums.ce), float(sums.retention)] == [20_000.0, 20_000.0]
    assert student.grad.isfinite().all()


def test_a_vocabulary_of_262144():
    """Logits h_0 * a_v by hand: weight rows are zero but for two tokens, so Z = 262142 + e^a + e^b."""
    vocabulary = 262_144
    weight = torch.zeros(vocabulary, 4)
    weight[7, 0], weight[262_000, 0] = 10.0, 12.0
    hidden = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1).requires_grad_()
    labels = torch.tensor([7, -100, 262_000])
    sums = chunked_loss(hidden, hidden.detach(), labels, Head(weight), Objective(), 2)
    total = (vocabulary - 2) + math.exp(10) + math.exp(12)
    top, second = math.exp(12) / total, math.exp(10) / total
    assert float(sums.ce) == pytest.approx(2 * LN(total) - 22, rel=1e-6)
    assert float(sums.retention) == pytest.approx((top - second) * 2, rel=1e-5)  # log(top / second) = 12 - 10
    sums.total.backward()
    # Row 0: CE gives second * 10 + top * 12 - 10; LSSD gives p - q' = (second - top) 10 + (top - second) 12.
    expected = 10 * second + 12 * top - 10 + 2 * (top - second)
    assert hidden.grad[0].tolist() == pytest.approx([expected, 0, 0, 0], rel=1e-5)
    # Row 2: the label is on top, so only cross-entropy pulls.
    assert hidden.grad[2, 0].item() == pytest.approx(10 * second + 12 * top - 12, rel=1e-5)


@settings(deadline=None, max_examples=80, derandomize=True, database=None)
@given(data=st.data())
def test_any_small_case_equals_the_loop(data):
    n, vocabulary = data.draw(st.integers(1, 6)), data.draw(st.integers(2, 7))
    # Multiples of 1/4 up to 8: exact in fp32, and ties are frequent.
    logit = st.integers(-32, 32).map(lambda value: value / 4)
    rows = st.lists(st.lists(logit, min_size=vocabulary, max_size=vocabulary), min_size=n, max_size=n)
    student, teacher = data.draw(rows), data.draw(rows)
    labels = data.draw(st.lists(st.integers(-1, vocabulary - 1), min_size=n, max_size=n))
    labels = [-100 if label < 0 else label for label in labels]
    objective = Objective(
        ce_weight=data.draw(st.sampled_from([0.0, 0.5, 1.0])),
        retention_weight=data.draw(st.sampled_from([0.0, 1.0, 3.0])),
        temperature=data.draw(st.sampled_from([0.5, 1.0, 2.0])),
        swap=data.draw(st.booleans()),
        reverse=data.draw(st.booleans()),
    )
    factor = st.sampled_from([0.0, 0.25, 1.0, 3.0])
    pairs = data.draw(st.none() | st.lists(st.tuples(factor, factor), min_size=n, max_size=n))
    weights = None if pairs is None else TokenWeights(*torch.tensor(pairs).T)
    expected = loop(student, teacher, labels, objective, pairs)
    tensors = torch.tensor(student), torch.tensor(teacher), torch.tensor(labels)
    agrees(plain_loss(*tensors, objective, weights), expected, objective)
    chunk = data.draw(st.integers(1, 4))
    head = Head(torch.eye(vocabulary))
    agrees(chunked_loss(*tensors, head, objective, chunk, weights=weights), expected, objective)


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(data=st.data())
def test_any_head_equals_the_plain_loss_in_value_and_gradient(data):
    """Random states, shapes, padding, masks, weights, temperatures and chunks, against autograd through fp64 logits."""
    n, width, vocabulary = (data.draw(st.integers(*ends)) for ends in ((1, 9), (1, 5), (2, 40)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1000)))
    size = data.draw(st.sampled_from([0.3, 3.0, 30.0]))
    weight, hidden, noise = (
        torch.randn(*shape, generator=generator) for shape in ((vocabulary, width), (n, width), (n, width))
    )
    padding = data.draw(st.integers(0, vocabulary - 2))
    bias = torch.randn(vocabulary, generator=generator) if padding or data.draw(st.booleans()) else None
    if padding:
        bias[vocabulary - padding :] = -torch.inf
    softcap = None if padding else data.draw(st.sampled_from([None, 3.0]))
    head = Head(weight * size, bias, softcap, data.draw(st.sampled_from([1.0, 0.25])))
    teacher = hidden + data.draw(st.sampled_from([0.0, 1e-3, 1.0])) * noise
    labels = torch.randint(0, vocabulary - padding, (n,), generator=generator)
    labels[torch.rand(n, generator=generator) < data.draw(st.sampled_from([0.0, 0.4, 1.0]))] = -100
    weights = None if data.draw(st.booleans()) else TokenWeights(*torch.rand(2, n, generator=generator).round())
    objective = Objective(
        ce_weight=data.draw(st.floats(0, 2)),
        retention_weight=data.draw(st.floats(0, 2)),
        temperature=data.draw(st.floats(0.25, 4)),
        swap=data.draw(st.booleans()),
        reverse=data.draw(st.booleans()),
    )
    student, exact = hidden.clone().requires_grad_(), hidden.double().requires_grad_()
    found = chunked_loss(student, teacher, labels, head, objective, data.draw(st.integers(1, 10)), weights=weights)
    logits = exact @ head.weight.double().T + (0.0 if bias is None else bias.double())
    logits = logits * head.scale
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    expected = plain_loss(logits, head.logits(teacher), labels, objective, weights)
    scale = 1 + float(expected.ce) + float(expected.retention)
    assert [float(found.ce), float(found.retention)] == pytest.approx(
        [float(expected.ce), float(expected.retention)], abs=2e-6 * size * scale
    )
    found.total.backward()
    expected.total.backward()
    # What the logits are off by in fp32 (they grow with the weights) moves the probabilities, more so when cold.
    allowed = 1e-5 * size * head.weight.abs().max().item() * (1 + objective.temperature + 1 / objective.temperature)
    torch.testing.assert_close(student.grad.double(), exact.grad, atol=allowed, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("objective", [Objective(), Objective(temperature=2.0, swap=False, reverse=True)])
def test_large_vocabularies_are_as_exact(objective, dtype):
    """262,147 entries (a prime), of three tokens in chunks of two, against the loop."""
    hidden, teacher, labels, head = case(n=4, width=8, vocabulary=262_147, masked=1, dtype=dtype)
    assert (labels >= 0).sum() == 3
    sums = chunked_loss(hidden, teacher, labels, head, objective, 2)
    expected = reference(hidden, teacher, labels, head, objective)
    agrees(sums, expected, objective, 1e-6 if dtype == torch.float32 else 1e-2)
