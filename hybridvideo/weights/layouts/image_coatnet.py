"""CoAtNets of timm (`coatnet_*`) into hybrids of the same blocks; what MaxViT shares with them is here too.

Space is the image network's own, so any width and depth loads. In time, bias tables are repeated, kernels get their
weights at the frame in the centre, and paths in time start as identity: a still clip, and one frame, yield the image
network's logits.

The tensors do not tell everything: activations, and where some forms pool, are known from the variants published.
timm's blocks with ConvNeXt convolutions (`coatnext_*`, `maxxvit_*`) are other networks and not recognised.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.config.model import FormConfig, HeadConfig, StageConfig, StemConfig
from hybridvideo.models.families.coatnet import HEAD_DIM, attention, convolution
from hybridvideo.parsing import plain
from hybridvideo.weights.layouts.inflate import inside_paths
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, renamed

ENDS: Renames = (
    ("stem.conv1.{p}", "stem.stems.0.conv1.{p}"),
    ("stem.norm1.{p}", "stem.stems.0.norm.{p}"),
    ("stem.conv2.{p}", "stem.stems.0.conv2.{p}"),
    ("norm.{p}", "norm.{p}"),
    ("head.norm.{p}", "head.norm.{p}"),
    ("head.pre_logits.fc.{p}", "head.hidden.0.{p}"),
    ("head.fc.{p}", "head.classifier.{p}"),
)
CONVOLUTION: Renames = (
    ("shortcut.expand.{p}", "shortcut.1.{p}"),
    ("pre_norm.{p}", "norm.{p}"),
    ("conv1_1x1.{p}", "expand.{p}"),
    ("norm1.{p}", "expand_norm.{p}"),
    ("conv2_kxk.{p}", "conv.{p}"),
    ("norm2.{p}", "conv_norm.{p}"),
    ("se.{layer}1.{p}", "squeeze.fc1.{p}"),
    ("se.{layer}2.{p}", "squeeze.fc2.{p}"),
    ("se_early.{layer}1.{p}", "squeeze.fc1.{p}"),
    ("se_early.{layer}2.{p}", "squeeze.fc2.{p}"),
    ("conv3_1x1.{p}", "project.{p}"),
)
ATTENTION: Renames = (
    ("shortcut.expand.{p}", "shortcut.1.{p}"),
    ("norm1.norm.{p}", "norm.{p}"),
    ("norm1.{p}", "norm.{p}"),
    ("attn.qkv.{p}", "attention.qkv.{p}"),
    ("attn.proj.{p}", "attention.proj.{p}"),
    ("attn.rel_pos.relative_position_bias_table", "attention.relative.bias_table"),
    ("attn.rel_pos.mlp.fc1.{p}", "attention.relative.offsets.fc1.{p}"),
    ("attn.rel_pos.mlp.fc2.{p}", "attention.relative.offsets.fc2.{p}"),
    ("ls1.gamma", "scale.scale_C"),
    ("norm2.{p}", "mlp.norm.{p}"),
    ("mlp.fc1.{p}", "mlp.inner.fc1.{p}"),
    ("mlp.fc2.{p}", "mlp.inner.fc2.{p}"),
    ("ls2.gamma", "mlp.scale.scale_C"),
)


def partition(theirs: str, ours: str) -> Renames:
    """Rename one of MaxViT's two attentions, a branch here, as is its MLP, which has its own name."""
    rows = ((left, right.replace("attention.", "inner.").replace("relative.", "")) for left, right in ATTENTION[2:])
    return tuple(
        (f"{theirs}.{left}", f"{ours}{'_' if right.startswith('mlp.') else '.'}{right}") for left, right in rows
    )


BLOCKS: dict[str, Renames] = {
    "C": CONVOLUTION,
    "T": ATTENTION,
    "M": (
        *((f"conv.{left}", f"conv.{right}") for left, right in CONVOLUTION),
        *partition("attn_block", "window"),
        *partition("attn_grid", "grid"),
    ),
}
MARKS = {"C": "conv3_1x1.weight", "T": "attn.qkv.weight", "M": "attn_grid.attn.qkv.weight"}  # of a block's kind
STAGES = 4
BLOCK = re.compile(r"stages\.(\d+)\.blocks\.(\d+)\.(.*)")
OFFSET_LAYERS = ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")
# Layers that a form may have without bias; zero is the same.
BIASES = ("stem.stems.0.conv1.bias", "stem.stems.0.conv2.bias", "shortcut.1.bias", "project.bias")


# --- names and shapes -------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Blocks of one kind that follow each other in one of timm's stages: a stage here."""

    kind: str
    first: str
    """Prefix of its first block's keys."""
    depth: int
    halves: bool
    """Whether its first block is the first of timm's stage, which has stride 2."""


