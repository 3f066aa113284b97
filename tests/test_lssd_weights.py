"""Weights of single tokens, and MoL: cross-entropy on the field, reverse KL on the rest."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators, disable-error-code="union-attr,index"

import pytest
import torch
from loss_loop import LN, agrees, case, numeric_gradient, reference

from mixcpt import terms
from mixcpt.lssd import Head, Objective, TokenWeights, chunked_loss, plain_loss

OBJECTIVES = {
    "lssd": Objective(),
    "kl, warm": Objective(0.7, 2.5, temperature=2.0, swap=False),
    "mol": Objective(swap=False, reverse=True),
    "ce only": Objective(retention_weight=0.0),
}


def factors(n, seed=5):
    """Factors from 0 to 3, apart for the two terms; a third of each is zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(2, n, generator=generator) * 3
    drawn[torch.rand(2, n, generator=generator) < 1 / 3] = 0.0
    return TokenWeights(*drawn)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_weighted_values_equal_the_float64_loop(objective, chunk):
    hidden, teacher, labels, head = case()
    weights = factors(37)
    expected = reference(hidden, teacher, labels, head, objective, weights=weights)
    agrees(chunked_loss(hidden, teacher, labels, head, objective, chunk, weights=weights), expected, objective)
    agrees(plain_loss(head.logits(hidden), head.logits(teacher), labels, objective, weights), expected, objective)


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_weighted_gradients_equal_finite_differences_of_the_loop(objective):
    hidden, teacher, labels, head = case()
    weights = factors(37)
    both = [row for row in range(37) if labels[row] >= 0 and weights.ce[row] > 0 and weights.retention[row] > 0]
    one = [row for row in range(37) if labels[row] >= 0 and (weights.ce[row] > 0) != (weights.retention[row] > 0)]
    none = [row for row in range(37) if labels[row] >= 0 and weights.ce[row] == weights.retention[row] == 0]
    assert len(both) > 5 and len(one) > 5 and none
    entries = [(row, row % 13) for row in (*both[:4], *one[:4], none[0])]
    expected = numeric_gradient(hidden, teacher, labels, head, objective, entries, weights=weights)
    for way in ("chunked", "plain"):
        student = hidden.clone().requires_grad_()
        if way == "chunked":
            sums = chunked_loss(student, teacher, labels, head, objective, 8, weights=weights)
        else:
            sums = plain_loss(head.logits(student), head.logits(teacher), labels, objective, weights)
        sums.total.backward()
        found = [student.grad[entry].item() for entry in entries]
        assert found[-1] == 0.0
        assert found == pytest.approx(expected, abs=4e-5), way


def test_a_token_of_weight_two_pulls_twice_and_leaves_the_others_alone():
    """The divisor is the count of tokens, so what one is weighed by does not change what the others do."""
    hidden, teacher, labels, head = case()
    weights = torch.ones(37)
    weights[3], weights[4] = 2.0, 0.0
    found = {}
    for name, each in (("plain", None), ("weighed", TokenWeights.of(weights))):
        student = hidden.clone().requires_grad_()
        sums = chunked_loss(student, teacher, labels, head, Objective(), 8, weights=each)
        (sums.total / sums.tokens).backward()
        found[name] = student.grad
    others = [row for row in range(37) if row not in (3, 4)]
    assert labels[3] >= 0 and labels[4] >= 0
    torch.testing.assert_close(found["weighed"][others], found["plain"][others])
    torch.testing.assert_close(found["weighed"][3], 2 * found["plain"][3])
    assert found["weighed"][4].count_nonzero() == 0 and found["plain"][4].count_nonzero() > 0


def test_weights_of_one_are_no_weights():
    hidden, teacher, labels, head = case()
    plain = chunked_loss(hidden, teacher, labels, head, Objective(), 8)
    assert chunked_loss(hidden, teacher, labels, head, Objective(), 8, weights=TokenWeights.of(torch.ones(37))) == plain
    assert (plain.ce_tokens, plain.retention_tokens) == (plain.tokens, plain.tokens)


def test_sums_of_weights_count_only_what_is_counted():
    hidden, teacher, labels, head = case()
    weights = factors(37)
    counted = labels != -100
    for sums in (
        chunked_loss(hidden, teacher, labels, head, Objective(), weights=weights),
        plain_loss(head.logits(hidden), head.logits(teacher), labels, Objective(), weights),
    ):
        assert sums.tokens == counted.sum()
        assert sums.ce_tokens == pytest.approx(weights.ce[counted].sum().item())
        assert sums.retention_tokens == pytest.approx(weights.retention[counted].sum().item())


def test_everything_weighed_zero_costs_nothing():
    hidden, teacher, labels, head = case()
    for objective in OBJECTIVES.values():
        student = hidden.clone().requires_grad_()
        sums = chunked_loss(student, teacher, labels, head, objective, weights=TokenWeights.of(torch.zeros(37)))
        sums.total.backward()
        assert (sums.total.item(), float(sums.ce), float(sums.retention)) == (0.0, 0.0, 0.0)
        assert sums.tokens > 0 and student.grad.count_nonzero() == 0


