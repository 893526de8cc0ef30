"""Conformers: convolution and attention side by side, coupled both ways in every block (Peng et al. 2021).

Take one where neither branch should be the servant of the other: fine detail stays in the convolutional branch at a
quarter of the frame's resolution, and attention sees the clip. Two heads make training steady from scratch. No library
has weights for it.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridvideo.config.model import InputConfig, StageConfig, StemConfig
from hybridvideo.models.conformer import Conformer, ConformerConfig, with_small_stem
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.variants import Variant

# For a few thousand clips, from scratch.
conformer_tiny = ConformerConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),  # sees motion that no frame shows
    stem=StemConfig(widths=(32, 64), norm="batch", activation="relu"),
    widths=(96, 192, 384),
    depths=(2, 2, 2),
    dim=192,
    transformer=StageConfig("divided", heads=3),
    drop_path=0.1,
)

# Meant for Kinetics-400: the Transformer branch of Conformer-S with tokens of two frames, a narrower convolutional one.
# timm has weights for the stem, a ResNet-50 up to its first stage.
conformer_base = ConformerConfig(
    frames=16,
    stem=StemConfig("timm/resnet50", stride=4),
    widths=(96, 256, 512),
    depths=(4, 4, 4),
    dim=384,
    patch=(2, 4, 4),
    transformer=StageConfig("divided", heads=6),
    drop_path=0.2,
)

CONFORMERS: dict[str, Callable[..., VideoModel]] = {
    "conformer_tiny": Variant(Conformer, conformer_tiny, sized=with_small_stem),
    "conformer_base": Variant(Conformer, conformer_base, sized=with_small_stem),
}
