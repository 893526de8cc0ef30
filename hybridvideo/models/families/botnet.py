"""BoTNet for video: a ResNet whose last bottlenecks attend, within a frame or in space and time.

Srinivas et al. 2021, *Bottleneck Transformers for Visual Recognition*, with a third table, of offsets in time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant

Path = Literal["none", "attention", "conv"]


def convolving(dim: int, depth: int, stride: int = 1, temporal: Path = "none") -> StageConfig:
    """Bottlenecks of a ResNet."""
    return StageConfig(
        "bottleneck", depth, dim=dim, stride=stride, attention="none", activation="relu", temporal=temporal
    )


def attending(dim: int, depth: int, stride: int = 1, temporal: Path = "conv") -> StageConfig:
    """Bottlenecks with attention within each frame."""
    return StageConfig("bottleneck", depth, dim=dim, stride=stride, activation="relu", temporal=temporal)


def joint(stage: StageConfig) -> StageConfig:
    """The same with attention among the positions of all frames, and no other path between them."""
    return replace(stage, attention="joint", temporal="none")


# A small ResNet that attends where frames are small.
botnet_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128), norm="batch", activation="relu"),
    stages=(convolving(256, 2, temporal="conv"), attending(512, 2, stride=2)),
    drop_path=0.1,
    norm="none",
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# Attention that sees where things go, without paths in time of another kind.
botnet_joint_tiny = replace(botnet_tiny, stages=(convolving(256, 2), joint(attending(512, 2, stride=2))))

# A ResNet's strength on textures and objects, and attention over each whole frame. Starts from the image network of the
# same structure, `timm:botnet26t_256`; `timm:resnet50` fills any ResNet-50 in which bottlenecks attend.
botnet_base = HybridConfig(
    frames=16,
    height=256,
    width=256,
    stem=StemConfig("timm/botnet26t_256", stride=8),
    stages=(convolving(1024, 1, stride=2), attending(1024, 1), attending(2048, 2, stride=2)),
    norm="none",
    head=HeadConfig(norm="none", dropout=0.3),
)

# Where the direction of motion matters: the last stage attends in space and time.
botnet_joint_base = replace(botnet_base, stages=(*botnet_base.stages[:2], joint(attending(2048, 2, stride=2))))

BOTNETS: dict[str, HybridVariant] = {
    "botnet_tiny": HybridVariant(botnet_tiny),
    "botnet_joint_tiny": HybridVariant(botnet_joint_tiny),
    "botnet_base": HybridVariant(botnet_base),
    "botnet_joint_base": HybridVariant(botnet_joint_base),
}
