"""The head of a model: what turns its final hidden states into logits.

The losses of this package are computed chunk by chunk from hidden states, so they apply the head themselves. Families
shape their logits differently (a cap in Gemma, a scale in Granite and Cohere, a bias in Phi); `verify_head` proves on
the model at hand that nothing was missed.
"""

from typing import cast

import torch
from torch import Tensor, nn

from mixcpt.errors import Unavailable
from mixcpt.lssd import Head
from mixcpt.teacher import base_of, body


def output_head(model: nn.Module) -> Head:
    """The head of `model`, read from its modules and its configuration: with a trained one the copy while the adapter
    is on, within `teacher_mode` the original.

    Raises:
        Unavailable: the model has none.
    """
    base = base_of(model)
    layer = base.get_output_embeddings()  # type: ignore[no-untyped-call]
    if layer is None:
        raise Unavailable(f"{type(base).__name__} has no output embeddings: take a causal language model.")
    config = base.config.get_text_config()
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    softcap = getattr(config, "final_logit_softcapping", None)
    return Head(layer.weight, getattr(layer, "bias", None), float(softcap) if softcap else None, scale)


@torch.no_grad()
def verify_head(model: nn.Module, head: Head) -> None:
    """Prove on a few tokens that `head` gives the logits that `model` gives.

    Every second token is asked at 256 times the usual size of its hidden state, where a cap that was missed would show.

    Raises:
        Unavailable: they differ beyond rounding.
    """
    hidden, theirs = _probe(model, head.weight.device)
    fits = hidden.shape[-1] == head.weight.shape[1]
    ours = head.logits(hidden) if fits else hidden
    # A few units in the last place of the coarser type, relative to each logit and to the largest of its token.
    step = max(torch.finfo(hidden.dtype).eps, torch.finfo(head.weight.dtype).eps)
    size = theirs.abs().masked_fill(theirs == -torch.inf, 0.0)  # padding of the vocabulary
    allowed = 4 * step * size + (1e-5 + step / 8) * size.amax(dim=-1, keepdim=True)
    if ours.shape != theirs.shape or not bool(((ours == theirs) | ((ours - theirs).abs() <= allowed)).all()):
        raise Unavailable(
            f"{type(base_of(model)).__name__}: this model shapes its logits in a way that is not known here, so "
            "its losses would be wrong: take a model of another family."
        )


def _probe(model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor]:
    """Final hidden states [1, 8, d], every second one amplified, and the logits [1, 8, V] the model makes of them."""
    rows = cast(nn.Embedding, base_of(model).get_input_embeddings()).num_embeddings
    ids = torch.linspace(0, rows - 1, 8, device=device).long()[None]
    gain = torch.tensor([1.0, 256.0] * 4, device=device)[:, None]
    seen: list[Tensor] = []

    def amplify(_module: nn.Module, _inputs: object, output: tuple[Tensor, ...]) -> None:
        seen.append(output[0].mul_(gain).clone())  # in place, so that the model's own head reads it too

    handle = body(model).register_forward_hook(amplify)
    try:
        logits = model(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
    if len(seen) != 1:
        raise Unavailable(f"{type(base_of(model)).__name__} calls its decoder {len(seen)} times: take another model.")
    return seen[0], logits.float()
