"""MobileViT for video: inverted residuals, and Transformers that attend between the patches of all frames.

Mehta and Rastegari 2021, *MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer*.
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def inverted(dim: int, depth: int = 1, stride: int = 2) -> StageConfig:
    """Inverted residuals, with a convolution in time after each."""
    return StageConfig("inverted", depth, dim=dim, stride=stride, mlp_ratio=4.0, activation="silu", temporal="conv")


def patches(inner_dim: int, inner_depth: int) -> StageConfig:
    """Local convolution, a Transformer through time and over the patches of each frame, convolution."""
    return StageConfig(
        "mobilevit",
        1,
        4,
        inner_dim=inner_dim,
        inner_depth=inner_depth,
        mlp_ratio=2.0,
        activation="silu",
        attention="divided",
    )


def pointwise(dim: int) -> StageConfig:
    """The last convolution."""
    return StageConfig("pointwise", 1, dim=dim, activation="silu")


# The least memory and parameters: devices at the edge.
mobilevit_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(16, 48), norm="batch", activation="silu"),
    stages=(inverted(64), patches(96, 2), inverted(96), patches(144, 3), pointwise(384)),
    drop_path=0.1,
    norm="none",
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# Kinetics-400 on a phone. The image network of the same structure, `timm:mobilevit_s`, starts it.
mobilevit_base = HybridConfig(
    frames=16,
    height=256,
    width=256,
    stem=StemConfig("timm/mobilevit_s", stride=4),
    stages=(
        inverted(96),
        patches(144, 2),
        inverted(128),
        patches(192, 4),
        inverted(160),
        patches(240, 3),
        pointwise(640),
    ),
    norm="none",
    head=HeadConfig(norm="none", dropout=0.1),
)

MOBILEVITS: dict[str, HybridVariant] = {
    "mobilevit_tiny": HybridVariant(mobilevit_tiny),
    "mobilevit_base": HybridVariant(mobilevit_base),
}
