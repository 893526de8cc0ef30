"""The Conformer block of speech recognition, over the frames of a video: Gulati et al. 2020, *Conformer*.

Space is the stem's and a convolutional stage's affair; order and rhythm of frames are the Conformer's.
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def through_time(depth: int, heads: int, kernel: int) -> StageConfig:
    """A stage of Conformer blocks with a convolution over `kernel` frames."""
    return StageConfig("conformer_time", depth, heads, kernel=(kernel, 1, 1), activation="silu", dropout=0.1)


# To train from scratch where events are long or repeat, such as gestures.
conformer_time_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(24, 48, 96), norm="batch", activation="relu"),
    stages=(StageConfig("conv", 2), StageConfig("conv", 1, merge=True), through_time(2, 4, 7)),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For Kinetics-400, from an ImageNet ResNet-50.
conformer_time_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=32),
    dim=512,
    stages=(through_time(4, 8, 15),),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

CONFORMERS_IN_TIME: dict[str, HybridVariant] = {
    "conformer_time_tiny": HybridVariant(conformer_time_tiny),
    "conformer_time_base": HybridVariant(conformer_time_base),
}
