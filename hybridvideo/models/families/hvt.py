"""Hybrid vision transformers in their plainest form: stacked convolutions, a 1x1 transition, pre-norm attention.

No pooling between the stages. For video each block attends through time, then within each frame (Bertasius et al.
2021, *Is Space-Time Attention All You Need for Video Understanding?*), and positions are learned for both.
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def attention(depth: int, heads: int) -> StageConfig:
    """A stage of pre-norm divided attention with a GELU MLP of ratio 4, without change of the grid."""
    return StageConfig("divided", depth, heads)


# A baseline for every other joint: nothing but convolutions, then a Transformer.
hvt_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128, 128), repeat=2, norm="batch", activation="relu"),
    dim=192,
    position="absolute",
    stages=(attention(2, 6), attention(2, 6)),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# The same for Kinetics-400; its convolutions are those of an image network.
hvt_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet26d", stride=16),
    dim=384,
    position="absolute",
    stages=(attention(3, 6), attention(3, 6)),
    drop_path=0.1,
    head=HeadConfig(dropout=0.3),
)

HVTS: dict[str, HybridVariant] = {
    "hvt_tiny": HybridVariant(hvt_tiny),
    "hvt_base": HybridVariant(hvt_base),
}
