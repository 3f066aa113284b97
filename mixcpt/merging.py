"""The adapter added into the weights of its base, so that what is left is an ordinary model in bf16.

    W' = bf16(fp32(W) + t s B A)      s = alpha / rank, or alpha / sqrt(rank) with rsLoRA (Hu et al., 2106.09685, eq. 3)

Embeddings and head that were trained as whole matrices take the place of the base's, tied where those are.

t is the strength: 1 for the run as it was trained, less for so much of what it learned, 0 for the base.

The sum is taken in fp32 and rounded once, so every number of W' is within half a step of bf16, 2^-8 of its size, of
the exact sum; weights without an adapter stay as they are. The base is taken as it is stored, never in 4 bits: adding
to NF4 would round everything again.

What the rounding costs, measured on 20 pieces of general text as KL from base and adapter in fp32: the merged model in
bf16 is 1.25e-3 nats per token away, base and adapter in bf16 are 1.19e-3 (SmolLM2 135M; Gemma 3 270M alike).

What it gives up: adapters that hold anything else, and merging piece by piece, so the whole
model has to fit into memory.
"""

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from mixcpt import models, vocabulary
from mixcpt.errors import BadFile
from mixcpt.modelfiles import beyond_lora, model_config, replaced
from mixcpt.modelfiles import stored_in_bf16 as stored_in_bf16

Progress = Callable[[float], None]


def merge(
    folder: Path, adapter: Path, progress: Progress = lambda fraction: None, strength: float = 1.0
) -> PreTrainedModel:
    """The model in `folder` with the adapter in `adapter` merged, in bf16 on the CPU, ready for `save_pretrained`.

    `strength` is the share of the adapter that is added. `progress` is told the share of layers that are done (0 to 1)
    and may raise to stop.

    Raises:
        BadFile: no model or adapter there, one that does not fit the other, an adapter that holds more than LoRA
            matrices, embeddings and head, a strength other
            than 1 of those, or a sum that is no number.
    """
    _require_known(adapter, strength)
    base = models.load_base(folder, "cpu", "bf16" if stored_in_bf16(folder) else "fp32")
    model = models.load_adapter(base, adapter, trainable=False)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    for number, (name, layer) in enumerate(layers):
        progress(number / len(layers))
        _add(name, layer, adapter, strength)
    vocabulary.put_in_place(model, base)
    merged = cast(PreTrainedModel, model.unload())
    for parameter in merged.parameters():  # the buffers of positions keep their fp32, as in a model that is loaded
        parameter.data = parameter.data.to(torch.bfloat16)
    merged.config.use_cache = bool(model_config(folder).get("use_cache", True))  # as it was before it was trained on
    # What is exported is written beside it by `mixcpt.exporting`; some models come with one that cannot be saved again.
    merged.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return merged


def _require_known(adapter: Path, strength: float) -> None:
    """What else an adapter may hold (other whole layers, magnitudes, biases) would be left out of the sum."""
    other = beyond_lora(adapter)
    if unknown := sorted(set(other) - set(replaced(adapter))):
        raise BadFile(
            f"The adapter in {adapter} holds more than LoRA matrices, for example {unknown[0]}, which cannot be merged "
            "exactly: export the adapter itself."
        )
    if other and strength != 1:
        raise BadFile(f"The adapter in {adapter} replaces {other[0]}, so it has no strength of {strength:g}: take 1.")


@torch.no_grad()
def _add(name: str, layer: LoraLinear, adapter: Path, strength: float) -> None:
    weight = cast(nn.Linear, layer.get_base_layer()).weight
    (own,) = layer.lora_A  # a run has one adapter
    total = weight.float() + strength * layer.get_delta_weight(own).float()
    if not torch.isfinite(total).all():
        raise BadFile(f"The adapter in {adapter} makes {name} NaN or infinite: it is damaged, train it again.")
    weight.data = total.to(torch.bfloat16)
