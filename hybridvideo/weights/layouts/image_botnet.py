"""BoTNets of timm (`botnet26t_256`, `botnet50ts_256`), and bottlenecks of ResNets, into the hybrids of the same blocks.

What comes before the first stage with attention is the stem. Offsets in time start at zero and paths in time as
identity, so a still clip, and one frame, yield the image network's logits.

A ResNet fills a stem by itself (see `image_cnn`); if bottlenecks of the same widths follow, it fills these too, but for
the attention, which it does not have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig, StemConfig
from hybridvideo.models.families.botnet import attending, botnet_base, convolving
from hybridvideo.models.parts.bottleneck import Bottleneck
from hybridvideo.parsing import plain
from hybridvideo.weights.layouts.inflate import inside_paths
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, renamed

BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(.*)")
WITHIN: Renames = (
    ("conv1_1x1.conv.{p}", "conv1.{p}"),
    ("conv1_1x1.bn.{p}", "norm1.{p}"),
    ("conv2_kxk.conv.{p}", "middle.{p}"),
    ("conv2_kxk.bn.{p}", "norm2.{p}"),
    ("self_attn.qkv.{p}", "middle.attention.qkv.{p}"),
    ("self_attn.pos_embed.height_rel", "middle.attention.rows_CR"),
    ("self_attn.pos_embed.width_rel", "middle.attention.columns_CR"),
    ("post_attn.{p}", "norm2.{p}"),
    ("conv3_1x1.conv.{p}", "conv3.{p}"),
    ("conv3_1x1.bn.{p}", "norm3.{p}"),
    ("shortcut.conv.{p}", "shortcut.conv.{p}"),
    ("shortcut.bn.{p}", "shortcut.norm.{p}"),
)
STRIDE = 4  # of the first stage
TRUNK = "stem.stems.0.trunk.model."
HEAD: Renames = (("head.fc.{p}", "head.classifier.{p}"),)


class Place(NamedTuple):
    """A block of timm's network."""

    stage: int
    block: int
    attends: bool


def blocks_of(state: Mapping[str, Tensor]) -> list[Place]:
    """Return all blocks in order."""
    found = {(int(match[1]), int(match[2])) for key in state if (match := BLOCK.fullmatch(key))}
    return [Place(*place, f"stages.{place[0]}.{place[1]}.self_attn.qkv.weight" in state) for place in sorted(found)]


def runs_of(state: Mapping[str, Tensor]) -> list[list[Place]]:
    """Return the blocks from the first stage with attention on, in runs of one kind: the stages here."""
    blocks = blocks_of(state)
    first = min(block.stage for block in blocks if block.attends)
    after = [block for block in blocks if block.stage >= first]
    return [list(run) for _, run in groupby(after, key=lambda block: (block.stage, block.attends))]


def fix(state: State) -> State:
    """Rename and reshape all tensors."""
    places = {block[:2]: (i, j) for i, run in enumerate(runs_of(state)) for j, block in enumerate(run)}
    fixed = {}
    for key, value in state.items():
        match = BLOCK.fullmatch(key)
        place = places.get((int(match[1]), int(match[2]))) if match else None
        if match and place:
            name = f"stages.{place[0]}.blocks.{place[1]}.{renamed(match[3], WITHIN)}"
            fixed[name] = reshaped(name, value)
        else:
            fixed[renamed(key, HEAD) if key.startswith("head.") else f"{TRUNK}{key}"] = value
    return fixed


def reshaped(name: str, value: Tensor) -> Tensor:
    """Return tables with offsets last, and 1x1 convolutions as matrices."""
    if name.endswith("_CR"):
        return value.t()
    return value.flatten(1) if value.ndim == 4 and value.shape[2:] == (1, 1) else value


def adapt(state: State, own: Mapping[str, Tensor]) -> State:
    """Add offsets in time that make no difference."""
    zeros = {name: torch.zeros_like(table) for name, table in own.items() if name.endswith("frames_CR")}
    return zeros | inside_paths(state, own)


