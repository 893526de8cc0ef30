"""Norms and activations of blocks, by the names that settings use. All take a grid, channels last."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GridBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all axes but the last."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


NORMS: dict[str, Callable[[int], nn.Module]] = {"layer": nn.LayerNorm, "batch": GridBatchNorm}

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "hard_swish": F.hardswish,
}


class LayerScale(nn.Module):
    """A learned factor per channel, which all start at one value (Touvron et al. 2021, CaiT)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.scale_C = nn.Parameter(torch.full((dim,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale_C
