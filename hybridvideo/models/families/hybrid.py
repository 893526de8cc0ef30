"""This project's own hybrids: convolution per frame, then windows and divided attention.

A family is one file of data like this: helpers for its stages, a `HybridConfig` for each size, and the dict of its
names, which `families.FAMILIES` collects.
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def window(depth: int, heads: int, size: tuple[int, int, int], merge: bool = False) -> StageConfig:
    """A stage of 3-D shifted windows with convolutional positions."""
    return StageConfig("window3d", depth, heads, size, position="conv", merge=merge)


def divided(depth: int, heads: int, merge: bool = False) -> StageConfig:
    """A stage of divided space-time attention with convolutional positions."""
    return StageConfig("divided", depth, heads, position="conv", merge=merge)


# Trains in a minute on two cores: the demo's. Convolution first, which sees motion from the start of training.
hybrid_micro = HybridConfig(
    frames=8,
    height=32,
    width=32,
    input=InputConfig("both", gain=2.0, limit=3.0),
    stem=StemConfig(widths=(24, 32)),
    stages=(
        StageConfig("conv3d", 2, mlp_ratio=2.0, position="conv"),
        StageConfig("window3d", 1, 4, (4, 4, 4), mlp_ratio=2.0, position="conv", merge=True),
        StageConfig("divided", 1, 4, mlp_ratio=2.0, position="conv"),
    ),
    head=HeadConfig(("mean", "max", "std"), norm="batch"),
)

# For a few thousand clips, on one GPU.
hybrid_tiny = HybridConfig(
    frames=16,
    height=112,
    width=112,
    stem=StemConfig(widths=(32, 64, 128)),
    position="absolute",
    stages=(window(2, 4, (8, 7, 7)), divided(2, 8, merge=True)),
    drop_path=0.1,
)

hybrid_small = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet18", stride=16),
    dim=256,
    position="absolute",
    stages=(window(4, 8, (8, 7, 7)), divided(4, 16, merge=True)),
    drop_path=0.1,
    head=HeadConfig(dropout=0.1),
)

# Meant for Kinetics-400.
hybrid_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=16),
    dim=384,
    position="absolute",
    stages=(window(6, 12, (8, 7, 7)), divided(6, 24, merge=True)),
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
