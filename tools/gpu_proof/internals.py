"""All that the checks use of the package beyond its public names, in one place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

DepthwiseWay = Callable[[nn.Conv3d, Tensor], Tensor]  # conv, (B, T, H, W, C) -> the same shape


def pretraining_names() -> list[str]:
    """Models that `create_pretraining` knows."""
    from hybridvideo.models.published.videomae_pretraining import PRETRAINING

    return list(PRETRAINING)


def temporal_attention(dim: int, heads: int) -> nn.Module:
    """The part in which every position looks through all frames: (B, T, H, W, C) -> the same shape."""
    from hybridvideo.models.parts.attention import TemporalAttention

    return TemporalAttention(dim, heads)


def normalised(clip_BCTHW: Tensor) -> Tensor:
    """uint8 clips with ImageNet's statistics, as training and views normalise them."""
    from hybridvideo.config.data import Normalisation
    from hybridvideo.data.device import normalise

    return normalise(clip_BCTHW, Normalisation())


def depthwise_conv(dim: int, side: int) -> nn.Conv3d:
    """The layer of the models."""
    from hybridvideo.models.parts.depthwise import depthwise_conv as make

    return make(dim, side)


def depthwise_ways() -> dict[str, DepthwiseWay]:
    """Ways to compute it: the package's choice for the device, torch's own, and frame against frame in 2-D."""
    from hybridvideo.models.parts import depthwise

    return {"chosen": depthwise.on_grid, "torch": by_torch, "frame by frame": frame_by_frame}


def by_torch(conv: nn.Conv3d, x_BTHWC: Tensor) -> Tensor:
    """torch's kernels, forward and backward."""
    out: Tensor = conv(x_BTHWC.permute(0, 4, 1, 2, 3))
    return out.permute(0, 2, 3, 4, 1)


def frame_by_frame(conv: nn.Conv3d, x_BTHWC: Tensor) -> Tensor:
    """torch's kernel forward; backward the package's own, of 2-D convolutions."""
    from hybridvideo.models.parts.depthwise import DepthwiseConv3d

    device = x_BTHWC.device.type
    x, weight, bias = x_BTHWC.permute(0, 4, 1, 2, 3), conv.weight, conv.bias
    if torch.is_autocast_enabled(device):
        kind = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    out: Tensor = DepthwiseConv3d.apply(x, weight, bias)
    return out.permute(0, 2, 3, 4, 1)