def architecture(state: State) -> Architecture:
    """Infer the hybrid: `botnet_base` with these blocks."""
    runs = runs_of(state)
    deep = len(blocks_of(state)) > 8
    stem = StemConfig(
        "timm/botnet50ts_256" if deep else "timm/botnet26t_256", stride=STRIDE * 2 ** (runs[0][0].stage - 1)
    )
    stages = [replace(stage_of(state, run), activation="silu" if deep else "relu") for run in runs]
    changes: dict[str, Any] = {
        "stem": plain(stem),
        "stages": [plain(stage) for stage in stages],
        "norm": botnet_base.norm,
        "head": plain(botnet_base.head),
        "height": side_of(state, "height_rel"),
        "width": side_of(state, "width_rel"),
    }
    return Architecture("botnet_base", changes)


def side_of(state: State, table: str) -> int:
    """Return the frame's side in pixels, from the table of offsets in the first block with attention."""
    stage, block, _ = next(place for place in blocks_of(state) if place.attends)
    offsets = state[f"stages.{stage}.{block}.self_attn.pos_embed.{table}"].shape[0]
    stride = STRIDE * 2 ** (stage if block else stage - 1)  # a first block attends before it shrinks the grid
    return (offsets + 1) // 2 * stride


def stage_of(state: State, run: list[Place]) -> StageConfig:
    """Infer one stage."""
    first = run[0]
    dim = state[f"stages.{first.stage}.{first.block}.conv3_1x1.conv.weight"].shape[0]
    build = attending if first.attends else convolving
    return build(dim, len(run), stride=1 if first.block else 2)


def is_plain(state: Mapping[str, Tensor]) -> bool:
    """Return whether no block has channel attention or grouped convolutions, and no layer follows the last block."""
    grouped = (
        value.shape[0] != value.shape[1] for key, value in state.items() if key.endswith("conv2_kxk.conv.weight")
    )
    return not any(".attn." in key or key.startswith("final_conv") for key in state) and not any(grouped)


IMAGE_BOTNET = Layout(
    name="2-D BoTNet (timm)",
    family="Hybrid",
    signature=("stem.conv1.conv.weight", "stages.{i}.{j}.self_attn.qkv.weight", "head.fc.weight"),
    renames=(),
    architecture=architecture,
    fix=fix,
    adapt=adapt,
    accepts=is_plain,
    of_images=True,
)


# --- bottlenecks of a ResNet ------------------------------------------------------------------------------------------

RESNET_BLOCK = re.compile(r"layer(\d+)\.(\d+)\.(.*)")
RESNET: Renames = (
    ("conv2.{p}", "middle.{p}"),
    *((f"conv{i}.{{p}}", f"conv{i}.{{p}}") for i in (1, 3)),
    *((f"bn{i}.{{p}}", f"norm{i}.{{p}}") for i in (1, 2, 3)),
    ("downsample.0.{p}", "shortcut.conv.{p}"),
    ("downsample.1.{p}", "shortcut.norm.{p}"),
)


def bottlenecks(state: Mapping[str, Tensor], model: nn.Module, stem: Collection[str]) -> dict[str, str]:
    """Return which tensors of a ResNet, after those that its stem takes, fill which of a model's bottlenecks.

    None unless they are as many and of the same widths.
    """
    ours = [(name, module.state_dict()) for name, module in model.named_modules() if isinstance(module, Bottleneck)]
    found = {key: match for key in state if key not in stem and (match := RESNET_BLOCK.fullmatch(key))}
    theirs = sorted({(int(match[1]), int(match[2])) for match in found.values()})
    if len(ours) != len(theirs):
        return {}
    names = {}
    for key, match in found.items():
        prefix, own = ours[theirs.index((int(match[1]), int(match[2])))]
        name = renamed(match[3], RESNET)
        if name in own and own[name].shape[:2] != state[key].shape[:2]:
            return {}
        if name in own:
            names[key] = f"{prefix}.{name}"
    return names
