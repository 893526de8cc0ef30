"""LeViT for video: attention with learned distances in a pyramid of small grids, and a convolution in time after each.

Graham et al. 2021, *LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference*.
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def levit(dim: int, depth: int, heads: int, key_dim: int, stride: int = 1) -> StageConfig:
    """A stage; where it shrinks the grid, the first of its blocks does."""
    return StageConfig(
        "levit",
        depth,
        heads,
        dim=dim,
        stride=stride,
        key_dim=key_dim,
        mlp_ratio=2.0,
        activation="hard_swish",
        temporal="conv",
    )


def stem(*widths: int) -> StemConfig:
    """Four convolutions that reduce each frame to 1/16, three to 1/8."""
    return StemConfig(widths=widths, norm="batch", activation="hard_swish")


# Small and quick, where there are enough clips for BatchNorm and learned distances to settle.
levit_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=stem(32, 64, 128),
    stages=(levit(128, 2, 4, 16), levit(256, 4, 6, 16, stride=2), levit(384, 4, 8, 16, stride=2)),
    drop_path=0.1,
    norm="none",
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# The least arithmetic of the families meant for Kinetics-400: many views, long videos, CPUs. The image network of the
# same structure, `timm:levit_384`, starts it.
levit_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=stem(48, 96, 192, 384),
    stages=(levit(384, 4, 6, 32), levit(512, 5, 9, 32, stride=2), levit(768, 5, 12, 32, stride=2)),
    drop_path=0.1,
    norm="none",
    head=HeadConfig(norm="batch"),
)

LEVITS: dict[str, HybridVariant] = {
    "levit_tiny": HybridVariant(levit_tiny),
    "levit_base": HybridVariant(levit_base),
}
