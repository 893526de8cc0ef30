"""LeViTs of timm (`levit_*`, `levit_conv_*`) into hybrids of the same blocks.

Any width and depth loads. Paths in time start as identity, so a still clip, and one frame, yield the image network's
logits. Its two classifiers, the second for distillation, become the one that averages them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from hybridvideo.config.model import StageConfig, StemConfig
from hybridvideo.models.families.levit import levit, levit_base
from hybridvideo.parsing import plain
from hybridvideo.weights.layouts.inflate import inside_paths
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of, renamed

BLOCK = re.compile(r"stages\.(\d+)\.(?:blocks\.(\d+)|downsample)\.(.*)")
STEM = re.compile(r"stem\.conv(\d+)\.(linear|bn)\.(.*)")
LAYERS_PER_CONVOLUTION = 3  # convolution, norm, activation
EPS = 1e-5  # of BatchNorm

NORMED = {  # matrices followed by BatchNorm
    "attn.qkv": "attention.qkv",
    "attn.proj.ln": "attention.proj",
    "attn_downsample.kv": "attention.kv",
    "attn_downsample.q.ln": "attention.q",
    "attn_downsample.proj.ln": "attention.proj",
    "mlp.ln1": "mlp.fc1",
    "mlp.ln2": "mlp.fc2",
}
WITHIN: Renames = (
    *((f"{theirs}.linear.{{p}}", f"{ours}.linear.{{p}}") for theirs, ours in NORMED.items()),
    *((f"{theirs}.bn.{{p}}", f"{ours}.norm.{{p}}") for theirs, ours in NORMED.items()),
    ("attn.attention_biases", "attention.bias.bias_hHW"),
    ("attn_downsample.attention_biases", "attention.bias.bias_hHW"),
)
ENDS: Renames = (("head.bn.{p}", "head.norm.{p}"), ("head.linear.{p}", "head.classifier.{p}"))


def fix(state: State) -> State:
    """Rename and reshape all tensors."""
    state = with_one_head(state) if "head_dist.linear.weight" in state else state
    return {our_name(key): reshaped(key, value) for key, value in state.items()}


def our_name(key: str) -> str:
    """Return the name used here; a block that shrinks the grid is the first of its stage."""
    if found := STEM.fullmatch(key):
        layer = LAYERS_PER_CONVOLUTION * (int(found[1]) - 1) + (found[2] == "bn")
        return f"stem.stems.0.layers.{layer}.{found[3]}"
    if found := BLOCK.fullmatch(key):
        stage, block, rest = found.groups()
        index = 0 if block is None else int(block) + (stage != "0")
        return f"stages.{stage}.blocks.{index}.{renamed(rest, WITHIN)}"
    return renamed(key, ENDS)


def reshaped(key: str, value: Tensor) -> Tensor:
    """Return biases as a table of rows and columns, and 1x1 convolutions as matrices."""
    if key.endswith("attention_biases"):
        side = math.isqrt(value.shape[1])
        return value.reshape(-1, side, side)
    one_by_one = key.startswith("stages.") and value.ndim == 4
    return value.flatten(1) if one_by_one else value


def with_one_head(state: State) -> State:
    """Replace two classifiers, each behind a BatchNorm of its own, by the mean of their logits, exactly."""
    heads = [{key.removeprefix(f"{head}."): state[key].double() for key in keys_of(head, state)} for head in HEADS]
    mean, deviation = heads[0]["bn.running_mean"], (heads[0]["bn.running_var"] + EPS).sqrt()
    weight = torch.zeros_like(heads[0]["linear.weight"])
    bias = torch.zeros_like(heads[0]["linear.bias"])
    for head in heads:
        factor = head["bn.weight"] / (head["bn.running_var"] + EPS).sqrt()
        offset = (mean - head["bn.running_mean"]) * factor + head["bn.bias"]
        weight += head["linear.weight"] * factor * deviation / len(heads)
        bias += (head["linear.weight"] @ offset + head["linear.bias"]) / len(heads)
    kept = {key: value for key, value in state.items() if not key.startswith("head_dist.")}
    like = state["head.linear.weight"]
    one = {"bn.weight": torch.ones_like(mean), "bn.bias": torch.zeros_like(mean)}
    one |= {"linear.weight": weight, "linear.bias": bias}
    return kept | {f"head.{key}": value.to(like.dtype) for key, value in one.items()}


HEADS = ("head", "head_dist")


def keys_of(head: str, state: State) -> list[str]:
    """Return the names of a classifier's tensors."""
    return [key for key in state if key.startswith(f"{head}.") and not key.endswith("num_batches_tracked")]


# --- the model --------------------------------------------------------------------------------------------------------


def architecture(state: State) -> Architecture:
    """Infer the hybrid: `levit_base` with these widths, depths and heads."""
    convolutions = len(numbers_of("stem.conv{i}.linear.weight", state))
    depths = [len(numbers_of(f"stages.{s}.blocks.{{i}}.mlp.ln1.bn.weight", state)) for s in stages_of(state)]
    activation = activation_of(state, convolutions, depths)
    widths = tuple(state[f"stem.conv{i + 1}.linear.weight"].shape[0] for i in range(convolutions))
    stages = [stage_of(state, s, depth, activation) for s, depth in zip(stages_of(state), depths, strict=True)]
    side = math.isqrt(state["stages.0.blocks.0.attn.attention_biases"].shape[1]) * 2**convolutions
    changes: dict[str, Any] = {
        "stem": plain(StemConfig(widths=widths, norm="batch", activation=activation)),
        "stages": [plain(stage) for stage in stages],
        "norm": levit_base.norm,
        "head": plain(levit_base.head),
        "height": side,
        "width": side,
    }
    return Architecture("levit_base", changes)


def stages_of(state: Mapping[str, Tensor]) -> list[int]:
    """Return the numbers of the stages."""
    return numbers_of("stages.{i}.blocks.0.mlp.ln1.bn.weight", state)


def activation_of(state: State, convolutions: int, depths: list[int]) -> Literal["hard_swish", "silu"]:
    """Tell the activation, which no tensor shows, from the variants that timm has: the wider, deeper and finer."""
    wide = state["stages.0.blocks.0.mlp.ln1.linear.weight"].shape[1] >= 512
    return "silu" if wide or max(depths) > 4 or convolutions < 4 else "hard_swish"


def stage_of(state: State, stage: int, depth: int, activation: Literal["hard_swish", "silu"]) -> StageConfig:
    """Infer one stage."""
    block = f"stages.{stage}.blocks.0"
    heads = state[f"{block}.attn.attention_biases"].shape[0]
    hidden, dim = state[f"{block}.mlp.ln1.linear.weight"].shape[:2]
    values = state[f"{block}.attn.proj.ln.linear.weight"].shape[1] // heads
    key_dim = (state[f"{block}.attn.qkv.linear.weight"].shape[0] // heads - values) // 2
    shrinks = f"stages.{stage}.downsample.mlp.ln1.bn.weight" in state
    made = levit(dim, depth + shrinks, heads, key_dim, stride=2 if shrinks else 1)
    return replace(made, activation=activation, value_ratio=values / key_dim, mlp_ratio=hidden / dim)


IMAGE_LEVIT = Layout(
    name="2-D LeViT (timm)",
    family="Hybrid",
    signature=("stem.conv1.linear.weight", "stages.0.blocks.0.attn.attention_biases", "head.bn.weight"),
    renames=(),
    architecture=architecture,
    fix=fix,
    adapt=inside_paths,
    of_images=True,
)