def runs_of(state: Mapping[str, Tensor]) -> list[Run]:
    """Return the runs in order."""
    runs: list[Run] = []
    for stage in range(STAGES):
        for block in range(depth_of(stage, state)):
            prefix = f"stages.{stage}.blocks.{block}."
            kind = next(kind for kind, mark in MARKS.items() if f"{prefix}{mark}" in state)
            if block and kind == runs[-1].kind:
                runs[-1] = runs[-1]._replace(depth=runs[-1].depth + 1)
            else:
                runs.append(Run(kind, prefix, 1, block == 0))
    return runs


def depth_of(stage: int, state: Mapping[str, Tensor]) -> int:
    """Return the number of blocks in one of timm's stages. Raises KeyError if one in between is missing."""
    found = (BLOCK.fullmatch(key) for key in state)
    blocks = {int(match[2]) for match in found if match and int(match[1]) == stage}
    return max(blocks, default=-1) + 1


def fix(state: State) -> State:
    """Rename and reshape all tensors: which name a tensor has depends on the kind of its block."""
    runs = runs_of(state)
    fixed = {}
    for key, value in state.items():
        match = BLOCK.fullmatch(key)
        if match is None:
            fixed[renamed(key, ENDS)] = value
            continue
        stage, index = place_of(runs, int(match[1]), int(match[2]))
        name = renamed(match[3], BLOCKS[runs[stage].kind])
        interleaved = "stem.conv1.bias" in state  # q, k and v of TensorFlow's weights; the others are head by head
        fixed[f"stages.{stage}.blocks.{index}.{name}"] = reshaped(name, value, not interleaved)
    return fixed


def place_of(runs: list[Run], stage: int, block: int) -> tuple[int, int]:
    """Return the stage and the index that a block of timm's has here."""
    for i, run in enumerate(runs):
        match = BLOCK.fullmatch(run.first)
        assert match is not None
        if int(match[1]) == stage and int(match[2]) <= block < int(match[2]) + run.depth:
            return i, block - int(match[2])
    raise KeyError(f"stages.{stage}.blocks.{block}")


def reshaped(name: str, value: Tensor, by_head: bool) -> Tensor:
    """Return a tensor of a block in the shape used here."""
    if name.endswith("bias_table"):
        return table_of(value)
    if value.ndim == 4 and value.shape[2:] == (1, 1):
        value = value[:, :, 0, 0]
    if ".qkv." in f".{name}" and by_head:
        rows = value.unflatten(0, (-1, 3, HEAD_DIM))
        return rows.transpose(0, 1).flatten(0, 2)
    return value


def table_of(value: Tensor) -> Tensor:
    """Return a table (1, 2h - 1, 2w - 1, heads) of the offset from key to query."""
    if value.ndim == 3:  # TensorFlow's, of the offset from query to key
        return value.permute(1, 2, 0)[None].flip(1, 2)
    side = math.isqrt(value.shape[0])
    return value.reshape(1, side, side, -1)


# --- what an image network lacks --------------------------------------------------------------------------------------


def adapt(state: State, own: Mapping[str, Tensor]) -> State:
    """Fill in what the model has and these weights lack, under the model's names."""
    adapted: State = {}
    for name, value in inside_paths(state, own).items():
        if name in own and own[name].ndim == 5 and value.ndim == 4:
            value = centred(value, own[name])
        adapted[name] = value
    for name in own.keys() - adapted.keys():
        if name.endswith(BIASES):
            adapted[name] = torch.zeros_like(own[name])
        offsets = name.replace("bias_table", "offsets.")
        if f"{offsets}fc1.weight" in adapted:
            layers = [adapted.pop(f"{offsets}{layer}") for layer in OFFSET_LAYERS]
            adapted[name] = computed_table(layers, own[name])
    return adapted


