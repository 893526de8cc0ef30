"""All that the checks use of the package beyond its public names, in one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn

DepthwiseWay = Callable[[nn.Conv3d, Tensor], Tensor]  # conv, (B, T, H, W, C) -> the same shape


def pretraining_names() -> list[str]:
    """Models that `create_pretraining` knows."""
    from hybridvideo.models.published.videomae_pretraining import PRETRAINING

    return list(PRETRAINING)


def packages_of(name: str) -> tuple[str, ...]:
    """What a model needs that is not always installed."""
    from hybridvideo.models.baselines.pytorchvideo import PYTORCHVIDEO

    return ("pytorchvideo",) if name in PYTORCHVIDEO else ()


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
    from hybridvideo.models.parts.depthwise import DepthwiseConv3d

    return DepthwiseConv3d(dim, (side, side, side))


def depthwise_ways() -> dict[str, DepthwiseWay]:
    """All ways to compute it, by the package's names."""
    from hybridvideo.models.parts.depthwise import WAYS

    return {name: partial(on_grid, way) for name, way in WAYS.items()}


def depthwise_choice(x_BTHWC: Tensor) -> str:
    """Name of the way that the package takes for such a grid."""
    from hybridvideo.models.parts.depthwise import fastest

    return fastest(x_BTHWC)


def on_grid(way: DepthwiseWay, conv: nn.Conv3d, x_BTHWC: Tensor) -> Tensor:
    """A way that takes (B, C, T, H, W), on a grid."""
    return way(conv, x_BTHWC.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
