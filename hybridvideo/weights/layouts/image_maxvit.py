"""MaxViTs of timm (`maxvit_*`), those that were TensorFlow's included, into hybrids of the same blocks.

Windows are made several frames deep, their tables repeated over time; the rest is as for CoAtNet.
"""

from __future__ import annotations

import math
from typing import Any

from hybridvideo.models.families.maxvit import blocks
from hybridvideo.parsing import plain
from hybridvideo.weights.layouts.image_coatnet import adapt, common_changes, fix, form_of, runs_of, widths_of
from hybridvideo.weights.layouts.layout import Architecture, Layout, State

FRAMES = (1, 2, 4, 16)  # of the windows of each stage
MLP_OF_256 = (32, 64)  # widths of the first stage of those whose bias is an MLP's, made for windows of 8


def architecture(state: State) -> Architecture:
    """Infer the hybrid: `maxvit_base` with these widths, depths and windows."""
    form, runs, side = form_of(state), runs_of(state), window_side(state)
    common = common_changes(state, form)
    settings: dict[str, Any] = {"norm_eps": common["norm_eps"]}
    if form.activation == "gelu_tanh":
        settings["activation"] = "gelu_tanh"
    if any(key.endswith("ls1.gamma") for key in state):
        settings["layer_scale"] = 1e-6
    stages = [
        blocks(run.depth, widths_of(state, f"{run.first}conv.")[2], form, (frames, side, side), **settings)
        for run, frames in zip(runs, FRAMES, strict=True)
    ]
    size = {"height": 32 * side, "width": 32 * side}
    return Architecture("maxvit_base", {**common, **size, "stages": [plain(stage) for stage in stages]})


def window_side(state: State) -> int:
    """Infer rows and columns of windows from a table of their offsets."""
    for key, value in state.items():
        if key.endswith("relative_position_bias_table"):
            offsets = value.shape[1] if value.ndim == 3 else math.isqrt(value.shape[0])
            return (offsets + 1) // 2
    return 8 if widths_of(state, "stages.0.blocks.0.conv.")[2] in MLP_OF_256 else 7


IMAGE_MAXVIT = Layout(
    name="2-D MaxViT (timm)",
    family="Hybrid",
    signature=(
        "stem.norm1.running_mean",
        "stages.{s}.blocks.{b}.conv.conv1_1x1.weight",
        "stages.{s}.blocks.{b}.attn_block.attn.qkv.weight",
        "stages.{s}.blocks.{b}.attn_grid.attn.qkv.weight",
    ),
    renames=(),
    architecture=architecture,
    fix=fix,
    adapt=adapt,
    of_images=True,
)
