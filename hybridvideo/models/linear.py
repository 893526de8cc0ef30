"""A linear layer that is not cast to lower precision again for every batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` that, without gradients, keeps its weights in autocast's precision until they change.

    Autocast casts them anew for each pass: a tenth of a ViT-B's time for one clip in bf16. Costs half their memory.
    """

    _lowered: tuple[Tensor, Tensor] | None = None
    _key: object = None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.parameters_for(x))

    def parameters_for(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias as the product with `x` takes them."""
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.is_meta or weight.is_inference():
            return weight, bias
        if not torch.is_autocast_enabled(x.device.type) or weight.dtype != torch.float32:
            return weight, bias
        # An in-place change (optimizer, load_state_dict) raises a tensor's version; a move changes its address.
        kind = torch.get_autocast_dtype(x.device.type)
        key = (kind, *((source.data_ptr(), source._version) for source in (weight, bias)))
        if self._lowered is None or key != self._key:
            with torch.inference_mode(False):  # ordinary tensors serve every later caller
                self._lowered, self._key = (weight.detach().to(kind), bias.detach().to(kind)), key
        return self._lowered

    def train(self, mode: bool = True) -> Linear:
        """The usual; what was kept goes, so that training does not pay for its memory."""
        self._lowered = None
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_lowered": None, "_key": None}  # a cache is not state: copies start without it


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
        nn.init.zeros_(layer.bias)
