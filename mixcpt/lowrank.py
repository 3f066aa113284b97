"""LoRA layers in fewer passes: what PEFT computes, with its own parameters, in half the products' side work.

PEFT's layer casts its input to the adapter's fp32 (under autocast back again), keeps that copy for the backward pass,
and scales and adds in passes of their own. Here the adapter is rounded to the layer's type once, the scaled low-rank
product is added within its last matrix product, and the backward pass is written out by hand:

    y = W x + s B (A x)        dA = s (B^T dy) x^T        dB = s dy (A x)^T        dx = W^T dy + s A^T (B^T dy)

with A [rank, in], B [out, rank], s the scale; W x stays the base layer's own, in whatever numbers (NF4, 16 bits, fp32).

The modules keep their parameters, names and PEFT's methods; only `forward` is another, and PEFT's own takes over where
a layer is anything but one plain adapter: several at once, dropout at work, DoRA, merged, switched off.
"""

from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from peft.tuners.lora.bnb import Linear4bit
from torch import Tensor, nn


def streamline(model: PeftModel) -> int:
    """Give the LoRA layers of `model` the forward pass of this module; returns how many have it."""
    count = 0
    for module in model.modules():
        if new := _STREAMLINED.get(type(module)):
            module.__class__ = new
        count += isinstance(module, _Streamlined)
    return count


class _Streamlined(nn.Module):
    def forward(self, x: Tensor, *arguments: Any, **more: Any) -> Tensor:
        layer = cast(LoraLayer, self)
        name = _only_adapter(layer)
        if arguments or more or name is None:
            return cast(Tensor, super().forward(x, *arguments, **more))
        result: Tensor = layer.base_layer(x)
        weights = layer.lora_A[name].weight, layer.lora_B[name].weight
        return cast(Tensor, _LowRank.apply(result, x, *weights, layer.scaling[name]))  # type: ignore[no-untyped-call]


class _StreamlinedLinear(_Streamlined, Linear):
    pass


class _Streamlined4bit(_Streamlined, Linear4bit):
    pass


_STREAMLINED: dict[type, type] = {Linear: _StreamlinedLinear, Linear4bit: _Streamlined4bit}


def _only_adapter(layer: LoraLayer) -> str | None:
    """The one plain adapter that is at work, or None when PEFT's own way is needed."""
    if layer.disable_adapters or layer.merged:
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1 or names[0] in layer.lora_variant or layer.lora_bias[names[0]]:
        return None
    dropout = layer.lora_dropout[names[0]]
    return None if dropout.training and not isinstance(dropout, nn.Identity) else names[0]


class _LowRank(torch.autograd.Function):
    """result [..., out] + scale * (x [..., in] A^T) B^T, in the type of `result`."""

    @staticmethod
    def forward(ctx: Any, result: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1]).to(result.dtype)
        a, b = a.to(result.dtype), b.to(result.dtype)
        inner = rows @ a.T
        ctx.save_for_backward(rows, inner, a, b)
        ctx.scale, ctx.x = scale, (x.shape, x.dtype)
        return torch.addmm(result.reshape(-1, len(b)), inner, b.T, alpha=scale).view(result.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        rows, inner, a, b = ctx.saved_tensors
        shape, kind = ctx.x
        _, wants_x, wants_a, wants_b, _ = ctx.needs_input_grad
        above = gradients[0].reshape(-1, len(b)).to(b.dtype)
        below = (above @ b).mul_(ctx.scale)
        return (
            gradients[0],
            (below @ a).view(shape).to(kind) if wants_x else None,
            (below.T @ rows).float() if wants_a else None,
            (above.T @ inner).float().mul_(ctx.scale) if wants_b else None,
            None,
        )
