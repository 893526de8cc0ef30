"""Vision Transformers on clips: tubelets, then divided or joint space-time attention.

    vit_tiny    from scratch, small clips
    vit_base    ViT-S/16 of images, inflated: `--model.weights timm:vit_small_patch16_224`
    vit_st_adapter_base, vit_aim_base, vit_zeroi2v_base    the same, frozen, with adapters

Other widths and depths of image ViTs (timm:vit_tiny_patch16_224, timm:vit_base_patch32_224, timm:deit_small_patch16_224
...) take the same form with `stem.widths`, `stem.patch` and `stages` changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hybridvideo.config.model import AdapterConfig, HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant


def vit_stages(block: str, depth: int, heads: int, parts: int = 1) -> tuple[StageConfig, ...]:
    """Blocks of a ViT, in so many stages of equal depth."""
    return (StageConfig(block, depth // parts, heads, norm_eps=1e-6),) * parts


def patches(dim: int, patch: Sequence[int]) -> StemConfig:
    """Tubelets (frames, rows, columns) as the stem."""
    t, h, w = patch
    return StemConfig("patch", widths=(dim,), patch=(t, h, w))


# A plain Transformer as the yardstick of the hybrids: needs more data than they do. Joint attention, which 4 frames of
# 7x7 tubelets afford. The correlation of frames goes next to the patches, in whose products fine motion is lost.
# Arnab et al. 2021, *ViViT* (model 1).
vit_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation_stream"),
    stem=patches(192, (2, 16, 16)),
    position="absolute",
    stages=vit_stages("joint", 6, 3),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# A ViT-S/16 of images on 8 frames of tubelets, with attention through time in every block that starts as identity: the
# start of choice where image weights matter more than the architecture. Dosovitskiy et al. 2021, *ViT*; time divided
# off as by Bertasius et al. 2021, *TimeSformer*.
vit_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=patches(384, (2, 16, 16)),
    position="absolute",
    class_token=True,
    stages=vit_stages("divided", 12, 6, parts=4),
    drop_path=0.1,
    norm_eps=1e-6,
    head=HeadConfig(norm="none"),
)

# The same ViT-S/16 frozen, 16 frames, and small parts that train: for little data, little memory, or many tasks on one
# set of weights. The most accurate on scenes; motion through a convolution. Pan et al. 2022, *ST-Adapter*.
vit_st_adapter_base = replace(
    vit_base,
    stem=patches(384, (1, 16, 16)),
    stages=vit_stages("spatial", 12, 6, parts=4),
    adapter=AdapterConfig("st", dim=192),
    drop_path=0.0,
)

# Attention through time by the frozen weights of attention within frames; every second frame, since it costs as much
# again. Yang et al. 2023, *AIM*.
vit_aim_base = replace(
    vit_st_adapter_base,
    stem=patches(384, (2, 16, 16)),
    inflation="centre",
    adapter=AdapterConfig("aim", dim=96),
)

# Costs nothing over the image network once `merge()` was called. Li et al. 2024, *ZeroI2V*.
vit_zeroi2v_base = replace(vit_st_adapter_base, adapter=AdapterConfig("zeroi2v", dim=96, heads=1))

VITS: dict[str, HybridVariant] = {
    "vit_tiny": HybridVariant(vit_tiny),
    "vit_base": HybridVariant(vit_base),
    "vit_st_adapter_base": HybridVariant(vit_st_adapter_base),
    "vit_aim_base": HybridVariant(vit_aim_base),
    "vit_zeroi2v_base": HybridVariant(vit_zeroi2v_base),
}
