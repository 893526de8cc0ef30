"""This project's own hybrids: convolution per frame beside the correlation of frames, then convolution in space and
time, windows, and divided attention.

A family is one file of data like this: helpers for its stages, a `HybridConfig` for each size, and the dict of its
names, which `families.FAMILIES` collects.
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def window(depth: int, heads: int, size: tuple[int, int, int], merge: bool = False) -> StageConfig:
    """A stage of 3-D shifted windows with convolutional positions."""
    return StageConfig("window3d", depth, heads, window=size, position="conv", merge=merge)


def divided(depth: int, heads: int, merge: bool = False, dim: int | None = None) -> StageConfig:
    """A stage of divided space-time attention with convolutional positions."""
    return StageConfig("divided", depth, heads, position="conv", merge=merge, dim=dim)


def local(depth: int) -> StageConfig:
    """A stage of depthwise 3-D convolutions, which sees motion from the start of training."""
    return StageConfig("conv3d", depth, position="conv")


# Trains in a minute on two cores: the demo's.
hybrid_micro = HybridConfig(
    frames=8,
    height=32,
    width=32,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(24, 32)),
    stages=(
        StageConfig("conv3d", 2, mlp_ratio=2.0, position="conv"),
        StageConfig("window3d", 1, 4, window=(4, 4, 4), mlp_ratio=2.0, position="conv", merge=True),
        StageConfig("divided", 1, 4, mlp_ratio=2.0, position="conv"),
    ),
    head=HeadConfig(("mean", "max", "std"), norm="batch"),
)

# For a few thousand clips, from scratch: 2.9 GMACs for 8 frames of 112.
hybrid_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128), norm="batch", activation="relu"),
    position="absolute",
    stages=(local(2), window(2, 4, (8, 7, 7)), divided(2, 8, merge=True)),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For some ten thousand clips, with the image weights of the stem, on one GPU.
hybrid_small = HybridConfig(
    frames=16,
    height=224,
    width=224,
    input=InputConfig("correlation_stream", scales=(1, 2, 4), stride=2),
    stem=StemConfig("timm/resnet18", stride=16),
    dim=256,
    position="absolute",
    stages=(local(1), window(2, 8, (8, 7, 7)), divided(2, 16, merge=True)),
    drop_path=0.1,
    head=HeadConfig(dropout=0.1),
)

# For Kinetics-400, with the image weights of the stem: 87 GMACs a view, of which the stem has 52.
hybrid_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    input=InputConfig("correlation_stream", scales=(1, 2, 4), stride=2),
    stem=StemConfig("timm/resnet50", stride=16),
    dim=320,
    position="absolute",
    stages=(local(1), window(3, 10, (8, 7, 7)), divided(4, 16, merge=True, dim=512)),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

HYBRIDS: dict[str, HybridVariant] = {
    "hybrid": HybridVariant(HybridConfig()),  # all parts given by the user
    "hybrid_micro": HybridVariant(hybrid_micro),
    "hybrid_tiny": HybridVariant(hybrid_tiny),
    "hybrid_small": HybridVariant(hybrid_small),
    "hybrid_base": HybridVariant(hybrid_base),
}
