"""The head of a model as a formula: from final hidden states to logits, and back for their gradient.

It knows no model: `mixcpt.heads` reads a model's own head into it and proves that nothing was missed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """What turns final hidden states into logits: `scale * (h W^T + bias)`, then soft-capped where the model does so.

    weight: [vocabulary, width]. bias: [vocabulary] or None. softcap: cap * tanh(logits / cap). scale: Granite, Cohere.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    scale: float = 1.0

    @property
    def is_trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [n, vocabulary] in fp32 of hidden states [n, width]; the product itself runs in the weight's type."""
        return self.shaped(self.product(hidden))

    def product(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """h W^T in the weight's type."""
        return torch.matmul(hidden.to(self.weight.dtype), self.weight.T, out=out)

    def shaped(self, product: Tensor) -> Tensor:
        """Logits in fp32 of the product h W^T."""
        logits = product.float()
        if self.bias is not None:
            logits = logits + self.bias.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def unshaped(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """The gradient with respect to h W^T + bias, given that with respect to the logits."""
        if self.softcap is not None:
            gradient = gradient * (1 - (logits / self.softcap) ** 2)
        if self.scale != 1.0:
            gradient = gradient * self.scale
        return gradient