def centred(kernel: Tensor, own: Tensor) -> Tensor:
    """Return a kernel of the model's shape with the image network's in the frame at the centre."""
    deep = torch.zeros_like(own, dtype=kernel.dtype, device=kernel.device)
    deep[:, :, own.shape[2] // 2] = kernel
    return deep


def computed_table(layers: list[Tensor], own: Tensor) -> Tensor:
    """Return the bias that timm's MLP of the offset has for each offset of the model's table."""
    w1, b1, w2, b2 = (layer.float() for layer in layers)
    T, H, W, _ = own.shape
    axes = [torch.arange(-(side // 2), side // 2 + 1, dtype=torch.float32, device=w1.device) for side in (H, W)]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    logarithms = offsets.sign() * (1 + offsets.abs()).log()
    table_HWh = F.linear(F.linear(logarithms, w1, b1).relu(), w2, b2)
    return table_HWh.expand(T, -1, -1, -1)


# --- the model --------------------------------------------------------------------------------------------------------

# Width of the first stage, depths, and whether the bias is an MLP's: the forms that pool where others have a stride.
POOLED = (
    (64, (3, 4, 6, 3), False),  # coatnet_nano_rw, coatnet_nano_cc
    (96, (2, 3, 7, 2), False),  # coatnet_0_rw
    (96, (2, 6, 14, 2), True),  # coatnet_rmlp_1_rw
    (32, (1, 1, 2, 1), False),  # test_coatnet
)


def form_of(state: State) -> FormConfig:
    """Infer the form of convolutions and, for CoAtNet, attention."""
    runs = runs_of(state)
    inner = "conv." if runs[0].kind == "M" else ""
    _, hidden, out = widths_of(state, f"stages.1.blocks.0.{inner}")
    squeeze = next(key for key in state if re.fullmatch(rf"stages\.1\.blocks\.0\.{inner}se\w*\.fc1\.weight", key))
    expand_in = hidden != 4 * out
    form = FormConfig(
        expand="in" if expand_in else "out",
        activation="silu" if expand_in else "gelu",
        squeeze=state[squeeze].shape[0] / hidden,
        squeeze_first="se_early" in squeeze,
    )
    if "stem.conv1.bias" in state:
        return replace(form, activation="gelu_tanh", padding="same", batch_eps=1e-3)
    first_form = expand_in and not inner and "stages.1.blocks.0.conv3_1x1.bias" not in state
    if first_form:
        small = widths_of(state, "stages.0.blocks.0.")[2] < 128
        form = replace(form, activate_first=True, squeeze_activation="relu" if small else "silu")
    return with_pooling(state, form)


def with_pooling(state: State, form: FormConfig) -> FormConfig:
    """Add where a form pools, which its tensors do not tell."""
    depths = tuple(depth_of(stage, state) for stage in range(STAGES))
    computed = any("rel_pos.mlp" in key for key in state)
    dim = state["stages.0.blocks.0.conv3_1x1.weight"].shape[0] if "stages.0.blocks.0.conv3_1x1.weight" in state else 0
    early = form.squeeze_first or not computed
    if (dim, depths, computed) not in POOLED or form.expand == "out" or not early or has_batch_norm(state):
        return form
    return replace(form, shrink="pool", pool="max" if computed else "mean")


def has_batch_norm(state: State) -> bool:
    """Return whether attention is normed by batch, not by layer."""
    return any(key.endswith("norm1.norm.running_mean") for key in state)


def widths_of(state: State, block: str) -> tuple[int, int, int]:
    """Return the channels before, in and after an inverted bottleneck."""
    hidden, into = state[f"{block}conv1_1x1.weight"].shape[:2]
    return into, hidden, state[f"{block}conv3_1x1.weight"].shape[0]


def common_changes(state: State, form: FormConfig, norm: str = "layer") -> dict[str, Any]:
    """Infer stem, last norm and head."""
    widths = (state["stem.conv1.weight"].shape[0], state["stem.conv2.weight"].shape[0])
    stem = StemConfig(
        "coatnet", widths=widths, activation=form.activation, norm_eps=form.batch_eps, padding=form.padding
    )
    eps = 1e-5 if form.padding == "same" else 1e-6
    hidden = state["head.pre_logits.fc.weight"].shape[0] if "head.pre_logits.fc.weight" in state else 0
    head = HeadConfig(norm="layer" if hidden else "none", norm_eps=eps, hidden=hidden, activation="tanh")
    head = head if hidden else HeadConfig(norm="none")
    return {"stem": plain(stem), "norm": "none" if hidden else norm, "norm_eps": eps, "head": plain(head)}


def coatnet_architecture(state: State) -> Architecture:
    """Infer the hybrid: `coatnet_base` with these widths and depths."""
    form, runs = form_of(state), runs_of(state)
    norm = "batch" if has_batch_norm(state) else "layer"
    stages = [stage_of(state, run, form, norm, run is runs[-1]) for run in runs]
    changes = {**common_changes(state, form, norm), "stages": [plain(stage) for stage in stages]}
    tables = [value for key, value in state.items() if key.endswith("relative_position_bias_table")]
    side = 16 * (math.isqrt(tables[-1].shape[0]) + 1) if tables else 224
    return Architecture("coatnet_base", changes | {"height": side, "width": side})


def stage_of(state: State, run: Run, form: FormConfig, norm: str, last: bool) -> StageConfig:
    """Infer one stage; the last, with few positions, attends to the whole clip."""
    stride = 2 if run.halves else 1
    if run.kind == "C":
        dim = widths_of(state, run.first)[2]
        return replace(convolution(run.depth, dim, form), stride=stride)
    dim = state[f"{run.first}attn.proj.weight"].shape[0]
    scaled = 1e-6 if f"{run.first}ls1.gamma" in state else None
    stage = attention(run.depth, dim, form, "joint" if last else "spatial", norm)
    return replace(stage, stride=stride, layer_scale=scaled)


IMAGE_COATNET = Layout(
    name="2-D CoAtNet (timm)",
    family="Hybrid",
    signature=(
        "stem.norm1.running_mean",
        "stages.{s}.blocks.{b}.conv1_1x1.weight",
        "stages.{s}.blocks.{b}.conv3_1x1.weight",
        "stages.{s}.blocks.{b}.attn.qkv.weight",
    ),
    renames=(),
    architecture=coatnet_architecture,
    fix=fix,
    adapt=adapt,
    of_images=True,
)
