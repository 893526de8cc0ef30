"""MaxViT (Tu et al. 2022): in each block an inverted bottleneck, attention in windows, attention among far positions.

Per frame as in the paper; time comes from windows several frames deep, or from paths in time after each block.
"""

from __future__ import annotations

from hybridvideo.config.model import FormConfig, HeadConfig, HybridConfig, InputConfig, StageConfig, StemConfig
from hybridvideo.models.hybrid import HybridVariant

HEAD_DIM = 32  # channels of an attention head, in all published forms
TIMM = FormConfig(expand="in", activation="silu")  # of maxvit_tiny_rw


def blocks(
    depth: int, dim: int, form: FormConfig, window: tuple[int, int, int], temporal: str = "none", **changes: object
) -> StageConfig:
    """A stage, at half the resolution."""
    return StageConfig(
        "maxvit",
        depth,
        heads=dim // HEAD_DIM,
        dim=dim,
        stride=2,
        window=window,
        form=form,
        temporal=temporal,  # type: ignore[arg-type]
        **changes,  # type: ignore[arg-type]
    )


# For a few thousand clips, from scratch: attention with every frame of the clip.
maxvit_tiny = HybridConfig(
    frames=8,
    height=112,
    width=112,
    input=InputConfig("correlation"),
    stem=StemConfig("coatnet", widths=(24, 32), activation="silu"),
    stages=(
        blocks(1, 32, FormConfig(), (2, 7, 7)),
        blocks(1, 64, FormConfig(), (4, 7, 7)),
        blocks(2, 128, FormConfig(), (8, 7, 7)),
        blocks(1, 256, FormConfig(), (8, 7, 7)),
    ),
    drop_path=0.1,
    head=HeadConfig(("mean", "max"), norm="batch"),
)

# For Kinetics-400 from image weights: per frame timm's maxvit_tiny_rw_224 (`timm:maxvit_tiny_rw_224`).
maxvit_base = HybridConfig(
    frames=16,
    height=224,
    width=224,
    stem=StemConfig("coatnet", widths=(32, 64), activation="silu"),
    stages=(
        blocks(2, 64, TIMM, (1, 7, 7), norm_eps=1e-6),
        blocks(2, 128, TIMM, (2, 7, 7), norm_eps=1e-6),
        blocks(5, 256, TIMM, (4, 7, 7), norm_eps=1e-6),
        blocks(2, 512, TIMM, (16, 7, 7), norm_eps=1e-6),
    ),
    norm_eps=1e-6,
    drop_path=0.2,
    head=HeadConfig(norm="none", dropout=0.3),
)

MAXVITS: dict[str, HybridVariant] = {
    "maxvit_tiny": HybridVariant(maxvit_tiny),
    "maxvit_base": HybridVariant(maxvit_base),
}
