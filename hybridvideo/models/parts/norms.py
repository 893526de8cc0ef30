"""Norms and activations of blocks, by the names that settings use. All take a grid, channels last."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GridBatchNorm(nn.BatchNorm1d):
    """BatchNorm over all axes but the last."""

    bypassable = True  # see `shortcuts`; a subclass is not

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view(x.shape)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), with which OpenAI's CLIP approximates the GELU."""
    return x * torch.sigmoid(1.702 * x)


NORMS: dict[str, Callable[..., nn.Module]] = {"layer": nn.LayerNorm, "batch": GridBatchNorm}  # of channels, eps

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
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


def layer_scale(dim: int, start: float | None) -> nn.Module:
    """Build the learned factor of a residual branch, or none."""
    return nn.Identity() if start is None else LayerScale(dim, start)
