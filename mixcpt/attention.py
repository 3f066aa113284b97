"""Attention of packed rows on a processor, tile by tile: what the mask closes is not computed.

A row holds several documents that do not see each other, so of its square of scores only a part is open: blocks along
the diagonal, and of each the lower half. PyTorch's kernel for processors computes the square as soon as it is given a
mask. Here the queries are taken in tiles, each with the stretch of keys that some query of it sees:

    S = scale Q K^T + M,   P = softmax(S),   O = P V          M is 0 where the mask is open and -inf elsewhere
    dV = P^T dO,   dP = dO V^T,   dS = P (dP - rowsum(P dP)),   dQ = scale dS K,   dK = scale dS^T Q

S and dP are fp32, the products with P and dS in the type of the model, as in the kernels of PyTorch; S is made again in
the backward pass, so no more is kept than there. Heads that share keys are one product, without copies of the keys.

Nothing is assumed of the mask but that every token sees itself. Without a mask, with dropout or a growing cache, on a
GPU and within compiled layers everything is as it was. What it gives up: where most of the square is open, it is slower
than one call.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_in_tiles"
QUERIES = 64
"""Of a tile. Fewer leave more of the square closed, more make larger products."""
_KEYS = 64
"""A stretch of keys begins and ends at a multiple of this, so that products come in few shapes."""
_KEPT = "mixcpt_tiles"
"""The attribute of a mask under which its tiles are kept, for all layers read the same mask."""


@dataclass(frozen=True)
class Tile:
    """Queries `first` to `last` of a row see no key but `begin` to `end`; `mask` [queries, keys] is what is added."""

    row: int
    first: int
    last: int
    begin: int
    end: int
    mask: Tensor


def attend_in_tiles(model: PreTrainedModel) -> bool:
    """Let a model on a processor that uses PyTorch's attention attend tile by tile; returns whether it does."""
    if model.device.type != "cpu" or model.config._attn_implementation != "sdpa":
        return False
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
    return True


def tiles(mask: Tensor) -> list[Tile] | None:
    """The tiles of a mask, bool [rows, 1, tokens, tokens], true where a token (third axis) sees another; None for a
    mask of another kind, and where some token does not see itself."""
    rows, heads, tokens, keys = mask.shape
    if mask.dtype != torch.bool or heads != 1 or tokens != keys or not mask.diagonal(dim1=2, dim2=3).all():
        return None
    found = []
    for row in range(rows):
        for first in range(0, tokens, QUERIES):
            part = mask[row, 0, first : first + QUERIES]
            seen = part.any(0).nonzero()
            begin = int(seen[0]) // _KEYS * _KEYS
            end = min(tokens, (int(seen[-1]) // _KEYS + 1) * _KEYS)
            added = torch.zeros(len(part), end - begin).masked_fill_(~part[:, begin:end], -torch.inf)
            found.append(Tile(row, first, first + len(part), begin, end, added))
    return found


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """[rows, heads, tokens, width] in, [rows, tokens, heads, width] out, as `sdpa_attention_forward`."""
    plain = dropout == 0.0 and more.get("position_bias") is None and more.get("softcap") is None
    found = _tiles_of(attention_mask, query) if plain else None
    if found is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _InTiles.apply(query, key, value, found, scale), None  # type: ignore[no-untyped-call]


def _tiles_of(mask: Tensor | None, query: Tensor) -> list[Tile] | None:
    if mask is None or torch.compiler.is_compiling() or mask.dim() != 4 or len(mask) != len(query):
        return None
    if not hasattr(mask, _KEPT):
        setattr(mask, _KEPT, tiles(mask))
    found: list[Tile] | None = getattr(mask, _KEPT)
    return found


class _InTiles(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tiles: list[Tile], scale: float) -> Tensor:
        ctx.save_for_backward(query, key, value)
        ctx.tiles, ctx.scale = tiles, scale
        rows, heads, tokens, _ = query.shape
        out = query.new_empty(rows, tokens, heads, value.shape[-1])
        groups = _grouped(query.to(torch.float32, copy=True).mul_(scale), key)
        keys = key.float()
        for tile in tiles:
            weights = _weights(groups, keys, tile).to(value.dtype)
            found = torch.bmm(weights, value[tile.row, :, tile.begin : tile.end])
            target = _of(_grouped(out.transpose(1, 2), key), tile)
            target.copy_(found.view(target.shape))
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        scale, kind = ctx.scale, query.dtype
        scaled = _grouped(query.to(torch.float32, copy=True).mul_(scale), key)
        plain, above = _grouped(query, key), _grouped(gradients[0].to(kind).transpose(1, 2), key)
        keys, values = key.float(), value.float()
        to_query = torch.empty_like(query)
        to_key, to_value = torch.zeros_like(keys), torch.zeros_like(values)
        for tile in ctx.tiles:
            seen = slice(tile.begin, tile.end)
            weights = _weights(scaled, keys, tile)
            error = _rows(above, tile)
            to_value[tile.row, :, seen] += torch.bmm(weights.to(kind).transpose(1, 2), error)
            to_weights = torch.bmm(error.float(), values[tile.row, :, seen].transpose(1, 2))
            to_scores = torch._softmax_backward_data(to_weights, weights, -1, torch.float32).mul_(scale).to(kind)
            to_key[tile.row, :, seen] += torch.bmm(to_scores.transpose(1, 2), _rows(plain, tile))
            found = torch.bmm(to_scores, key[tile.row, :, seen])
            target = _of(_grouped(to_query, key), tile)
            target.copy_(found.view(target.shape))
        return to_query, to_key.to(kind), to_value.to(kind), None, None


def _grouped(states: Tensor, key: Tensor) -> Tensor:
    """[rows, heads, tokens, width] by the heads that share a key head: [rows, key heads, sharing, tokens, width]."""
    rows, _, tokens, width = states.shape
    return states.view(rows, key.shape[1], -1, tokens, width)


def _of(grouped: Tensor, tile: Tile) -> Tensor:
    """Of the queries of a tile: [key heads, sharing, queries, width]."""
    return grouped[tile.row, :, :, tile.first : tile.last]


def _rows(grouped: Tensor, tile: Tile) -> Tensor:
    """The same with the heads that share a key head below each other: [key heads, sharing * queries, width]."""
    return _of(grouped, tile).flatten(1, 2)


def _weights(scaled: Tensor, keys: Tensor, tile: Tile) -> Tensor:
    """P of a tile, fp32 [key heads, sharing * queries, keys]."""
    scores = torch.bmm(_rows(scaled, tile), keys[tile.row, :, tile.begin : tile.end].transpose(1, 2))
    scores.view(len(scores), -1, *tile.mask.shape).add_(tile.mask)
    return torch.softmax(scores, -1)
