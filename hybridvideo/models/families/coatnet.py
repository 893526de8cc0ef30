"""CoAtNet: inverted bottlenecks, then attention with a bias for each offset (Dai et al. 2021), frame by frame.

    coatnet               stages C-C-T-T: two of convolution, two of attention, as in the paper
    coatnet_alternating   convolution and attention in turns, block by block, from the first to the last

What an image network lacks is time: a path in time after each attention of a frame, attention among all positions of
the clip where there are few, and windows several frames deep where there are many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from hybridvideo.config.model import FormConfig, HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant

HEAD_DIM = 32  # channels of an attention head, in all published forms
TIMM = FormConfig(  # of coatnet_0_rw
    expand="in",
    shrink="pool",
    activation="silu",
    activate_first=True,
    squeeze=0.25,
    squeeze_activation="relu",
    squeeze_first=True,
)


def convolution(depth: int, dim: int, form: FormConfig) -> StageConfig:
    """A stage of inverted bottlenecks, at half the resolution."""
    return StageConfig("mbconv", depth, dim=dim, stride=2, form=form)


def attention(
    depth: int, dim: int, form: FormConfig, reach: Literal["spatial", "joint"] = "spatial", norm: str = "layer"
) -> StageConfig:
    """A stage of attention, at half the resolution: of each frame with paths in time, or of the whole clip."""
    return StageConfig(
        "coat",
        depth,
        heads=dim // HEAD_DIM,
        dim=dim,
        stride=2,
        attention=reach,
        norm=norm,  # type: ignore[arg-type]
        norm_eps=1e-6,
        form=form,
        temporal="attention" if reach == "spatial" else "none",
        relative="table",
    )


def alternating(blocks: Sequence[tuple[int, tuple[int, int, int] | None]], form: FormConfig) -> tuple[StageConfig, ...]:
    """Pairs of one convolution and one attention; each is its channels and its window, None for the whole frame.

    Where the channels change the convolution halves the grid.
    """
    stages: list[StageConfig] = []
    before = 0
    for dim, window in blocks:
        stages.append(replace(convolution(1, dim, form), stride=2 if dim != before else 1))
        if window is None:
            stages.append(replace(attention(1, dim, form), stride=1))
        else:
            stages.append(StageConfig("window3d", 1, heads=dim // HEAD_DIM, window=window))
        before = dim
    return tuple(stages)


# For a few thousand clips, from scratch. The correlation of frames has convolutions of its own: motion is learned from
# fewer clips than with further channels of the stem.
coatnet_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation_stream"),
    stem=StemConfig("coatnet", widths=(24, 48), activation="silu"),
    stages=(
        convolution(2, 64, FormConfig()),
        convolution(2, 96, FormConfig()),
        attention(3, 192, FormConfig()),
        attention(2, 256, FormConfig(), "joint"),
    ),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For Kinetics-400 from image weights: per frame timm's coatnet_0_rw_224 (`timm:coatnet_0_rw_224`), which is deeper than
# the paper's CoAtNet-0 and has its activations in other places.
coatnet_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("coatnet", widths=(32, 64), activation="silu"),
    stages=(
        convolution(2, 96, TIMM),
        convolution(3, 192, TIMM),
        attention(7, 384, TIMM),
        attention(2, 768, TIMM, "joint"),
    ),
    norm_eps=1e-6,
    drop_path=0.2,
    head=HeadConfig(norm="none", dropout=0.3),
)

# For a few thousand clips, from scratch, where what is far matters early.
coatnet_alternating_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation_stream"),
    stem=StemConfig("coatnet", widths=(24, 48), activation="silu"),
    stages=alternating(
        [(48, (2, 7, 7)), (96, (4, 7, 7)), (96, (4, 7, 7)), (160, None), (160, None), (192, None)], FormConfig()
    ),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For Kinetics-400 where what is far matters early. No image weights of strictly alternating blocks are published.
coatnet_alternating_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("coatnet", widths=(32, 64), activation="silu"),
    stages=alternating(
        [
            *[(64, (2, 7, 7))] * 2,
            *[(128, (4, 7, 7))] * 3,
            *[(256, None)] * 8,
            *[(512, None)] * 2,
        ],
        FormConfig(),
    ),
    drop_path=0.2,
    head=HeadConfig(dropout=0.3),
)

COATNETS: dict[str, HybridVariant] = {
    "coatnet_tiny": HybridVariant(coatnet_tiny),
    "coatnet_base": HybridVariant(coatnet_base),
    "coatnet_alternating_tiny": HybridVariant(coatnet_alternating_tiny),
    "coatnet_alternating_base": HybridVariant(coatnet_alternating_base),
}
