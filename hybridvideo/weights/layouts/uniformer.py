"""UniFormer (Li et al. 2022) as its authors publish it, video weights and the ImageNet ones they start from, and in
mmaction2's port.

Three things differ besides names:

- Convolutions of one position are linear layers here: (C', C, 1, 1, 1), of images (C', C, 1, 1), lose their ones.
- Image weights have 4-D convolutions, which the loader spreads evenly over the frames of a kernel, as the authors do.
- The 400 classes of Kinetics follow an order of their own: rows of a head of 400 are put into the alphabetical one.
  Heads of other sizes (ImageNet's, Kinetics-600's) are left alone, and mmaction2's, which is in that order already.

Channels of an attention head cannot be seen in the weights: 64 in all video weights and the plain image ones; image
weights trained with token labelling need `create_model(..., head_dim=32)`, or they load without complaint and score
badly. Those with an overlapped stem (UniFormer-S+) or layer scale (`gamma_1`) are other networks and are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from hybridvideo.models.published.uniformer import published
from hybridvideo.models.variants import Published
from hybridvideo.weights.label_order import UNIFORMER_KINETICS400, inverse
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, matched, numbers_of

NAMES = {(3, 4, 8, 3): "uniformer_small", (5, 8, 20, 7): "uniformer_base"}  # blocks of the stages -> model
HEAD = ("head.weight", "head.bias")


def stage_renames(theirs: str, ours: str, convolutional: bool) -> Renames:
    """Return the renames of the blocks of one stage."""
    parts = [("pos_embed", "position"), ("norm1", "norm"), ("norm2", "mlp_norm")]
    parts += [("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")]
    if convolutional:
        parts += [("conv1", "before"), ("attn", "conv"), ("conv2", "after")]
    else:
        parts += [("attn.qkv", "attention.qkv"), ("attn.proj", "attention.proj")]
    return tuple((f"{theirs}.{{i}}.{left}.{{p}}", f"{ours}.{{i}}.{right}.{{p}}") for left, right in parts)


RENAMES: Renames = (
    ("patch_embed1.proj.{p}", "stem.{p}"),
    ("patch_embed1.norm.{p}", "stem.norm.{p}"),
    *(
        row
        for i in range(3)
        for row in (
            (f"patch_embed{i + 2}.proj.{{p}}", f"downsamples.{i}.embed.{{p}}"),
            (f"patch_embed{i + 2}.norm.{{p}}", f"downsamples.{i}.norm.{{p}}"),
        )
    ),
    *(row for i in range(4) for row in stage_renames(f"blocks{i + 1}", f"stages.{i}", i < 2)),
    ("norm.{p}", "norm.{p}"),
    ("head.{p}", "head.{p}"),
)

BACKBONE = "backbone."
MMACTION_RENAMES: Renames = tuple(
    ("cls_head.fc_cls.{p}" if ours == "head.{p}" else BACKBONE + theirs, ours) for theirs, ours in RENAMES
)

# Weights of convolutions that see one position.
POINTWISE = tuple(f"blocks{s}.{{i}}.{part}.weight" for s in (1, 2) for part in ("conv1", "conv2", "mlp.fc1", "mlp.fc2"))


def architecture(state: State) -> Architecture:
    """Infer the variant from the number of blocks of each stage; other sizes become changes of depths and widths."""
    depths = tuple(len(numbers_of(f"blocks{s}.{{i}}.norm1.weight", state)) for s in range(1, 5))
    dims = tuple(len(state[f"patch_embed{s}.norm.weight"]) for s in range(1, 5))
    changes: dict[str, Any] = {} if dims == (64, 128, 320, 512) else {"dims": list(dims)}
    if depths in NAMES:
        return Architecture(NAMES[depths], changes)
    return Architecture("uniformer_small", {"depths": list(depths), **changes})


def matrices(state: State) -> State:
    """Turn pointwise convolutions into linear layers."""
    return {key: value.flatten(1) if is_pointwise(key) else value for key, value in state.items()}


def convolutions(state: State) -> State:
    """Turn linear layers into pointwise convolutions of a video network."""
    return {key: value[:, :, None, None, None] if is_pointwise(key) else value for key, value in state.items()}


def is_pointwise(key: str) -> bool:
    """Return whether one of their tensors is the weight of a pointwise convolution."""
    return any(matched(template, key.removeprefix(BACKBONE)) is not None for template in POINTWISE)


def reordered(state: State, order: Sequence[int]) -> State:
    """Reorder the rows of a head of 400 classes."""
    rows = list(order)
    return {key: value[rows] if is_kinetics400(key, value) else value for key, value in state.items()}


def is_kinetics400(key: str, value: Tensor) -> bool:
    """Return whether a tensor belongs to the classifier and has 400 classes."""
    return key in HEAD and len(value) == len(UNIFORMER_KINETICS400)


def of_mmaction(name: str) -> Published | None:
    """Return mmaction2's own figure for its port, which averages probabilities."""
    figures = {"uniformer_small": 80.9, "uniformer_base": 82.0}
    if name not in figures:
        return None
    by_authors = published(figures[name])
    views = replace(by_authors.views, average="softmax")
    return replace(by_authors, views=views, weights="github.com/open-mmlab/mmaction2")


UNIFORMER = Layout(
    name="UniFormer",
    family="UniFormer",
    signature=("blocks1.{i}.conv1.weight", "blocks3.{i}.attn.qkv.weight", "patch_embed1.proj.weight"),
    renames=RENAMES,
    architecture=architecture,
    fix=lambda state: reordered(matrices(state), UNIFORMER_KINETICS400),
    unfix=lambda state: reordered(convolutions(state), inverse(UNIFORMER_KINETICS400)),
)

MMACTION_UNIFORMER = Layout(
    name="UniFormer (mmaction2)",
    family="UniFormer",
    signature=tuple(BACKBONE + key for key in UNIFORMER.signature),
    renames=MMACTION_RENAMES,
    architecture=lambda state: architecture({key.removeprefix(BACKBONE): value for key, value in state.items()}),
    fix=matrices,
    unfix=convolutions,
    published=of_mmaction,
)
