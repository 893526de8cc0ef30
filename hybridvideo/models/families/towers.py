"""Towers: a whole CNN and a whole Transformer that never meet before the last grid.

Take them where two networks are there already, each pretrained, or where the two should stay independent: either alone
still classifies, so that one can be left out later. Nothing is shared, so they cost the sum of both. Late fusion of two
streams is that of Simonyan and Zisserman 2014, *Two-Stream Convolutional Networks*.
"""

from __future__ import annotations

from collections.abc import Callable

from hybridvideo.config.model import HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.towers import Towers, TowersConfig, with_small_stems
from hybridvideo.models.variants import Variant

# For a few thousand clips, from scratch: 3-D convolutions at a quarter of the frame's resolution, and attention.
towers_tiny = TowersConfig(
    frames=8,
    height=112,
    width=112,
    conv=HybridConfig(
        input=InputConfig("correlation"),  # sees motion that no frame shows
        stem=StemConfig(widths=(24, 48)),
        stages=(StageConfig("conv3d", 2, mlp_ratio=2.0), StageConfig("conv3d", 2, mlp_ratio=2.0, merge=True)),
        drop_path=0.1,
    ),
    attention=HybridConfig(
        stem=StemConfig(widths=(24, 48, 96)),
        dim=128,
        position="absolute",
        stages=(StageConfig("divided", 3, heads=4),),
        drop_path=0.1,
    ),
)

# Meant for Kinetics-400: a ResNet-26 on each frame, and a ViT-S with divided attention.
towers_base = TowersConfig(
    frames=16,
    conv=HybridConfig(stem=StemConfig("timm/resnet26", stride=32)),
    attention=HybridConfig(
        stem=StemConfig(widths=(48, 96, 192, 384)),
        position="absolute",
        stages=(StageConfig("divided", 11, heads=6, time_stride=2),),
        drop_path=0.2,
    ),
)

TOWERS: dict[str, Callable[..., VideoModel]] = {
    "towers_tiny": Variant(Towers, towers_tiny, sized=with_small_stems),
    "towers_base": Variant(Towers, towers_base, sized=with_small_stems),
}
