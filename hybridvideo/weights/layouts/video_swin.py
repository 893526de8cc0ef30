"""Video Swin: the authors' checkpoints (mmaction 0.x), mmaction2 1.x, and torchvision's `swin3d_*`.

All three hold the same tensors. Index and mask buffers are computed here; bias tables are flat there, and here
(2t - 1, 2h - 1, 2w - 1, heads).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.models.parts.windows import Size, relative_index
from hybridvideo.models.published.video_swin import VIDEO_SWINS
from hybridvideo.models.variants import Published
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, matched, numbers_of

STAGES = 4
TABLE, INDEX = "relative_position_bias_table", "relative_position_index"


def block_rows(theirs: str, ours: str, mlp: tuple[str, str]) -> Renames:
    """Return the renames of the blocks below a prefix."""
    return (
        *((f"{theirs}.{norm}.{{p}}", f"{ours}.{norm}.{{p}}") for norm in ("norm1", "norm2")),
        *((f"{theirs}.attn.{part}.{{p}}", f"{ours}.attention.{part}.{{p}}") for part in ("qkv", "proj")),
        (f"{theirs}.attn.{TABLE}", f"{ours}.attention.bias_table"),
        *((f"{theirs}.mlp.{name}.{{p}}", f"{ours}.mlp.fc{i}.{{p}}") for i, name in enumerate(mlp, 1)),
    )


def merge_rows(theirs: str, stage: int) -> Renames:
    """Return the renames of the merging that begins a stage."""
    ours = f"stages.{stage}.merge"
    return (f"{theirs}.reduction.{{p}}", f"{ours}.reduction.{{p}}"), (f"{theirs}.norm.{{p}}", f"{ours}.norm.{{p}}")


def merges(template: str, first: int) -> Renames:
    """Return the renames of all mergings, whose number in `template` grows by one per stage."""
    rows = [merge_rows(template.format(stage + first - 1), stage) for stage in range(1, STAGES)]
    return tuple(row for pair in rows for row in pair)


def mmaction(norm: str) -> Renames:
    """Return the renames of mmaction's names; the last norm is `norm` in 0.x, `norm3` in 1.x."""
    return (
        ("backbone.patch_embed.proj.{p}", "patches.{p}"),
        ("backbone.patch_embed.norm.{p}", "patch_norm.{p}"),
        *block_rows("backbone.layers.{s}.blocks.{b}", "stages.{s}.blocks.{b}", ("fc1", "fc2")),
        *merges("backbone.layers.{}.downsample", first=0),
        (f"backbone.{norm}.{{p}}", "norm.{p}"),
        ("cls_head.fc_cls.{p}", "classifier.{p}"),
    )


TORCHVISION_RENAMES: Renames = (
    ("patch_embed.proj.{p}", "patches.{p}"),
    ("patch_embed.norm.{p}", "patch_norm.{p}"),
    *(
        row
        for stage in range(STAGES)
        for row in block_rows(f"features.{2 * stage}.{{b}}", f"stages.{stage}.blocks.{{b}}", ("0", "3"))
    ),
    *(row for stage in range(1, STAGES) for row in merge_rows(f"features.{2 * stage - 1}", stage)),
    ("norm.{p}", "norm.{p}"),
    ("head.{p}", "classifier.{p}"),
)


def fix(state: State) -> State:
    """Unflatten bias tables and drop the index buffers, from which their windows are inferred."""
    fixed = {}
    for key, value in state.items():
        if key.endswith(TABLE):
            t, h, w = window_of(state, key)
            value = value.reshape(2 * t - 1, 2 * h - 1, 2 * w - 1, -1)
        if not key.endswith(INDEX):
            fixed[key] = value
    return fixed


