"""Embeddings and head trained as whole matrices: copies that belong to the adapter, beside the frozen originals.

PEFT keeps the copies (`modules_to_save`), saves them with the adapter and switches them off with it, so the teacher is
the original in every part. Where the model ties the two, they are one copy, and stay so.

While they are trained the copies are fp32, for steps as small as theirs vanish in 16 bits; what they compute is in the
type of the base, so a fresh adapter changes nothing. Everywhere else (later stages, evaluation, merging) they are in
the type of the base and frozen. What this gives up: tied models that call their embedding anything but embed_tokens,
for PEFT unties those, and a strength between 0 and 1, for a matrix that was replaced has none.
"""

from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.utils.other import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from mixcpt.errors import Unavailable

_TIED_NAME = "embed_tokens"
"""The name of an embedding that PEFT keeps tied."""


def lora_settings(base: PreTrainedModel) -> dict[str, Any]:
    """What LoraConfig is told beside, so that embedding and head of `base` are copied.

    Raises:
        Unavailable: they are tied in a way that PEFT would undo, or are of a kind that is not known here.
    """
    embedding, head = _ends(base)
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise _unknown(base)
    first, last = (_name(base, module) for module in (embedding, head))
    if embedding.weight is not head.weight:
        return {"modules_to_save": [first, last]}
    if first.rsplit(".", 1)[-1] != _TIED_NAME or head.bias is not None:
        raise _unknown(base)
    return {"modules_to_save": [first], "ensure_weight_tying": True}


def _ends(base: PreTrainedModel) -> tuple[nn.Module, nn.Module]:
    return base.get_input_embeddings(), base.get_output_embeddings()  # type: ignore[no-untyped-call]


def _unknown(base: PreTrainedModel) -> Unavailable:
    return Unavailable(
        f"{base.config.model_type} models hold embeddings and head in a way in which they cannot be trained here: set "
        "adapter.vocabulary to false, or choose a model such as Llama, Qwen or Gemma."
    )


def _name(base: PreTrainedModel, wanted: nn.Module) -> str:
    """The last part of its name, which other tools understand, where only one module ends so, else the whole."""
    names = dict(base.named_modules())
    whole: str = next(name for name, module in names.items() if module is wanted)
    last = whole.rsplit(".", 1)[-1]
    return last if sum(name.endswith(last) for name in names) == 1 else whole


def wrappers(model: nn.Module) -> list[ModulesToSaveWrapper]:
    """PEFT's pairs of an original and its copies in `model`; none where embeddings and head are as they were."""
    return [module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)]


def copies(model: nn.Module) -> list[nn.Parameter]:
    """The weights of the copies, each once: tied they are one."""
    found = [parameter for wrapper in wrappers(model) for parameter in wrapper.modules_to_save.parameters()]
    return list({id(parameter): parameter for parameter in found}.values())


def _tell_tie(base: PreTrainedModel) -> None:
    """Where the original of a tied embedding lies now: PEFT looks for it when one more adapter is loaded, does not look
    inside its own wrappers, and would leave the head of that adapter untied."""
    embedding = _ends(base)[0]
    if isinstance(embedding, ModulesToSaveWrapper) and isinstance(base._tied_weights_keys, dict):
        inside = next(name for name, module in base.named_modules() if module is embedding)
        moved = {f"{inside}.weight": f"{inside}.original_module.weight"}
        base._tied_weights_keys = {head: moved.get(at, at) for head, at in base._tied_weights_keys.items()}


@torch.no_grad()
def make_trainable(model: nn.Module, base: PreTrainedModel) -> None:
    """Put fresh copies into fp32, computing in the type of their originals, and prove that they give the same.

    Raises:
        Unavailable: they do not, for the family does more with its embeddings than is known here.
    """
    for wrapper in wrappers(model):
        original = cast(nn.Embedding | nn.Linear, wrapper.original_module)
        rows, width = original.weight.shape
        for copy in wrapper.modules_to_save.values():
            copy.float()
            if isinstance(original, nn.Embedding):
                copy.__class__ = _Embedding
                cast(_Embedding, copy).kind = original.weight.dtype
                probe = torch.linspace(0, rows - 1, 64, device=original.weight.device).long()
            else:
                copy.__class__ = _Head
                probe = torch.ones(1, width, dtype=original.weight.dtype, device=original.weight.device)
            if not torch.equal(copy(probe), original(probe)):
                raise _unknown(base)
    _tell_tie(base)


class _Embedding(nn.Embedding):
    """Rows of an fp32 matrix in the type of the base (`kind`), scaled where the family does so."""

    kind: torch.dtype

    def forward(self, ids: Tensor) -> Tensor:
        rows = F.embedding(ids, self.weight, self.padding_idx).to(self.kind)
        scale = getattr(self, "embed_scale", None)
        if isinstance(scale, Tensor):
            scale = scale.to(self.kind)
        return rows if scale is None else rows * scale


class _Head(nn.Linear):
    """The product with an fp32 matrix in the type of what comes in."""

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(hidden.dtype)
        return F.linear(hidden, self.weight.to(hidden.dtype), bias)


def hold(model: nn.Module, base: PreTrainedModel) -> None:
    """Freeze the copies for good: PEFT makes them trainable whenever an adapter is switched."""
    for wrapper in wrappers(model):
        wrapper.__class__ = _Held
        wrapper.requires_grad_(False)
    _tell_tie(base)


class _Held(ModulesToSaveWrapper):
    def update(self, *arguments: Any, **more: Any) -> None:
        super().update(*arguments, **more)  # type: ignore[no-untyped-call]
        self.requires_grad_(False)

    def enable_adapters(self, enabled: bool) -> None:
        super().enable_adapters(enabled)
        self.requires_grad_(False)

    def set_adapter(self, *arguments: Any, **more: Any) -> None:
        super().set_adapter(*arguments, **more)
        self.requires_grad_(False)

    def set_requires_grad(self, *arguments: Any, **more: Any) -> None:
        """Nothing: they stay frozen."""


def put_in_place(model: nn.Module, base: PreTrainedModel) -> None:
    """Give the originals the weights of the copies, tied as they were, so that unloading leaves a model as it was built
    with the copies' weights."""
    for wrapper in wrappers(model):
        original = cast(nn.Linear, wrapper.original_module)
        ((name, copy),) = wrapper.modules_to_save.items()
        original.weight = cast(nn.Parameter, copy.weight)
        if isinstance(bias := getattr(copy, "bias", None), nn.Parameter):
            original.bias = bias
        wrapper.modules_to_save[name] = original
    vars(base).pop("_tied_weights_keys", None)  # what its class says holds again
