"""The frozen original as teacher: the same network with its adapter switched off, and how its states are taken.

States are taken by a hook while the *outer* model runs, because calling an inner module directly bypasses both mixed
precision and data-parallel training, silently.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixcpt.errors import Unavailable


def base_of(model: nn.Module) -> PreTrainedModel:
    """The transformers model inside, whether or not it carries an adapter."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(base, PreTrainedModel):
        raise TypeError(f"expected a transformers model, got {type(base).__name__}")
    return base


def body(model: nn.Module) -> nn.Module:
    """The decoder: the module whose output holds the final hidden states [batch, tokens, width], already normed."""
    base = base_of(model)
    decoder: nn.Module = base.get_decoder()  # type: ignore[no-untyped-call]
    return decoder if decoder is not base else getattr(base, "model", base)  # Llama 4 names itself


def final_hidden(model: nn.Module, ids: Tensor, positions: Tensor) -> Tensor:
    """States after the final norm, [batch, tokens, width].

    Args:
        ids, positions: [batch, tokens]; positions that restart isolate what is packed into one row. That isolation
            needs `use_cache=False` and no attention mask, else rows silently mix.
    """
    caught: list[Tensor] = []

    def catch(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output.last_hidden_state)

    nowhere = torch.empty(0, dtype=torch.long, device=ids.device)  # the model's own head is not asked: it would be
    handle = body(model).register_forward_hook(catch)  # copied once for each row
    try:
        model(input_ids=ids, position_ids=positions, use_cache=False, logits_to_keep=nowhere)
    finally:
        handle.remove()
    return caught[0]


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block `model` is in evaluation mode (no dropout); the mode of every module is restored after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextlib.contextmanager
def teacher_mode(model: nn.Module) -> Iterator[None]:
    """Within the block `model` is the frozen original: adapter off, no dropout, no gradient. All restored after."""
    frozen = [parameter for parameter in model.parameters() if not parameter.requires_grad]
    adapter_off = model.disable_adapter() if isinstance(model, PeftModel) else contextlib.nullcontext()
    try:
        with evaluating(model), torch.no_grad(), adapter_off:
            yield
    finally:
        for parameter in frozen:  # PEFT makes every adapter trainable when it is switched on again
            parameter.requires_grad = False


@torch.no_grad()
def check_isolation(model: nn.Module, vocabulary: int, row_tokens: int = 48) -> None:
    """Refuse a model in which a document's states depend on what is packed into its row before it.

    The second of two documents that fill a row must have the states that it has alone, and another first document must
    not change them: no more than rounding allows, which in 16 bits is much, for alone it goes through other products.

    Raises:
        Unavailable: they do (recurrent state, positions counted from the row's start, or an attention that ignores
            positions that restart).
    """
    device = next(model.parameters()).device
    half = row_tokens // 2
    ids = (torch.arange(row_tokens, device=device) * 7 + 3).remainder(vocabulary).unsqueeze(0)
    other = ids.clone()
    other[:, :half] = (other[:, :half] + 11).remainder(vocabulary)
    own = torch.arange(row_tokens - half, device=device).unsqueeze(0)
    positions = torch.cat([torch.arange(half, device=device).unsqueeze(0), own], 1)
    with teacher_mode(model):
        packed, beside_another = (final_hidden(model, row, positions)[0, half:] for row in (ids, other))
        alone = final_hidden(model, ids[:, half:], own)[0]
    exact = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    for found, allowed, words in (
        (beside_another, 1e-3 if exact else 0.02, "another neighbour changed a document's states by {:.1%}"),
        (alone, 1e-3 if exact else 0.1, "a document's states differed by {:.1%} from those it has alone"),
    ):
        difference = ((packed.float() - found.float()).norm() / packed.float().norm()).item()
        if not difference <= allowed:  # NaN too
            raise Unavailable(
                f"{base_of(model).config.model_type} models cannot keep packed documents apart "
                f"({words.format(difference)}): choose one with plain attention, such as Llama, Qwen or Gemma."
            )
