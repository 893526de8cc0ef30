"""Convolution within each frame, then attention through space and time, divided or in windows.

A CNN up to stride 8 or 16, a 1x1 projection to the model's width, then a Transformer on the grid. Any attention fits by
name: `joint` is exact and dear (376 GMACs on 8x28x28), `linear` and `sparse` are its cheaper forms, `auto` picks joint
or divided by cost.
"""

from __future__ import annotations

from dataclasses import replace

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def divided(depth: int, heads: int) -> StageConfig:
    """Attention through time, then within frames (Bertasius et al. 2021, TimeSformer), with relative position."""
    return StageConfig("divided", depth, heads, relative="table")


def window(depth: int, heads: int) -> StageConfig:
    """3-D windows, every second block shifted (Liu et al. 2022, Video Swin)."""
    return StageConfig("window3d", depth, heads, window=(8, 7, 7))


# Small data, from scratch, if the whole frame matters at once.
serial_divided_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128), norm="batch", activation="relu"),
    position="absolute",
    stages=(divided(4, 4),),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# Kinetics-400 from an image ResNet-50 (its first three stages, stride 16).
serial_divided_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=16),
    dim=384,
    position="absolute",
    stages=(divided(4, 6),),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

# Small data, from scratch, if motion is local; memory and time grow with the clip, not with its square.
serial_window_tiny = replace(serial_divided_tiny, stages=(window(4, 4),))

# Kinetics-400 from an image ResNet-50; the choice for longer clips and larger frames.
serial_window_base = replace(serial_divided_base, stages=(window(4, 12),))

SERIALS: dict[str, HybridVariant] = {
    "serial_divided_tiny": HybridVariant(serial_divided_tiny),
    "serial_divided_base": HybridVariant(serial_divided_base),
    "serial_window_tiny": HybridVariant(serial_window_tiny),
    "serial_window_base": HybridVariant(serial_window_base),
}
