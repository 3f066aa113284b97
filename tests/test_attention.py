"""Attention in tiles against PyTorch's own in float64, on masks of all kinds; and where it leaves all as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_models import build, save
from torch import Tensor

from mixcpt import attention
from mixcpt.attention import attend_in_tiles, tiles
from mixcpt.models import load_base
from mixcpt.teacher import final_hidden

WIDTH = 16


def documents_mask(rows: list[list[int]], window: int | None = None) -> Tensor:
    """What each token sees of its own document's tokens up to itself, of the last `window` only."""
    document = torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in rows])
    place = torch.arange(document.shape[1])
    back = place.unsqueeze(1) - place
    seen = (back >= 0) & (back < (window or len(place)))
    return ((document.unsqueeze(2) == document.unsqueeze(1)) & seen).unsqueeze(1)


def states(mask: Tensor, heads: int, shared: int, seed: int = 0) -> list[Tensor]:
    """Query, key and value as layers hand them over: [rows, heads, tokens, width], in memory by token."""
    torch.manual_seed(seed)
    rows, tokens = len(mask), mask.shape[2]
    made = [torch.randn(rows, tokens, count, WIDTH, dtype=torch.float64) for count in (heads, shared, shared)]
    return [tensor.transpose(1, 2) for tensor in made]


def reference(mask: Tensor, parts: list[Tensor], scale: float) -> Tensor:
    query, key, value = parts
    sharing = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(sharing, 1) for part in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale).transpose(1, 2)


def found_and_expected(mask: Tensor, heads: int, shared: int, kind: torch.dtype, scale: float) -> list[Any]:
    """For both: the result and the gradients of query, key and value."""
    results = []
    for in_tiles in (True, False):
        parts = [part.to(kind).requires_grad_() for part in states(mask, heads, shared)]
        if in_tiles:
            result, _ = attention._attend(torch.nn.Identity(), parts[0], parts[1], parts[2], mask, scaling=scale)
        else:
            result = reference(mask, [part.double() for part in parts], scale)
        torch.manual_seed(1)
        above = torch.randn(result.shape, dtype=torch.float64).to(result.dtype)
        gradients = torch.autograd.grad(result, parts, above)
        results.append([result.detach().double(), *(gradient.double() for gradient in gradients)])
    return results


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(1, 70), min_size=1, max_size=4), min_size=1, max_size=2),
    window=st.sampled_from([None, 1, 9, 64]),
    heads=st.sampled_from([(4, 4), (6, 2), (3, 1)]),
)
def test_values_and_gradients_are_those_of_attention_under_the_whole_mask(
    rows: list[list[int]], window: int | None, heads: tuple[int, int]
) -> None:
    longest = max(map(sum, rows))
    mask = documents_mask([[*row, *([longest - sum(row)] if longest > sum(row) else [])] for row in rows], window)
    for found, expected in zip(*found_and_expected(mask, *heads, torch.float32, 0.3), strict=True):
        torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)


def test_in_16_bits_it_is_as_near_to_float64_as_pytorchs_kernel() -> None:
    mask = documents_mask([[100, 92], [150, 42]])
    found, expected = found_and_expected(mask, 6, 2, torch.bfloat16, WIDTH**-0.5)
    for own, right in zip(found, expected, strict=True):
        assert (own - right).abs().max() <= 2**-7 * right.abs().max()


def test_only_stretches_that_some_query_sees_are_in_tiles() -> None:
    found = tiles(documents_mask([[100, 156]]))
    assert found is not None
    assert [(tile.first, tile.last, tile.begin, tile.end) for tile in found] == [
        (0, 64, 0, 64),
        (64, 128, 0, 128),  # holds the end of the first document
        (128, 192, 64, 192),  # of the second document, which begins at 100: keys from the multiple of 64 before
        (192, 256, 64, 256),
    ]
    open_part = found[2].mask == 0
    assert open_part[0].nonzero().flatten().tolist() == list(range(100 - 64, 129 - 64))


def test_masks_in_which_a_token_does_not_see_itself_and_added_masks_are_left_to_pytorch() -> None:
    padded = documents_mask([[8]]).clone()
    padded[0, 0, :2] = False  # padding on the left
    assert tiles(padded) is None
    assert tiles(torch.zeros(1, 1, 4, 4)) is None
    assert tiles(torch.ones(1, 1, 1, 4, dtype=torch.bool)) is None  # one token after a cache of three


def test_dropout_is_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(attention, "sdpa_attention_forward", lambda *parts, **more: asked.append(parts))
    mask = documents_mask([[8]])
    query, key, value = (part.float() for part in states(mask, 2, 2))
    attention._attend(torch.nn.Identity(), query, key, value, mask, dropout=0.1)
    attention._attend(torch.nn.Identity(), query, key, value, None)
    assert len(asked) == 2


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_packed_row_through_a_model_has_the_states_of_pytorchs_attention(family: str, tmp_path: Path) -> None:
    folder = save(family, tmp_path / family)
    model = load_base(folder, "cpu", "fp32")
    assert model.config._attn_implementation == attention.NAME
    plain = build(family)
    ids = torch.arange(3, 93).view(1, 90)
    positions = torch.cat([torch.arange(40), torch.arange(50)]).unsqueeze(0)
    with torch.no_grad():
        found, expected = final_hidden(model, ids, positions), final_hidden(plain, ids, positions)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_model_that_must_attend_otherwise_keeps_its_way() -> None:
    model = build("llama")
    model.set_attn_implementation("eager")
    assert not attend_in_tiles(model)
    assert model.config._attn_implementation == "eager"
