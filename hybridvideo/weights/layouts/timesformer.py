"""TimeSformer by its authors (.pyth) and by Hugging Face: the same tensors under two sets of names.

Their single position table holds the class token's position first, then the places in rows; here the two are separate.
Weights of attention within frames alone have exactly the authors' keys of an image ViT: `image_vit` reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import NamedTuple

import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.published.timesformer import TIMESFORMERS, TimeSformerConfig
from hybridvideo.models.variants import Variant
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of


class Names(NamedTuple):
    """Names of the tensors that need more than renaming, and of those the architecture is inferred from."""

    class_token: str
    positions: str
    patch: str
    fc1: str  # weight of the first layer of block {i}'s MLP
    times: str = "no time table"
    temporal: str = "no temporal attention"  # weight of block {i}'s


AUTHORS = Names(
    "cls_token",
    "pos_embed",
    "patch_embed.proj.weight",
    "blocks.{i}.mlp.fc1.weight",
    "time_embed",
    "blocks.{i}.temporal_attn.qkv.weight",
)
HUGGING_FACE = Names(
    "timesformer.embeddings.cls_token",
    "timesformer.embeddings.position_embeddings",
    "timesformer.embeddings.patch_embeddings.projection.weight",
    "timesformer.encoder.layer.{i}.intermediate.dense.weight",
    "timesformer.embeddings.time_embeddings",
    "timesformer.encoder.layer.{i}.temporal_attention.attention.qkv.weight",
)


def fixer(names: Names) -> Callable[[State], State]:
    """Return a function that reshapes their tables, the position table into two parts."""

    def fix(state: State) -> State:
        state = dict(state)
        state[names.class_token] = state[names.class_token].flatten()
        positions_NC = state.pop(names.positions)[0]
        side = side_of(positions_NC)
        state[f"{names.positions}.first"] = positions_NC[0]
        state[f"{names.positions}.rest"] = positions_NC[1:].t().unflatten(1, (side, side))
        state[names.patch] = state[names.patch].unsqueeze(2)
        if names.times in state:
            state[names.times] = state[names.times][0].t()
        return state

    return fix


def unfixer(names: Names) -> Callable[[State], State]:
    """Return a function that undoes it."""

    def unfix(state: State) -> State:
        state = dict(state)
        first, rest = state.pop(f"{names.positions}.first"), state.pop(f"{names.positions}.rest")
        state[names.positions] = torch.cat([first[None], rest.flatten(1).t()])[None]
        state[names.class_token] = state[names.class_token][None, None]
        state[names.patch] = state[names.patch].squeeze(2)
        if names.times in state:
            state[names.times] = state[names.times].t()[None]
        return {name: value.contiguous() for name, value in state.items()}

    return unfix


def side_of(positions_NC: Tensor) -> int:
    """Return rows (and columns) of a table that starts with the class token; UserError if it is not square."""
    places = positions_NC.shape[0] - 1
    side = math.isqrt(places)
    if side * side != places:
        raise UserError(f"the position table has {places} places, which make no square; only square tables are read")
    return side


def architecture(names: Names) -> Callable[[State], Architecture]:
    """Infer the variant, or what differs from `timesformer_base`. Heads are assumed to have 64 channels."""

    def read(state: State) -> Architecture:
        dim, _, _, patch = state[names.patch].shape
        side = patch * side_of(state[names.positions][0])
        blocks = numbers_of(names.fc1, state)
        times = state.get(names.times)
        divided = bool(numbers_of(names.temporal, state))
        config = TimeSformerConfig(
            frames=8 if times is None else times.shape[1],
            height=side,
            width=side,
            attention="divided" if divided else "space" if times is None else "joint",
            patch=patch,
            dim=dim,
            depth=len(blocks),
            heads=max(1, dim // 64),
            mlp_ratio=state[names.fc1.format(i=blocks[0])].shape[0] / dim,
        )
        return named(config)

    return read


def named(config: TimeSformerConfig) -> Architecture:
    """Return the variant of this size, and what must change in it."""
    variants: dict[str, TimeSformerConfig] = {
        name: variant.config for name, variant in TIMESFORMERS.items() if isinstance(variant, Variant)
    }
    same = [name for name, known in variants.items() if replace(known, attention=config.attention) == config]
    name = same[0] if same else "timesformer_base"
    old = asdict(variants[name])
    return Architecture(name, {key: value for key, value in asdict(config).items() if value != old[key]})


AUTHORS_RENAMES: Renames = (
    ("cls_token", "class_token"),
    ("pos_embed.first", "class_position"),
    ("pos_embed.rest", "position.space_CHW"),
    ("time_embed", "position.time_CT"),
    ("patch_embed.proj.{p}", "embed.{p}"),
    ("blocks.{i}.temporal_norm1.{p}", "blocks.{i}.temporal.norm.{p}"),
    ("blocks.{i}.temporal_attn.qkv.{p}", "blocks.{i}.temporal.qkv.{p}"),
    ("blocks.{i}.temporal_attn.proj.{p}", "blocks.{i}.temporal.proj.{p}"),
    ("blocks.{i}.temporal_fc.{p}", "blocks.{i}.temporal.linear.{p}"),
    ("blocks.{i}.norm1.{p}", "blocks.{i}.attention_norm.{p}"),
    ("blocks.{i}.attn.qkv.{p}", "blocks.{i}.attention.qkv.{p}"),
    ("blocks.{i}.attn.proj.{p}", "blocks.{i}.attention.proj.{p}"),
    ("blocks.{i}.norm2.{p}", "blocks.{i}.mlp_norm.{p}"),
    ("blocks.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("blocks.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
    ("norm.{p}", "norm.{p}"),
    ("head.{p}", "classifier.{p}"),
)

START, LAYER = "timesformer.embeddings", "timesformer.encoder.layer.{i}"
HUGGING_FACE_RENAMES: Renames = (
    (f"{START}.cls_token", "class_token"),
    (f"{START}.position_embeddings.first", "class_position"),
    (f"{START}.position_embeddings.rest", "position.space_CHW"),
    (f"{START}.time_embeddings", "position.time_CT"),
    (f"{START}.patch_embeddings.projection.{{p}}", "embed.{p}"),
    (f"{LAYER}.temporal_layernorm.{{p}}", "blocks.{i}.temporal.norm.{p}"),
    (f"{LAYER}.temporal_attention.attention.qkv.{{p}}", "blocks.{i}.temporal.qkv.{p}"),
    (f"{LAYER}.temporal_attention.output.dense.{{p}}", "blocks.{i}.temporal.proj.{p}"),
    (f"{LAYER}.temporal_dense.{{p}}", "blocks.{i}.temporal.linear.{p}"),
    (f"{LAYER}.layernorm_before.{{p}}", "blocks.{i}.attention_norm.{p}"),
    (f"{LAYER}.attention.attention.qkv.{{p}}", "blocks.{i}.attention.qkv.{p}"),
    (f"{LAYER}.attention.output.dense.{{p}}", "blocks.{i}.attention.proj.{p}"),
    (f"{LAYER}.layernorm_after.{{p}}", "blocks.{i}.mlp_norm.{p}"),
    (f"{LAYER}.intermediate.dense.{{p}}", "blocks.{i}.mlp.fc1.{p}"),
    (f"{LAYER}.output.dense.{{p}}", "blocks.{i}.mlp.fc2.{p}"),
    ("timesformer.layernorm.{p}", "norm.{p}"),
    ("classifier.{p}", "classifier.{p}"),
)

TIMESFORMER = Layout(
    name="TimeSformer",
    family="TimeSformer",
    signature=("time_embed", "cls_token", "blocks.{i}.attn.qkv.weight"),
    renames=AUTHORS_RENAMES,
    architecture=architecture(AUTHORS),
    fix=fixer(AUTHORS),
    unfix=unfixer(AUTHORS),
)

TIMESFORMER_HUGGING_FACE = Layout(
    name="TimeSformer (Hugging Face)",
    family="TimeSformer",
    signature=("timesformer.embeddings.cls_token", f"{LAYER}.attention.attention.qkv.weight"),
    renames=HUGGING_FACE_RENAMES,
    architecture=architecture(HUGGING_FACE),
    fix=fixer(HUGGING_FACE),
    unfix=unfixer(HUGGING_FACE),
)
