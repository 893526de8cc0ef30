"""A linear layer that is not cast to lower precision again for every batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.cached import Cached


class Linear(nn.Linear):
    """`nn.Linear` that, without gradients, keeps its weights in autocast's precision until they change.

    Autocast casts them anew for each pass: a tenth of a ViT-B's time for one clip in bf16. Costs half their memory.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(dim, out)
        self.cached = Cached[tuple[Tensor, Tensor]]()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.parameters_for(x))

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias as the product with `x` takes them."""
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_meta or weight.dtype != torch.float32:
            return weight, bias
        if not torch.is_autocast_enabled(x.device.type):
            return weight, bias
        kind = torch.get_autocast_dtype(x.device.type)
        return self.cached.get((weight, bias), lambda: (weight.detach().to(kind), bias.detach().to(kind)), kind)


def lowered(x: Tensor) -> Tensor:
    """In the precision that linear layers take under autocast: once, before all that copies or reads it."""
    device = x.device.type
    if x.is_meta or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def init_linear(layer: nn.Module) -> None:
    """Truncated normal weights of 0.02 and zero bias, as in the first ViT; what is not linear stays as it is."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
