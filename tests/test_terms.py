"""The place of the largest logit, and digits that survive where a model is sure of itself."""

# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators

import math

import pytest
import torch

from mixcpt.terms import largest, terms


@pytest.mark.parametrize("width", [1, 7, 511, 512, 513, 700, 1024, 3000])
def test_the_largest_is_found_at_its_first_place(width):
    """Small whole numbers tie everywhere, so the first place is asked for in earnest."""
    generator = torch.Generator().manual_seed(width)
    logits = torch.randint(-3, 4, (40, width), generator=generator).float()
    logits[0], logits[1, -1], logits[2, 0] = 2.0, 9.0, 9.0
    value, place = largest(logits)
    first = [row.index(max(row)) for row in logits.tolist()]
    assert place.squeeze(1).tolist() == first
    assert value.equal(logits.gather(1, place))


def test_the_largest_beside_padding():
    logits = torch.full((1, 600), -torch.inf)
    logits[0, 599] = -5.0
    assert [each.item() for each in largest(logits)] == [-5.0, 599]


@pytest.mark.parametrize("margin", [5.0, 12.0, 25.0, 60.0])
@pytest.mark.parametrize("level", [0.0, 300.0])
def test_a_sure_model_keeps_its_digits(margin, level):
    """Two tokens `margin` apart: CE = log1p(e^-margin), far below the rounding of 1 and of the logits' level."""
    logits = torch.tensor([[level, level - margin]])
    one = torch.ones(1, 1)
    found = terms(logits, logits.clone(), torch.tensor([0]), one, one, 1.0, False, False, False, True)
    assert found.ce.item() == pytest.approx(math.log1p(math.exp(-margin)), rel=1e-6)
    assert found.retention.item() == 0.0
    share = math.exp(-margin) / (1 + math.exp(-margin))
    assert found.gradient is not None and found.gradient[0, 1].item() == pytest.approx(share, rel=1e-6)


def test_a_small_divergence_between_sure_models_keeps_its_digits():
    """KL between (1 - a, a) and (1 - b, b) for a, b near e^-12."""
    student, teacher = torch.tensor([[100.0, 88.0]]), torch.tensor([[100.0, 87.0]])
    one = torch.ones(1, 1)
    q, p = (math.exp(-margin) / (1 + math.exp(-margin)) for margin in (13, 12))
    forward = q * math.log(q / p) + (1 - q) * math.log1p((p - q) / (1 - p))
    found = terms(student, teacher.clone(), torch.tensor([0]), one, one, 1.0, False, False, False, False)
    assert found.retention.item() == pytest.approx(forward, rel=1e-5)
    backward = p * math.log(p / q) + (1 - p) * math.log1p((q - p) / (1 - q))
    found = terms(student, teacher.clone(), torch.tensor([0]), one, one, 1.0, False, True, False, False)
    assert found.retention.item() == pytest.approx(backward, rel=1e-5)
