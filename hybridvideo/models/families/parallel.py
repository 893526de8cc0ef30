"""Convolution and attention next to each other in every block, joined by a learned gate.

In the manner of ACmix (Pan et al. 2022) and Inception Transformer (Si et al. 2022), with gates that see the clip.
"""

from __future__ import annotations

from hybridvideo.config.model import GateConfig, HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def parallel(depth: int, heads: int, attention: str, merge: bool = False) -> StageConfig:
    """A stage of 3x3x3 convolution next to attention; what they add starts at a tenth of its size."""
    return StageConfig(
        "parallel",
        depth,
        heads,
        attention=attention,
        convolution="conv3d",
        gate=GateConfig("both", channels="each"),
        position="conv",
        layer_scale=0.1,
        merge=merge,
    )


# To train from scratch on a few thousand clips, if both near and far matter and it should show which: its gates tell.
parallel_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(24, 48, 96), norm="batch", activation="relu"),
    stages=(parallel(2, 4, "divided"), parallel(2, 8, "divided", merge=True)),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For Kinetics-400, from an ImageNet ResNet-50.
parallel_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=16),
    dim=320,
    stages=(parallel(2, 10, "divided"), parallel(3, 20, "divided", merge=True)),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

PARALLELS: dict[str, HybridVariant] = {
    "parallel_tiny": HybridVariant(parallel_tiny),
    "parallel_base": HybridVariant(parallel_base),
}
