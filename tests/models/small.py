"""Every registered model at a small input and with few blocks: what generic tests run on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hybridvideo.config.model import HybridConfig
from hybridvideo.models import MODELS, create_model
from hybridvideo.models.contract import Outputs, VideoModel
from hybridvideo.parsing import plain

SMALL_INPUT = (2, 3, 4, 64, 64)
SHRINKING = {"block": "divided", "depth": 1, "dim": 96, "merge": True, "position": "conv"}
SMALL_STEM = "timm/test_resnet"
# The same network narrower or with fewer blocks, so that the large ones take no longer than the small.
FEWER: dict[str, dict[str, Any]] = {
    "encoder_decoder_tiny": {"encoder_depth": 1, "decoder_depth": 1},
    "encoder_decoder_base": {"encoder_depth": 1, "decoder_depth": 1, "memory_dim": 64},
    "decoder_tiny": {"decoder_depth": 1},
    "decoder_base": {"decoder_depth": 1, "memory_dim": 64},
    "coatnet_base": {
        "stages": [
            {"block": "mbconv", "depth": 1, "dim": 16, "stride": 2, "form": {"squeeze_first": True}},
            {"block": "coat", "depth": 1, "dim": 24, "stride": 2, "heads": 2, "temporal": "attention"},
            {"block": "coat", "depth": 2, "dim": 32, "stride": 2, "heads": 2, "attention": "joint"},
        ]
    },
    "coatnet_alternating_base": {
        "stages": [
            {"block": "mbconv", "depth": 1, "dim": 16, "stride": 2},
            {"block": "window3d", "depth": 1, "heads": 2, "window": (2, 7, 7)},
            {"block": "mbconv", "depth": 1, "dim": 32, "stride": 2, "kernel": (3, 3, 3)},
            {"block": "coat", "depth": 1, "heads": 2, "attention": "joint"},
        ]
    },
    "maxvit_base": {"stages": [{"block": "maxvit", "depth": 1, "dim": 16, "stride": 2, "window": (2, 3, 3)}] * 2},
    "can_base": {"dim": 64, "stages": [{"block": "can", "depth": 1, "temporal": "attention", "relative": "table"}]},
    "can_spatial_base": {"dim": 64, "stages": [{"block": "can", "depth": 1, "weigh": "spatial", "temporal": "conv"}]},
    "levit_base": {
        "stem": {"widths": (16, 32, 64)},
        "stages": [{"block": "levit", "depth": 2, "heads": 2, "dim": 64, "stride": 2, "temporal": "conv"}],
    },
    "botnet_base": {
        "stem": {"widths": (16, 32)},
        "stages": [{"block": "bottleneck", "depth": 2, "dim": 64, "stride": 2, "temporal": "conv"}],
    },
    "botnet_joint_base": {
        "stem": {"widths": (16, 32)},
        "stages": [{"block": "bottleneck", "depth": 2, "dim": 64, "stride": 2, "attention": "joint"}],
    },
    "mobilevit_base": {
        "stem": {"widths": (16, 32)},
        "stages": [{"block": "mobilevit", "depth": 1, "inner_dim": 48, "attention": "divided", "temporal": "conv"}],
    },
    "hvt_base": {
        "stem": {"widths": (16, 32, 64)},
        "stages": [{"block": "divided", "depth": 1, "heads": 6, "dim": 48}],
    },
    "conformer_tiny": {"depths": (1, 1, 1)},
    "conformer_base": {
        "stem": {"name": SMALL_STEM},
        "depths": (1, 1, 1),
        "widths": (32, 64, 64),
        "dim": 48,
        "transformer": {"heads": 3},
    },
    "towers_base": {
        "conv": {"stem": {"name": SMALL_STEM}},
        "attention": {"stages": [{"block": "divided", "depth": 1, "heads": 6}]},
    },
    "conv_vit_base": {
        "stem": {"name": "backbone/vit_tiny_r_s16_p8_224", "stride": 4},
        "dim": 48,
        "stages": [{"block": "divided", "depth": 1, "heads": 6}],
    },
    **{
        f"{name}_base": {"stem": {"widths": (48,)}, "stages": [{"block": block, "depth": 1, "heads": 6}]}
        for name, block in (
            ("vit", "divided"),
            ("vit_st_adapter", "spatial"),
            ("vit_aim", "spatial"),
            ("vit_zeroi2v", "spatial"),
        )
    },
    **{f"{name}_base": {"stem": {"name": SMALL_STEM}, "dim": 80} for name in ("hybrid", "parallel", "choice")},
    "conformer_time_base": {"stem": {"name": SMALL_STEM}, "dim": 64},
    "multiscale_base": {"stages": [SHRINKING, SHRINKING]},
    "unet_base": {"stages": [SHRINKING, SHRINKING, {"block": "conv", "depth": 1, "dim": 48, "up": "stem"}]},
    "video_swin_tiny": {"dim": 12, "depths": (2, 1, 2, 1)},
    "video_swin_small": {"dim": 12, "depths": (1, 2, 1, 1), "window": (2, 7, 7)},
    "video_swin_base": {"dim": 16, "depths": (2, 1, 1, 1)},
    "video_swin_large": {"dim": 24, "depths": (2, 1, 1, 1), "heads": (1, 2, 2, 2)},
    "uniformer_small": {"dims": (16, 16, 32, 32), "depths": (1, 1, 1, 1), "head_dim": 16},
    "uniformer_base": {"dims": (8, 16, 16, 32), "depths": (2, 1, 2, 1), "head_dim": 16},
    "timesformer_base": {"depth": 2, "dim": 48, "heads": 3},
    "timesformer_hr": {"depth": 1, "dim": 32, "heads": 2, "attention": "joint"},
    "timesformer_large": {"depth": 2, "dim": 32, "heads": 2, "attention": "space"},
    "videomae_small": {"depth": 2, "dim": 48},
    "videomae_base": {"depth": 1, "dim": 48},
    "videomae_large": {"depth": 1, "dim": 32},
    "videomae_huge": {"depth": 1, "dim": 80, "patch": (2, 32, 32)},
    "slow_r50": {"channels": 8},
    "c2d_r50": {"channels": 8},
    "i3d_r50": {"channels": 8},
    "csn_r101": {"channels": 8, "depth": 50},
    "r2plus1d_r50": {"channels": 8},
    "slowfast_r50": {"channels": 16, "depth": 18},
    "slowfast_r101": {"channels": 16, "depth": 18},
    **{f"x3d_{size}": {"width_factor": 0.5, "depth_factor": 0.2} for size in ("xs", "s", "m", "l")},
    **{f"mvit_base_{clip}": {"depths": (1, 1, 1), "channels": 16} for clip in ("16x4", "32x3")},
    "r3d_18": {"depths": (1, 1, 1, 1)},
    "mc3_18": {"depths": (1, 1, 1, 1)},
    "r2plus1d_18": {"depths": (1, 1, 1, 1)},
    "mvit_v1_b": {"depths": (1, 1, 1), "channels": 16},
    "mvit_v2_s": {"depths": (1, 1, 1), "channels": 16},
}


def small(name: str, num_classes: int = 5, **changes: Any) -> VideoModel:
    """Build a model by name for SMALL_INPUT, the same each time."""
    torch.manual_seed(0)
    size = {"frames": 4, "height": 64, "width": 64}
    return create_model(name, num_classes, **{**size, **shallow(name), **FEWER.get(name, {}), **changes})


def shallow(name: str) -> dict[str, Any]:
    """Return the changes that make a hybrid small: one block for each stage, for the last two; a small library stem.

    Two, because a second block may shift its windows, or follow one that shrinks the grid.
    """
    config = getattr(MODELS[name], "config", None)
    if not isinstance(config, HybridConfig):
        return {}
    depths = [1] * len(config.stages)
    depths[-1:] = [2] if depths else []
    stages = [replace(stage, depth=depth) for stage, depth in zip(config.stages, depths, strict=True)]
    stem = {"stem": {"name": SMALL_STEM}} if config.stem.name.startswith("timm/") else {}
    return {**stem, "stages": [plain(stage) for stage in stages]}


def everything(output: Tensor | Outputs) -> Tensor:
    """What a training call returns, in one tensor."""
    if not isinstance(output, Outputs):
        return output
    return torch.cat([part.flatten() for part in (output.logits, *output.auxiliary.values())])
