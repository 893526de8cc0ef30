"""2-D Swin into Video Swin: the authors' and timm's names, and torchvision's `swin_*`.

The bias table gets a time axis of one, and the patch embedding has a kernel without time; `load_weights` repeats the
first over the frames of the window and spreads the second over those of the patch, as the authors of Video Swin do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of
from hybridvideo.weights.layouts.video_swin import INDEX, STAGES, TABLE, block_rows, merge_rows, merges, name_of

END: Renames = (("norm.{p}", "norm.{p}"), ("head.{p}", "classifier.{p}"))
EMBEDDING: Renames = (("patch_embed.proj.{p}", "patches.{p}"), ("patch_embed.norm.{p}", "patch_norm.{p}"))
BLOCKS = block_rows("layers.{s}.blocks.{b}", "stages.{s}.blocks.{b}", ("fc1", "fc2"))
TIMM_END: Renames = (("norm.{p}", "norm.{p}"), ("head.fc.{p}", "classifier.{p}"))

TORCHVISION_RENAMES: Renames = (
    ("features.0.0.{p}", "patches.{p}"),
    ("features.0.2.{p}", "patch_norm.{p}"),
    *(
        row
        for stage in range(STAGES)
        for row in block_rows(f"features.{2 * stage + 1}.{{b}}", f"stages.{stage}.blocks.{{b}}", ("0", "3"))
    ),
    *(row for stage in range(1, STAGES) for row in merge_rows(f"features.{2 * stage}", stage)),
    *END,
)


def fix(state: State) -> State:
    """Reshape bias tables (rows, heads) of square windows to (1, 2h - 1, 2w - 1, heads)."""
    fixed = {}
    for key, value in state.items():
        if key.endswith(TABLE):
            side = math.isqrt(value.shape[0])
            value = value.reshape(1, side, side, -1)
        fixed[key] = value
    return fixed


def unfix(state: State) -> State:
    """Flatten bias tables; their index buffers are not recreated."""
    return {key: value.flatten(0, 2) if key.endswith(TABLE) else value for key, value in state.items()}


def is_image(state: Mapping[str, Tensor]) -> bool:
    """Return whether the patch embedding is a 2-D convolution."""
    return all(state[key].ndim == 4 for key in ("patch_embed.proj.weight", "features.0.0.weight") if key in state)


def architecture_of(state: State, proj: str, blocks: list[str]) -> Architecture:
    """Infer the video network of the same widths, depths and windows in space."""
    tables = [template.replace("{i}", "0") for template in blocks]
    dim, (_, _, *patch) = state[proj].shape[0], state[proj].shape
    depths = tuple(len(numbers_of(template, state)) for template in blocks)
    heads = tuple(state[table].shape[1] for table in tables)
    side = (math.isqrt(state[tables[0]].shape[0]) + 1) // 2
    return Architecture(
        name_of(dim, depths),
        {
            "dim": dim,
            "depths": depths,
            "heads": heads,
            "patch": (2, *patch),
            "window": (8, side, side),
        },
    )


def layers_architecture(state: State) -> Architecture:
    """Infer the network from the authors' names, which are also timm's."""
    tables = [f"layers.{stage}.blocks.{{i}}.attn.{TABLE}" for stage in range(STAGES)]
    return architecture_of(state, "patch_embed.proj.weight", tables)


def torchvision_architecture(state: State) -> Architecture:
    """Infer the network from torchvision's names."""
    tables = [f"features.{2 * stage + 1}.{{i}}.attn.{TABLE}" for stage in range(STAGES)]
    return architecture_of(state, "features.0.0.weight", tables)


def image_swin(name: str, signature: tuple[str, ...], renames: Renames, architecture: Any) -> Layout:
    """Return a layout of 2-D Swin weights."""
    return Layout(
        f"2-D Swin ({name})",
        "VideoSwin",
        signature,
        renames,
        architecture,
        fix=fix,
        unfix=unfix,
        accepts=is_image,
        computed=(
            f"layers.{{s}}.blocks.{{b}}.attn.{INDEX}",
            "layers.{s}.blocks.{b}.attn_mask",
            f"features.{{s}}.{{b}}.attn.{INDEX}",
        ),
    )


LAYER_TABLE = f"layers.0.blocks.0.attn.{TABLE}"

IMAGE_SWIN_TIMM = image_swin(
    "timm",
    ("patch_embed.proj.weight", LAYER_TABLE, "layers.3.downsample.norm.weight"),
    (*EMBEDDING, *BLOCKS, *merges("layers.{}.downsample", first=1), *TIMM_END),
    layers_architecture,
)
IMAGE_SWIN = image_swin(
    "its authors",
    ("patch_embed.proj.weight", LAYER_TABLE, "layers.0.downsample.norm.weight"),
    (*EMBEDDING, *BLOCKS, *merges("layers.{}.downsample", first=0), *END),
    layers_architecture,
)
IMAGE_SWIN_TORCHVISION = image_swin(
    "torchvision", ("features.0.0.weight", f"features.1.0.attn.{TABLE}"), TORCHVISION_RENAMES, torchvision_architecture
)
