"""Decoder layers that are compiled (torch.compile): small operations are joined, for half a minute at the start.

A layer is compiled and not the whole model, for all layers share the code that is made; once for the student, the
teacher and the measures each, and again when rows become of another length. It gives up that a resumed run repeats an
uninterrupted one to the last bit: compiled kernels round differently for the lengths they were made for.
"""

import torch
from torch import nn

from mixcpt.errors import Unavailable
from mixcpt.teacher import base_of, body

_VARIANTS = 64
"""Of one layer's code: modes times shapes. PyTorch's own limit of 8 would go on uncompiled, silently."""


def compile_layers(model: nn.Module) -> int:
    """Have the decoder layers of `model` compiled at their first use; returns how many there are.

    Raises:
        Unavailable: this machine cannot compile, or the model keeps its layers where they are not found.
    """
    _require_compiler(next(model.parameters()).device)
    layers = _layers(model)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _VARIANTS)
    for layer in layers:
        layer.compile()
    return len(layers)


def _layers(model: nn.Module) -> nn.ModuleList:
    count = base_of(model).config.get_text_config().num_hidden_layers
    for module in body(model).children():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise Unavailable(
        f"The layers of {type(base_of(model)).__name__} are not where they usually are, so they cannot be compiled: "
        "set training.compile_layers to false."
    )


def _require_compiler(device: torch.device) -> None:
    """Compile a little something, which shows whether all is there that compiling needs."""
    try:
        torch.compile(lambda x: torch.sin(x) * 2 + 1)(torch.ones(64, device=device))
    except Exception as error:  # every missing part of the tool chain raises another one
        reason = " ".join(str(error).split())[:120]
        raise Unavailable(
            f"compile_layers is on, but this machine cannot compile ({type(error).__name__}: {reason}): install a C++ "
            "compiler (Debian: g++), or set training.compile_layers to false."
        ) from error
