"""MobileViTs of timm (`mobilevit_*`) into hybrids of the same blocks.

The stem is timm's up to stride 4. Attention through the frames starts as identity, so a still clip, and one frame,
yield the image network's logits; so they do if attention is joint instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from hybridvideo.config.model import StageConfig, StemConfig
from hybridvideo.models.families.mobilevit import inverted, mobilevit_base, patches, pointwise
from hybridvideo.parsing import plain
from hybridvideo.weights.layouts.inflate import inside_paths
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of, renamed

BLOCK = re.compile(r"stages\.(\d+)\.(\d+)\.(.*)")
ATTENTION = re.compile(r"(.*\.blocks\.\d+\.branches\.)0(\..*)")
IN_STEM = 2  # stages
TRUNK = "stem.stems.0.trunk.model."
WITHIN: Renames = (
    *((f"conv{i}_{size}.conv.{{p}}", f"conv{i}.{{p}}") for i, size in ((1, "1x1"), (2, "kxk"), (3, "1x1"))),
    *((f"conv{i}_{size}.bn.{{p}}", f"norm{i}.{{p}}") for i, size in ((1, "1x1"), (2, "kxk"), (3, "1x1"))),
    ("conv_kxk.conv.{p}", "local.{p}"),
    ("conv_kxk.bn.{p}", "local_norm.{p}"),
    ("conv_1x1.{p}", "widen.{p}"),
    ("transformer.{i}.norm1.{p}", "blocks.{i}.branches.0.norm.{p}"),
    ("transformer.{i}.attn.qkv.{p}", "blocks.{i}.branches.0.inner.qkv.{p}"),
    ("transformer.{i}.attn.proj.{p}", "blocks.{i}.branches.0.inner.proj.{p}"),
    ("transformer.{i}.norm2.{p}", "blocks.{i}.mlp.norm.{p}"),
    ("transformer.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.inner.fc1.{p}"),
    ("transformer.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.inner.fc2.{p}"),
    ("norm.{p}", "norm.{p}"),
    ("conv_proj.conv.{p}", "narrow.{p}"),
    ("conv_proj.bn.{p}", "narrow_norm.{p}"),
    ("conv_fusion.conv.{p}", "fuse.{p}"),
    ("conv_fusion.bn.{p}", "fuse_norm.{p}"),
)
LAST: Renames = (("final_conv.conv.{p}", "conv.{p}"), ("final_conv.bn.{p}", "norm.{p}"))
HEAD: Renames = (("head.fc.{p}", "head.classifier.{p}"),)
# Width of the second of the stem's stages -> its network, by which the stem is known.
STEMS = {24: "mobilevit_xxs", 48: "mobilevit_xs", 64: "mobilevit_s"}


def fix(state: State) -> State:
    """Rename and reshape all tensors; each block after the stem is a stage here."""
    places = {place: i for i, place in enumerate(blocks_of(state))}
    fixed = {}
    for key, value in state.items():
        match = BLOCK.fullmatch(key)
        stage = places.get((int(match[1]), int(match[2]))) if match else None
        if key.startswith("final_conv."):
            name = f"stages.{len(places)}.blocks.0.{renamed(key, LAST)}"
        elif match and stage is not None:
            name = f"stages.{stage}.blocks.0.{renamed(match[3], WITHIN)}"
        else:
            fixed[renamed(key, HEAD) if key.startswith("head.") else f"{TRUNK}{key}"] = value
            continue
        one_by_one = value.ndim == 4 and value.shape[2:] == (1, 1)
        fixed[name] = value.flatten(1) if one_by_one else value
    return fixed


def blocks_of(state: Mapping[str, Tensor]) -> list[tuple[int, int]]:
    """Return the stage and the index of each block after the stem."""
    found = {(int(match[1]), int(match[2])) for key in state if (match := BLOCK.fullmatch(key))}
    return sorted(place for place in found if place[0] >= IN_STEM)


def adapt(state: State, own: Mapping[str, Tensor]) -> State:
    """Leave the first of two attentions to time, if there are two."""
    return inside_paths({second(name, own): value for name, value in state.items()}, own)


def second(name: str, own: Mapping[str, Tensor]) -> str:
    """Return the name of attention within a frame, which follows attention through the frames."""
    later = ATTENTION.sub(r"\g<1>1\g<2>", name)
    return later if later in own else name


def architecture(state: State) -> Architecture:
    """Infer the hybrid: `mobilevit_base` with these blocks."""
    name = STEMS[state["stages.1.0.conv3_1x1.conv.weight"].shape[0]]
    stages = [stage_of(state, *place) for place in blocks_of(state)]
    stages.append(pointwise(state["final_conv.conv.weight"].shape[0]))
    changes: dict[str, Any] = {
        "stem": plain(StemConfig(f"timm/{name}", stride=4)),
        "stages": [plain(stage) for stage in stages],
        "norm": mobilevit_base.norm,
        "head": plain(mobilevit_base.head),
    }
    return Architecture("mobilevit_base", changes)


def stage_of(state: State, stage: int, index: int) -> StageConfig:
    """Infer one stage."""
    block = f"stages.{stage}.{index}"
    if f"{block}.conv_kxk.conv.weight" in state:
        hidden, width = state[f"{block}.transformer.0.mlp.fc1.weight"].shape
        depth = len(numbers_of(f"{block}.transformer.{{i}}.norm1.weight", state))
        return replace(patches(width, depth), mlp_ratio=hidden / width)
    hidden, before = state[f"{block}.conv1_1x1.conv.weight"].shape[:2]
    made = inverted(state[f"{block}.conv3_1x1.conv.weight"].shape[0], stride=1 if index else 2)
    return replace(made, mlp_ratio=hidden / before)


def is_plain(state: Mapping[str, Tensor]) -> bool:
    """Return whether no block has channel attention."""
    return not any(re.fullmatch(r"stages\.\d+\.\d+\.attn\..*", key) for key in state)


IMAGE_MOBILEVIT = Layout(
    name="2-D MobileViT (timm)",
    family="Hybrid",
    signature=("stem.conv.weight", "stages.{i}.{j}.conv_fusion.conv.weight", "final_conv.conv.weight"),
    renames=(),
    architecture=architecture,
    fix=fix,
    adapt=adapt,
    accepts=is_plain,
    of_images=True,
)
