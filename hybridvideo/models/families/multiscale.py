"""Hybrids whose classes are read from several resolutions, for what is small in the frame.

`multiscale`: a feature pyramid of three levels, and weights for them by the input (Lin et al. 2017; Li et al. 2020).
`unet`: back up to the resolution of the stem, with what the stages on the way down knew (Ronneberger et al. 2015).
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def convolution(depth: int, dim: int | None = None, merge: bool = False, up: str | None = None) -> StageConfig:
    """A stage of convolution within frames and between them."""
    return StageConfig("conv3d", depth, mlp_ratio=2.0, position="conv", dim=dim, merge=merge, up=up)


def divided(depth: int, heads: int, dim: int) -> StageConfig:
    """A stage of divided attention at half the resolution."""
    return StageConfig("divided", depth, heads, position="conv", dim=dim, merge=True)


# From scratch: 14x14, 7x7 and 4x4 positions of a frame of 112.
multiscale_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 128), norm="batch", activation="relu"),
    stages=(convolution(2), convolution(2, 192, merge=True), divided(2, 8, 256)),
    scales="route",
    scales_dim=192,
    drop_path=0.1,
)

# For Kinetics-400, from image weights of the ResNet up to stride 8: 28x28, 14x14 and 7x7 positions.
multiscale_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=8),
    stages=(divided(4, 6, 384), divided(3, 12, 768)),
    scales="route",
    scales_dim=256,
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

# From scratch; the last grid has the resolution of the stem, for features of small things.
unet_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig(widths=(32, 64, 96), norm="batch", activation="relu"),
    stages=(
        convolution(1),
        convolution(2, 192, merge=True),
        divided(2, 8, 256),
        convolution(1, 192, up="stage2"),
        convolution(1, 96, up="stage1"),
    ),
    drop_path=0.1,
)

# For Kinetics-400, from image weights of the ResNet up to stride 8.
unet_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("timm/resnet50", stride=8),
    stages=(
        divided(3, 6, 384),
        divided(2, 12, 768),
        convolution(1, 384, up="stage1"),
        convolution(1, 256, up="stem"),
    ),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

MULTISCALES: dict[str, HybridVariant] = {
    "multiscale_tiny": HybridVariant(multiscale_tiny),
    "multiscale_base": HybridVariant(multiscale_base),
    "unet_tiny": HybridVariant(unet_tiny),
    "unet_base": HybridVariant(unet_base),
}