def unfix(state: State) -> State:
    """Flatten bias tables and add their index buffers."""
    back = {}
    for key, value in state.items():
        if key.endswith(TABLE):
            t, h, w = ((side + 1) // 2 for side in value.shape[:3])
            back[key.replace(TABLE, INDEX)] = relative_index((t, h, w), (t, h, w), torch.device("cpu")).clone()
            value = value.flatten(0, 2)
        back[key] = value
    return back


def window_of(state: Mapping[str, Tensor], table: str) -> Size:
    """Infer the window of a flat table from its index buffer, or else as the largest that is square in space."""
    rows, index = state[table].shape[0], state.get(table.replace(TABLE, INDEX))
    if index is not None:
        return window_of_index((index[:, 0] - index[0, 0]).tolist())
    for side in range(math.isqrt(rows), 0, -1):
        frames, rest = divmod(rows, (2 * side - 1) ** 2)
        if rest == 0 and frames % 2 == 1:
            return (frames + 1) // 2, side, side
    raise ValueError(f"{table} has {rows} rows, which fits no window")


def window_of_index(rows: list[int]) -> Size:
    """Infer the window from how many rows of the table each position is after the first."""
    count = len(rows)
    w = next((n for n in range(count) if rows[n] != n), count)
    h = next((n for n in range(count // w) if rows[n * w] != n * (2 * w - 1)), count // w)
    return count // (h * w), h, w


def architecture_of(state: State, proj: str, blocks: list[str]) -> Architecture:
    """Infer the network from the patch embedding and the first block of each stage; `blocks`: templates of tables."""
    tables = [template.replace("{i}", "0") for template in blocks]
    dim, patch = state[proj].shape[0], tuple(state[proj].shape[2:])
    depths = tuple(len(numbers_of(template, state)) for template in blocks)
    heads = tuple(state[table].shape[1] for table in tables)
    changes = {"dim": dim, "depths": depths, "heads": heads, "patch": patch, "window": window_of(state, tables[0])}
    return Architecture(name_of(dim, depths), changes)


def name_of(dim: int, depths: tuple[int, ...]) -> str:
    """Return the variant of these sizes, or the one that will be changed."""
    for name, variant in VIDEO_SWINS.items():
        config = variant.config  # type: ignore[attr-defined]
        if (config.dim, config.depths) == (dim, depths):
            return name
    return "video_swin_tiny"


def mmaction_architecture(state: State) -> Architecture:
    """Infer the network of an mmaction checkpoint."""
    tables = [f"backbone.layers.{stage}.blocks.{{i}}.attn.{TABLE}" for stage in range(STAGES)]
    return architecture_of(state, "backbone.patch_embed.proj.weight", tables)


def torchvision_architecture(state: State) -> Architecture:
    """Infer the network of a torchvision state dict."""
    tables = [f"features.{2 * stage}.{{i}}.attn.{TABLE}" for stage in range(STAGES)]
    return architecture_of(state, "patch_embed.proj.weight", tables)


def is_video(state: Mapping[str, Tensor]) -> bool:
    """Return whether patches span several frames; 2-D Swin has nearly the same keys."""
    proj = next(value for key, value in state.items() if matched("patch_embed.proj.weight", key) is not None)
    return proj.ndim == 5


def torchvision_published(name: str) -> Published | None:
    """Return torchvision's own figures: 12 clips of 32 frames at 15 a second, centre crop."""
    top1 = {"video_swin_tiny": 77.715, "video_swin_small": 79.521, "video_swin_base": 79.427}
    if name not in top1:
        return None
    clip, views = ClipConfig(frames=32, interval=1 / 15), EvalConfig(clips=12, crops=1)
    weights = f"torchvision:swin3d_{name.removeprefix('video_swin_')[0]}"
    return Published(top1[name], clip, views, "ImageNet-1k", weights, "torchvision", short_side=256)


BLOCK = "layers.{s}.blocks.{b}.attn.relative_position_bias_table"

TORCHVISION_SWIN3D = Layout(
    name="Video Swin (torchvision swin3d)",
    family="VideoSwin",
    signature=("patch_embed.proj.weight", f"features.0.0.attn.{TABLE}"),
    accepts=is_video,
    renames=TORCHVISION_RENAMES,
    architecture=torchvision_architecture,
    fix=fix,
    unfix=unfix,
    published=torchvision_published,
)


def of_mmaction(software: str, norm: str, signature: tuple[str, ...]) -> Layout:
    """Return a layout of mmaction; 1.x is recognised by the name of its last norm."""
    return Layout(
        name=f"Video Swin ({software})",
        family="VideoSwin",
        signature=signature,
        renames=mmaction(norm),
        architecture=mmaction_architecture,
        computed=("data_preprocessor.{p}",),
        fix=fix,
        unfix=unfix,
    )


MMACTION_1 = of_mmaction("mmaction2 1.x", "norm3", (f"backbone.{BLOCK}", "backbone.norm3.{p}"))
MMACTION_0 = of_mmaction("its authors, mmaction 0.x", "norm", (f"backbone.{BLOCK}",))
