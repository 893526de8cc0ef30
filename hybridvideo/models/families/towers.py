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
        stem=StemConfig(widths=(24, 48), norm="batch", activation="relu"),
        stages=(StageConfig("conv3d", 2, mlp_ratio=2.0), StageConfig("conv3d", 2, mlp_ratio=2.0, merge=True)),
        drop_path=0.1,
    ),
    attention=HybridConfig(
        stem=StemConfig(widths=(24, 48, 96), norm="batch", activation="relu"),
        dim=128,
        position="absolute",
        stages=(StageConfig("divided", 3, heads=4),),
        drop_path=0.1,
    ),
)

# Meant for Kinetics-400, from two sets of image weights: a ResNet-26 on each frame, and a ViT-S/16 on tubelets with
# divided attention. `--model.weights.conv timm:resnet26 --model.weights.attention timm:vit_small_patch16_224`
towers_base = TowersConfig(
    frames=16,
    conv=HybridConfig(stem=StemConfig("timm/resnet26", stride=32)),
    attention=HybridConfig(
        stem=StemConfig("patch", widths=(384,), patch=(2, 16, 16)),
        position="absolute",
        stages=(StageConfig("divided", 12, heads=6, norm_eps=1e-6),),
        norm_eps=1e-6,
        drop_path=0.2,
    ),
)

TOWERS: dict[str, Callable[..., VideoModel]] = {
    "towers_tiny": Variant(Towers, towers_tiny, sized=with_small_stems),
    "towers_base": Variant(Towers, towers_base, sized=with_small_stems),
}
