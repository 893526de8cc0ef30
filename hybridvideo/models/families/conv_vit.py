"""Convolutions before the patch embedding of a Vision Transformer.

conv_vit_tiny    from scratch, small clips
conv_vit_base    R26+ViT-S/32 of images, inflated: `--model.weights timm:vit_small_r26_s32_224`
"""

from __future__ import annotations

from hybridvideo.config.model import HeadConfig, HybridConfig, InputConfig, StemConfig
from hybridvideo.models.families.vit import vit_stages
from hybridvideo.models.hybrid import HybridVariant

# Learns from fewer clips than a ViT without convolutions, at the same cost: four convolutions of stride 2 in place of
# one of stride 16. Xiao et al. 2021, *Early Convolutions Help Transformers See Better*. The correlation of frames has
# convolutions of its own.
conv_vit_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation_stream"),
    stem=StemConfig(widths=(24, 48, 96, 192), norm="batch", activation="relu"),
    position="absolute",
    stages=vit_stages("joint", 6, 3),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# The hybrid of the paper of the ViT: a ResNet of 26 layers to stride 32, then a ViT-S on 7x7 positions, each block with
# attention through time that starts as identity. The most accurate image weights per GMAC of this form.
# Dosovitskiy et al. 2021, *ViT*, and Steiner et al. 2022, *How to train your ViT*.
conv_vit_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("backbone/vit_small_r26_s32_224", stride=32),
    dim=384,
    position="absolute",
    class_token=True,
    stages=vit_stages("divided", 12, 6, parts=4),
    drop_path=0.1,
    norm_eps=1e-6,
    head=HeadConfig(norm="none"),
)

CONV_VITS: dict[str, HybridVariant] = {
    "conv_vit_tiny": HybridVariant(conv_vit_tiny),
    "conv_vit_base": HybridVariant(conv_vit_base),
}
