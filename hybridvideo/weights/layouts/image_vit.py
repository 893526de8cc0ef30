"""Image ViTs into TimeSformer and VideoMAE: timm (and all that share its names), torchvision, Hugging Face.

This is how the authors of TimeSformer start: patches of each frame as those of an image, temporal attention copied from
spatial attention, no time positions, and the layer after temporal attention freshly initialised, which adds nothing
except in the first block. The authors' weights for spatial attention alone also have timm's names.

VideoMAE has fixed positions and no class token: those of the image model are left out, and the patch embedding is
spread over the frames of a patch by `load_weights`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt
from typing import NamedTuple

import torch
from torch import Tensor

from hybridvideo.models.published.videomae import VIDEOMAES
from hybridvideo.models.variants import Variant
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of
from hybridvideo.weights.layouts.timesformer import Names, architecture, fixer, side_of, unfixer


class Naming(NamedTuple):
    """Names of the parts of a ViT in one code base; templates of weight and bias end in `{p}`."""

    name: str
    class_token: str
    positions: str
    embed: str
    block: str  # prefix of block {i}
    parts: tuple[str, str, str, str, str, str]  # of a block: norm, qkv, proj, norm, fc1, fc2
    norm: str
    head: str
    apart: tuple[str, str, str] | None = None  # q, k and v, if they are separate

    def names(self) -> Names:
        """Return the names of tensors that need more than renaming."""
        fc1 = f"{self.block}.{self.parts[4]}".replace("{p}", "weight")
        return Names(self.class_token, self.positions, self.embed.replace("{p}", "weight"), fc1)

    def signature(self) -> tuple[str, ...]:
        """Return class token and blocks, by their bias, which VideoMAE's own files have separately for q and v."""
        attention = self.apart[0] if self.apart else self.parts[1]
        blocks = (f"{self.block}.{part}".replace("{p}", "bias") for part in (attention, self.parts[4]))
        return (self.class_token, self.positions, *blocks)

    def renames(self, embed: str) -> Renames:
        """Return renames to the names used here; `embed` is the network's name for the patch embedding."""
        ours = ("attention_norm", "attention.qkv", "attention.proj", "mlp_norm", "mlp.fc1", "mlp.fc2")
        pairs = zip(self.parts, ours, strict=True)
        blocks = ((f"{self.block}.{left}", f"blocks.{{i}}.{right}.{{p}}") for left, right in pairs)
        ends = ((self.embed, f"{embed}.{{p}}"), (self.norm, "norm.{p}"), (self.head, "classifier.{p}"))
        return (*blocks, *ends)

    def joined(self, state: State) -> State:
        """Join q, k and v."""
        if self.apart is None:
            return dict(state)
        state, (_, qkv, *_) = dict(state), self.parts
        for i in numbers_of(f"{self.block}.{self.apart[0]}".replace("{p}", "bias"), state):
            for kind in ("weight", "bias"):
                three = (f"{self.block}.{part}".format(i=i, p=kind) for part in self.apart)
                state[f"{self.block}.{qkv}".format(i=i, p=kind)] = torch.cat([state.pop(key) for key in three])
        return state

    def parted(self, state: State) -> State:
        """Undo `joined`."""
        if self.apart is None:
            return dict(state)
        state, (_, qkv, *_) = dict(state), self.parts
        for i in numbers_of(f"{self.block}.{qkv}".replace("{p}", "bias"), state):
            for kind in ("weight", "bias"):
                thirds = state.pop(f"{self.block}.{qkv}".format(i=i, p=kind)).chunk(3)
                for part, third in zip(self.apart, thirds, strict=True):
                    state[f"{self.block}.{part}".format(i=i, p=kind)] = third.clone()
        return state


TIMM = Naming(
    "image ViT (timm)",
    "cls_token",
    "pos_embed",
    "patch_embed.proj.{p}",
    "blocks.{i}",
    ("norm1.{p}", "attn.qkv.{p}", "attn.proj.{p}", "norm2.{p}", "mlp.fc1.{p}", "mlp.fc2.{p}"),
    "norm.{p}",
    "head.{p}",
)


def torchvision_naming(first: str, second: str) -> Naming:
    """Return the naming for the names of the MLP's layers, which differ between files and models in memory."""
    attention = ("ln_1.{p}", "self_attention.in_proj_{p}", "self_attention.out_proj.{p}", "ln_2.{p}")
    return Naming(
        "image ViT (torchvision)",
        "class_token",
        "encoder.pos_embedding",
        "conv_proj.{p}",
        "encoder.layers.encoder_layer_{i}",
        (*attention, f"mlp.{first}.{{p}}", f"mlp.{second}.{{p}}"),
        "encoder.ln.{p}",
        "heads.head.{p}",
    )


