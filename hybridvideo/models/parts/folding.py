"""BatchNorm folded into the layer before it: in evaluation, without gradients, both are one affine map.

A norm reads and writes its whole input for two operations per number, so next to a depthwise or a 1x1 convolution it
costs as much as the layer itself. The folded weights are kept until a parameter or a statistic changes.

    norm(layer(x)) = scale * (weight x + bias - mean) + shift,    scale = gamma / sqrt(var + eps), shift = beta
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.depthwise import on_grid
from hybridvideo.models.parts.linear import autocast_dtype
from hybridvideo.models.parts.shortcuts import may_bypass

Affine = tuple[Tensor, Tensor]  # weight and bias


class Folded(nn.Module):
    """Apply a linear layer or a convolution of the grid, then a norm; together where nothing would notice.

    Has no state of its own: the two layers stay modules of their owner, which calls `folded(layer, norm, x)`.

    `grid`: the layer is a convolution of the grid, not linear; a layer put in its place may be of any class.
    """

    def __init__(self, grid: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.cached = Cached[Affine]()

    def forward(self, layer: nn.Linear | nn.Conv3d, norm: nn.Module, x_BTHWC: Tensor) -> Tensor:
        if not foldable(layer, norm):
            out: Tensor = norm(on_grid(layer, x_BTHWC) if self.grid else layer(x_BTHWC))
            return out
        assert isinstance(norm, _BatchNorm)
        kind = autocast_dtype(x_BTHWC) or x_BTHWC.dtype
        sources = tuple(source for source in sources_of(layer, norm) if source is not None)
        weight, bias = self.cached.get(sources, lambda: folded(layer, norm, kind), kind, norm.eps)
        if not self.grid:
            return F.linear(x_BTHWC, weight, bias)
        assert isinstance(layer, nn.Conv3d)
        return on_grid(lambda x_BCTHW: layer._conv_forward(x_BCTHW, weight, bias), x_BTHWC)


def foldable(layer: nn.Linear | nn.Conv3d, norm: nn.Module) -> bool:
    """Return whether a layer and the norm after it may be computed as one."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or not isinstance(norm, _BatchNorm):
        return False
    return not norm.training and norm.running_mean is not None and may_bypass(layer, norm)


def sources_of(layer: nn.Linear | nn.Conv3d, norm: _BatchNorm) -> tuple[Tensor | None, ...]:
    """Everything that the folded weights depend on."""
    return layer.weight, layer.bias, norm.weight, norm.bias, norm.running_mean, norm.running_var


def folded(layer: nn.Linear | nn.Conv2d | nn.Conv3d, norm: _BatchNorm, dtype: torch.dtype) -> Affine:
    """Return weight and bias of the two as one layer, computed in the precision of the parameters."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = (norm.running_var + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight
    shift = norm.running_mean if layer.bias is None else norm.running_mean - layer.bias
    bias = -shift * scale if norm.bias is None else norm.bias - shift * scale
    weight = layer.weight * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    return weight.detach().to(dtype), bias.detach().to(dtype)
