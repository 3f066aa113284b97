"""Writing an answer token by token, greedily or by chance.

By chance means the Gumbel-max draw: the next token is argmax(log p - log e) with e exponential noise, one number for
each token of the vocabulary, which draws token i with probability p_i. The noise comes from the seed and the place
alone, so two models that are asked under one seed have the same luck: where they think alike they write alike, and
what differs comes from them. What this gives up: beams, penalties for repetition, and several answers at once.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mixcpt.errors import Diverged
from mixcpt.exchanges import Sampling


class Writer:
    """One answer being written.

    Keys and values of what was read are kept, so each token is read once, although our bases are loaded with
    `use_cache=False` (packed rows need that): the cache is given with every call.

    Args:
        config: of the model. prompt: [tokens], ids that ask for the answer. ends: tokens that end it. vocabulary: how
            many tokens there are; rows of the head beyond them stand for nothing.
    """

    def __init__(self, config: Any, prompt: np.ndarray, sampling: Sampling, ends: frozenset[int], vocabulary: int):
        self.ids: list[int] = []
        self.ended = ""
        """Why it is whole: end or length; empty while it is not."""
        self._unread = torch.from_numpy(prompt).long()
        self._sampling, self._ends, self._vocabulary = sampling, ends, vocabulary
        self._cache = DynamicCache(config=config)
        self._dice = torch.Generator().manual_seed(sampling.seed)

    @torch.no_grad()
    def write(self, model: nn.Module) -> int:
        """The next token, which is now part of the answer. `model` must be the same each time.

        Raises:
            Diverged: the model gives no numbers.
        """
        device = next(model.parameters()).device
        given = self._unread.to(device).unsqueeze(0)
        output = model(input_ids=given, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        token = choose(output.logits[0, -1, : self._vocabulary].float().cpu(), self._sampling, self._dice)
        self._unread = torch.tensor([token])
        self.ids.append(token)
        if token in self._ends:
            self.ended = "end"
        elif len(self.ids) >= self._sampling.max_new_tokens:
            self.ended = "length"
        return token


def choose(logits: Tensor, sampling: Sampling, dice: torch.Generator) -> int:
    """The next token, given the logits [vocabulary] (fp32, on the CPU).

    Raises:
        Diverged: one of them is no number.
    """
    if torch.isnan(logits).any() or logits.max() == torch.inf:
        raise Diverged("The model gives no number for its next token: its weights are damaged.")
    if sampling.temperature == 0:
        return int(logits.argmax())
    log_p = (logits.double() / sampling.temperature).log_softmax(0)
    if sampling.top_p < 1:
        log_p = log_p.masked_fill(~nucleus(log_p.exp(), sampling.top_p), -torch.inf)
    noise = torch.empty_like(log_p).exponential_(generator=dice).clamp_min_(1e-300)
    return int((log_p - noise.log()).argmax())


def nucleus(p: Tensor, top_p: float) -> Tensor:
    """True where a token belongs to the fewest likeliest that together reach `top_p` (Holtzman et al., arXiv
    1904.09751); at least the likeliest does.

    Args:
        p: [vocabulary], probabilities.
    """
    ordered, places = p.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    kept = torch.empty_like(places, dtype=torch.bool)
    kept[places] = before < top_p
    return kept
