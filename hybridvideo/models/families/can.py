"""Convolutional attention networks: residual convolutions, weighed by attention to channels or to positions.

Attention to channels as in Hu et al. 2018 (squeeze and excitation), pooled over the clip; to positions as far as the
other positions of their frame attend to them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant

Weigh = Literal["channel", "spatial"]


def tiny(weigh: Weigh) -> HybridConfig:
    """Kernels of 3x3x3 see motion from the start."""
    first = StageConfig("can", 2, 4, weigh=weigh, kernel=(3, 3, 3))
    return HybridConfig(
        frames=8,
        height=112,
        width=112,
        input=InputConfig("correlation"),
        stem=StemConfig(widths=(24, 48, 96), norm="batch", activation="relu"),
        stages=(first, StageConfig("can", 2, 8, weigh=weigh, kernel=(3, 3, 3), merge=True)),
        drop_path=0.1,
        head=HeadConfig(("mean", "max"), norm="batch"),
    )


def base(weigh: Weigh) -> HybridConfig:
    """Kernels of 3x3 within frames, and attention between frames, which knows their distance, after each block."""
    first = StageConfig("can", 2, 12, weigh=weigh, temporal="attention", relative="table")
    return HybridConfig(
        frames=16,
        height=224,
        width=224,
        stem=StemConfig("timm/resnet50", stride=16),
        dim=384,
        stages=(first, replace(first, heads=24, merge=True)),
        drop_path=0.2,
        head=HeadConfig(dropout=0.3),
    )


# channel: to train from scratch where a convolutional network would do; hardly dearer than one.
# spatial: if the subject is small: positions that others attend to count more.
# base: for Kinetics-400, from an ImageNet ResNet-50.
CANS: dict[str, HybridVariant] = {
    "can_tiny": HybridVariant(tiny("channel")),
    "can_base": HybridVariant(base("channel")),
    "can_spatial_tiny": HybridVariant(tiny("spatial")),
    "can_spatial_base": HybridVariant(base("spatial")),
}