def hugging_face_naming(block: str, apart: tuple[str, str, str], proj: str, fc1: str, fc2: str) -> Naming:
    """Return the naming of files and of transformers before 5, or of models in memory since."""
    start = "vit.embeddings"
    parts = ("layernorm_before.{p}", "attention.qkv.{p}", proj, "layernorm_after.{p}", fc1, fc2)
    return Naming(
        "image ViT (Hugging Face)",
        f"{start}.cls_token",
        f"{start}.position_embeddings",
        f"{start}.patch_embeddings.projection.{{p}}",
        block,
        parts,
        "vit.layernorm.{p}",
        "classifier.{p}",
        apart,
    )


FILES = ("attention.attention.query.{p}", "attention.attention.key.{p}", "attention.attention.value.{p}")
MEMORY = ("attention.q_proj.{p}", "attention.k_proj.{p}", "attention.v_proj.{p}")
NAMINGS = (
    TIMM,
    torchvision_naming("0", "3"),
    torchvision_naming("linear_1", "linear_2"),
    hugging_face_naming(
        "vit.encoder.layer.{i}", FILES, "attention.output.dense.{p}", "intermediate.dense.{p}", "output.dense.{p}"
    ),
    hugging_face_naming("vit.layers.{i}", MEMORY, "attention.o_proj.{p}", "mlp.fc1.{p}", "mlp.fc2.{p}"),
)


def with_time(state: State, own: Mapping[str, Tensor]) -> State:
    """Fill in what a TimeSformer has and an image model lacks."""
    filled = dict(state)
    for name, value in own.items():
        block, temporal, part = name.partition(".temporal.")
        if name == "position.time_CT":
            filled.setdefault(name, torch.zeros_like(value))
        elif temporal and part.startswith("linear."):
            filled.setdefault(name, value)
        elif temporal:
            spatial = f"{block}.attention_{part}" if part.startswith("norm.") else f"{block}.attention.{part}"
            filled.setdefault(name, state[spatial].clone())
    return filled


# Layer scale, a norm before the blocks, registers, a norm of the mean of the positions, distillation.
OF_HYBRIDS = ("ls1.gamma", "norm_pre.weight", "reg_token", "fc_norm.weight", "dist_token")


def is_plain(naming: Naming) -> Callable[[Mapping[str, Tensor]], bool]:
    """Return whether TimeSformer has all parts: others, and tables without the class token, are for hybrids."""

    def accepts(state: Mapping[str, Tensor]) -> bool:
        if state[naming.positions].ndim < 2:  # damaged; the one that loads it will say so
            return True
        places = state[naming.positions].shape[-2]
        return isqrt(places) ** 2 != places and not any(key.endswith(OF_HYBRIDS) for key in state)

    return accepts


def into_timesformer(naming: Naming) -> Layout:
    """Return the layout of one naming for TimeSformer."""
    names = naming.names()
    fix, unfix = fixer(names), unfixer(names)
    tables = (
        (names.class_token, "class_token"),
        (f"{names.positions}.first", "class_position"),
        (f"{names.positions}.rest", "position.space_CHW"),
    )
    return Layout(
        name=naming.name,
        family="TimeSformer",
        signature=naming.signature(),
        renames=(*tables, *naming.renames("embed")),
        architecture=architecture(names),
        fix=lambda state: fix(naming.joined(state)),
        unfix=lambda state: naming.parted(unfix(state)),
        adapt=with_time,
        accepts=is_plain(naming),
    )


def into_videomae(naming: Naming) -> Layout:
    """Return the layout of one naming for VideoMAE."""
    return Layout(
        name=naming.name,
        family="VideoMAE",
        signature=naming.signature(),
        renames=naming.renames("patches"),
        architecture=videomae_of(naming.names()),
        computed=(naming.class_token, naming.positions),
        fix=naming.joined,
        unfix=naming.parted,
    )


def videomae_of(names: Names) -> Callable[[State], Architecture]:
    """Return a function that infers the VideoMAE of the same width, depth and image size."""

    def read(state: State) -> Architecture:
        dim, _, _, patch = state[names.patch].shape
        blocks = numbers_of(names.fc1, state)
        side = patch * side_of(state[names.positions][0])
        size = {"dim": dim, "depth": len(blocks), "heads": max(1, dim // 64)}
        ratio = state[names.fc1.format(i=blocks[0])].shape[0] / dim
        changes = size | {"height": side, "width": side, "patch": (2, patch, patch), "mlp_ratio": ratio}
        for name, variant in VIDEOMAES.items():
            if isinstance(variant, Variant) and (variant.config.dim, variant.config.depth) == (dim, len(blocks)):
                return Architecture(name, changes | {"heads": variant.config.heads})
        return Architecture("videomae_base", changes)

    return read


INTO_TIMESFORMER = tuple(map(into_timesformer, NAMINGS))
INTO_VIDEOMAE = tuple(map(into_videomae, NAMINGS))