@pytest.mark.parametrize("way", ["chunked", "plain"])
def test_worked_examples_of_the_module(way):
    """The last lines of its docstring: a third position that counts double, and MoL."""
    q = torch.tensor([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.4, 0.4, 0.2]])
    labels = torch.tensor([-100, 0, 2, 1])

    def loss(student, objective, weights):
        if way == "plain":
            return plain_loss(student, q.log(), labels, objective, weights)
        return chunked_loss(student, q.log(), labels, Head(torch.eye(3)), objective, 2, weights=weights)

    double = loss(q.log(), Objective(), TokenWeights.of(torch.tensor([7.0, 1, 2, 1])))
    assert double.total.item() / double.tokens == pytest.approx(2.5566, abs=5e-5)
    field = torch.tensor([False, True, False, False])
    mol = loss(torch.zeros(4, 3), Objective(swap=False, reverse=True), TokenWeights.mol(field))
    assert (mol.ce_tokens, mol.retention_tokens, mol.tokens) == (1, 2, 3)
    assert float(mol.ce) == pytest.approx(LN(3)) and float(mol.retention) == pytest.approx(0.2405 + 0.0487, abs=1e-4)
    assert mol.total.item() / mol.tokens == pytest.approx(0.4626, abs=5e-5)


def test_mol_learns_the_field_by_cross_entropy_alone_and_holds_the_rest_alone():
    hidden, teacher, labels, head = case()
    field = torch.arange(37) % 3 == 0
    objective = Objective(ce_weight=0.7, retention_weight=1.3, swap=False, reverse=True)
    student = hidden.clone().requires_grad_()
    sums = chunked_loss(student, teacher, labels, head, objective, 8, weights=TokenWeights.mol(field))
    sums.total.backward()
    for part, alone in ((field, Objective(0.7, 0.0)), (~field, Objective(0.0, 1.3, swap=False, reverse=True))):
        one = hidden[part].clone().requires_grad_()
        chunked_loss(one, teacher[part], labels[part], head, alone, 8).total.backward()
        torch.testing.assert_close(student.grad[part], one.grad, atol=1e-6, rtol=1e-5)


def test_mol_of_a_student_equal_to_its_teacher_holds_with_nothing():
    """Bit for bit, though only some tokens have a teacher: both sides' logits are made in the same chunks."""
    for dtype in (torch.float32, torch.bfloat16):
        hidden, _, labels, head = case(n=150, dtype=dtype)
        field = torch.arange(150) % 3 == 0
        student = hidden.clone().requires_grad_()
        mol = Objective(swap=False, reverse=True)
        sums = chunked_loss(student, hidden, labels, head, mol, 64, weights=TokenWeights.mol(field))
        sums.total.backward()
        assert float(sums.retention) == 0.0 and sums.total == sums.ce
        assert student.grad[~field].count_nonzero() == 0 and student.grad[field].count_nonzero() > 0


def test_what_nothing_is_retained_of_needs_no_teachers_logits(monkeypatch):
    """A teacher of NaN where its weight is zero does no harm, and its logits are not made."""
    hidden, teacher, labels, head = case()
    field = torch.arange(37) < 30
    teacher[field] = torch.nan
    made = []
    product = Head.product

    def counting(self, states, out=None):
        made.append(len(states))
        return product(self, states, out)

    monkeypatch.setattr(Head, "product", counting)
    objective = Objective(swap=False, reverse=True)
    sums = chunked_loss(hidden, teacher, labels, head, objective, 8, weights=TokenWeights.mol(field))
    assert sums.total.isfinite()
    general = int((labels[30:] >= 0).sum())
    assert general == sums.retention_tokens
    rounded = [-(-general // 8) * 8, -(-(sums.tokens - general) // 8) * 8]  # both sides of the first, one of the second
    assert sum(made) == 2 * rounded[0] + rounded[1]


def test_rows_and_sources_are_tokens_with_equal_weights():
    """A row of three documents of two sources, the second weighed a half: the sum of each alone times its weight."""
    hidden, teacher, labels, head = case()
    source = torch.tensor([0] * 10 + [1] * 15 + [0] * 12)
    weights = torch.tensor([1.0, 0.5])[source]
    whole = chunked_loss(hidden, teacher, labels, head, Objective(), 8, weights=TokenWeights.of(weights))
    parts = [
        chunked_loss(hidden[source == number], teacher[source == number], labels[source == number], head, Objective())
        for number in (0, 1)
    ]
    assert whole.total.item() == pytest.approx(parts[0].total.item() + 0.5 * parts[1].total.item(), rel=1e-6)
    assert whole.tokens == parts[0].tokens + parts[1].tokens


def test_blocks_do_not_show(monkeypatch):
    """However few rows a processor's cache holds, the result is the same to the bit."""
    hidden, teacher, labels, head = case()
    found = []
    for size in (1, 101 * 3, 1 << 19):
        monkeypatch.setattr(terms, "_BLOCK", size)
        student = hidden.clone().requires_grad_()
        sums = chunked_loss(student, teacher, labels, head, Objective(), 16, weights=factors(37))
        sums.total.backward()
        found.append((sums.total.item(), student.grad))
    for value, gradient in found[1:]:
        assert value == found[0][0] and gradient.equal(found[0][1])
