"""Image ViTs, with or without a CNN before the patch embedding, into hybrids: timm, torchvision, Hugging Face.

The ViT's blocks go, in order, into those blocks of the hybrid that have attention within frames or over all positions,
and an MLP. Whatever else the hybrid has keeps its fresh weights; paths in time start as identity, so that a still clip,
or a single frame, is seen as the ViT sees the image.

A bias that the ViT lacks is zero. The positions of class token and registers are added to the tokens themselves. A
hybrid without a class token leaves it out; if the ViT's own head does not read it either, it is a register here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.adapters import ADAPTER, is_of_images
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.blocks import Block, Branch
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.weights.layouts.image_cnn import places_in
from hybridvideo.weights.layouts.image_vit import NAMINGS, TIMM, Naming
from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, matched, numbers_of
from hybridvideo.weights.source import Facts

BACKBONE = "patch_embed.backbone."
ALL_FOUND = "load_model(SOURCE) and `hybridvideo convert SOURCE CHECKPOINT` find all settings"  # ends messages
FIRST_NORM = "norm_pre.weight"
REGISTERS = "reg_token"
OUR_CLASS_TOKEN, OUR_REGISTERS = "class_token.token_C", "registers.registers_RC"
POOLED = "fc_norm.weight"  # of a head that reads the mean of the positions
# Parts of ViTs that no hybrid has: norms inside attention, attention as pooling.
FOREIGN = ("q_norm", "k_norm", "attn_pool", "time_embed", "temporal")
EPS, CLIP_EPS = 1e-6, 1e-5  # of the norms of ViTs; of those with a norm before their blocks
# Channels of ViTs whose heads do not have 64 of them -> heads.
HEADS = {1152: 16, 1280: 16, 1408: 16, 1664: 16}
# Names of the blocks of a CNN before a patch embedding; blocks in its stages -> the network of timm that has them, its
# stride. The first are ResNets with norm by groups, the others ResNet-D.
BACKBONES: dict[str, dict[tuple[int, ...], tuple[str, int]]] = {
    "stages.{s}.blocks.{i}.conv1.weight": {
        (2, 2, 2, 2): ("vit_small_r26_s32_224", 32),
        (3, 4, 9): ("vit_base_r50_s16_224", 16),
        (3, 4, 6, 3): ("vit_large_r50_s32_224", 32),
    },
    "layer{s}.{i}.conv1.weight": {
        (2, 2, 2, 2): ("vit_base_resnet26d_224", 32),
        (3, 4, 6): ("vit_small_resnet50d_s16_224", 16),
        (3, 4, 6, 3): ("vit_base_resnet50d_224", 32),
    },
}


# --- blocks -----------------------------------------------------------------------------------------------------------


def vit_blocks(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield, for each block of a hybrid that a ViT has too, the names of its attention branch and of its MLP branch."""
    for name, block in model.named_modules():
        if isinstance(block, Block) and isinstance(block.mlp, Branch):
            fitting = [
                i
                for i, branch in enumerate(block.branches)
                if isinstance(branch, Branch) and is_of_images(branch.inner)
            ]
            if len(fitting) == 1:
                yield f"{name}.branches.{fitting[0]}", f"{name}.mlp"


def block_renames(naming: Naming, model: nn.Module) -> Renames:
    """Return the renames of all blocks."""
    ours = ("{a}.norm.{{p}}", "{a}.inner.qkv.{{p}}", "{a}.inner.proj.{{p}}", "{m}.norm.{{p}}", "{m}.inner.fc1.{{p}}")
    rows = []
    for i, (attention, mlp) in enumerate(vit_blocks(model)):
        block = naming.block.replace("{i}", str(i))
        names = [template.format(a=attention, m=mlp) for template in (*ours, "{m}.inner.fc2.{{p}}")]
        rows += [(f"{block}.{theirs}", name) for theirs, name in zip(naming.parts, names, strict=True)]
        rows += [(f"{block}.ls1.gamma", f"{attention}.scale.scale_C"), (f"{block}.ls2.gamma", f"{mlp}.scale.scale_C")]
    return tuple(rows)


# --- names and shapes -------------------------------------------------------------------------------------------------


def renames_into(naming: Naming) -> Callable[[VideoModel], Renames]:
    """Return a function that returns the renames for one hybrid."""

    def rows(model: VideoModel) -> Renames:
        assert isinstance(model, Hybrid)
        embed = "stem.stems.0.embed.{p}" if model.config.stem.name == "patch" else "project.{p}"
        ends = (
            (naming.class_token, OUR_CLASS_TOKEN),
            (REGISTERS, OUR_REGISTERS),
            (naming.positions, "position.space_CHW"),
            (naming.embed, embed),
            ("norm_pre.{p}", "first_norm.{p}"),
            (naming.norm, "norm.{p}"),
            ("fc_norm.{p}", "head.norm.{p}"),
            (naming.head, "head.classifier.{p}"),
        )
        stem = tuple((place.theirs, name) for name, place in places_in(model).items())
        return (*block_renames(naming, model), *ends, *stem)

    return rows


def fixer(naming: Naming) -> Callable[[State], State]:
    """Return a function that reshapes class token, table of positions and embedding."""
    embed, embed_bias = (naming.embed.replace("{p}", kind) for kind in ("weight", "bias"))

    def fix(state: State) -> State:
        check_distilled(state)
        state = with_bias(naming.joined(state), f"{naming.block}.{naming.parts[1]}")
        positions_NC = with_own_positions(state, naming)
        side = isqrt(len(positions_NC))
        state[naming.positions] = positions_NC.t().unflatten(1, (side, side))
        of_maps = any(key.startswith(BACKBONE) for key in state)
        state[embed] = state[embed].flatten(1) if of_maps else state[embed].unsqueeze(2)
        if FIRST_NORM in state:
            state.setdefault(embed_bias, state[embed].new_zeros(len(state[embed])))  # the norm has one
        return state

    return fix


def check_distilled(state: State) -> None:
    """Raise UserError for a second token and head, of distillation."""
    if "dist_token" in state:
        raise UserError(
            "this ViT was distilled and averages two heads, which no hybrid has; take one without a token of "
            "distillation, such as timm:deit_small_patch16_224"
        )


def with_own_positions(state: State, naming: Naming) -> Tensor:
    """Add the positions of class token and registers to these, in place; return the table (N, C) of all others.

    A class token that the head does not read becomes the first of the registers.
    """
    read = is_read(naming, state)
    names = [name for name in (naming.class_token, REGISTERS) if name in state]
    positions_NC = state[naming.positions][0]
    tokens_RC = torch.cat([*(state.pop(name).flatten(0, -2) for name in names), positions_NC[:0]])
    if isqrt(len(positions_NC)) ** 2 != len(positions_NC):
        own_RC, positions_NC = positions_NC.tensor_split([len(tokens_RC)])
        tokens_RC = tokens_RC + own_RC
    if read:
        state[naming.class_token], tokens_RC = tokens_RC[0], tokens_RC[1:]
    if len(tokens_RC):
        state[REGISTERS] = tokens_RC
    return positions_NC


def is_read(naming: Naming, keys: Collection[str]) -> bool:
    """Return whether there is a class token that the head reads."""
    return naming.class_token in keys and POOLED not in keys


def with_bias(state: State, layer: str) -> State:
    """Add zeros if a layer, such as that of queries, keys and values, has no bias in any block."""
    weight, bias = (layer.replace("{p}", kind) for kind in ("weight", "bias"))
    if numbers_of(bias, state):
        return state
    found = {bias.format(i=i): state[weight.format(i=i)] for i in numbers_of(weight, state)}
    return {**state, **{name: matrix.new_zeros(len(matrix)) for name, matrix in found.items()}}


def adapted(state: State, own: Mapping[str, Tensor]) -> State:
    """Leave out the class token, if the hybrid has none. Raises UserError for parts that only one of the two has."""
    check_first_norm("first_norm.weight" in state, "first_norm.weight" in own)
    check_registers(state, own)
    return {name: value for name, value in state.items() if name != OUR_CLASS_TOKEN or name in own}


def check_first_norm(theirs: bool, ours: bool) -> None:
    """Raise UserError unless both or neither have a norm before the blocks."""
    if theirs and not ours:
        raise UserError(
            "this ViT has a norm before its blocks, as those of CLIP, and the model has none; set the model's "
            f"first_norm to layer, and norm_eps, also in its stages, to {CLIP_EPS:g}; {ALL_FOUND}"
        )
    if ours and not theirs:
        raise UserError("the model has a norm before its blocks, and this ViT has none; set first_norm to none")


def check_registers(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Raise UserError unless both have as many registers."""
    theirs, ours = (len(held[OUR_REGISTERS]) if OUR_REGISTERS in held else 0 for held in (state, own))
    if theirs != ours:
        alone = ", and class_token to false" if OUR_CLASS_TOKEN in own and OUR_CLASS_TOKEN not in state else ""
        raise UserError(
            f"this ViT has {theirs} registers, and the model {ours}; set registers to {theirs}{alone}; {ALL_FOUND}"
        )


def check_blocks(model: VideoModel, facts: Facts) -> list[str]:
    """Return a remark for the report. Raises UserError unless the blocks have heads and activation of the ViT."""
    blocks = list(vit_blocks(model))
    attentions: list[Any] = [model.get_submodule(f"{attention}.inner") for attention, _ in blocks]
    mlps = [part for _, mlp in blocks for part in model.get_submodule(mlp).modules()]
    check_stated("heads", facts.heads, [attention.heads for attention in attentions])
    check_stated("activation", facts.activation, used := [part.activation for part in mlps if isinstance(part, Mlp)])
    first_norm = isinstance(model, Hybrid) and model.config.first_norm != "none"
    if facts.activation is not None or not first_norm:
        return []
    ours = " and ".join(dict.fromkeys(used))
    return [f"activation: {ours}, as in the model; OpenAI's CLIP needs quick_gelu, which no file states"]


def check_stated(setting: str, theirs: str | int | None, ours: Iterable[str | int]) -> None:
    """Raise UserError if a source states a setting of its blocks and one of the model's has another."""
    other = next((value for value in ours if value != theirs), None)
    if theirs is not None and other is not None:
        raise UserError(
            f"the blocks of this ViT have {setting} {theirs}, and the model's {other}; set {setting} in the model's "
            f"stages to {theirs}; {ALL_FOUND}"
        )


def lacking(model: VideoModel) -> list[str]:
    """Return the names of the tensors in a hybrid that no ViT has."""
    shared = tuple(f"{branch}." for block in vit_blocks(model) for branch in block)
    names = [name for name in model.state_dict() if name.startswith(("stages.", "stem.motion."))]
    return [name for name in names if ADAPTER in name or not name.startswith(shared)]


# --- which hybrid -----------------------------------------------------------------------------------------------------


def architecture_of(naming: Naming) -> Callable[[State], Architecture]:
    """Return a function that infers the hybrid with the blocks of a ViT, each with attention through time."""
    embed = naming.embed.replace("{p}", "weight")

    def read(state: State) -> Architecture:
        fixed = fixer(naming)(state)
        dim, side, _ = fixed[naming.positions].shape
        fc1 = f"{naming.block}.{naming.parts[4]}".replace("{p}", "weight")
        numbers = numbers_of(fc1, state)
        ratio = len(state[fc1.format(i=numbers[0])]) / dim
        first_norm = FIRST_NORM in state
        eps = CLIP_EPS if first_norm else EPS
        stage: dict[str, Any] = {
            "block": "divided",
            "depth": len(numbers),
            "heads": HEADS.get(dim, max(1, dim // 64)),
            "norm_eps": eps,
        }
        if ratio != 4:
            stage["mlp_ratio"] = ratio
        if any(key.endswith("ls1.gamma") for key in state):
            stage["layer_scale"] = 1e-5
        pooled_first = POOLED in state
        ends = {
            "class_token": is_read(naming, state),
            "registers": len(fixed[REGISTERS]) if REGISTERS in fixed else 0,
            "first_norm": "layer" if first_norm else "none",
            "norm": "none" if pooled_first else "layer",
            "norm_eps": eps,
            "head": {"norm": "layer" if pooled_first else "none", "norm_eps": eps},
        }
        family, first = conv_stem(state, dim) if is_conv_vit(state) else patch_stem(state[embed], dim)
        pixels = side * (first["stem"]["stride"] if "stride" in first["stem"] else first["stem"]["patch"][1])
        return Architecture(family, {"height": pixels, "width": pixels, **first, "stages": [stage], **ends})

    return read


def patch_stem(kernel: Tensor, dim: int) -> tuple[str, dict[str, Any]]:
    """Return the family and the stem of a plain ViT, with tubelets of two frames."""
    return "vit_base", {"stem": {"name": "patch", "widths": [dim], "patch": [2, *kernel.shape[2:]]}}


def conv_stem(state: State, dim: int) -> tuple[str, dict[str, Any]]:
    """Return the family and the stem of a ViT after a CNN. Raises UserError for a CNN not known here."""
    found = {template: depths_of(template, state) for template in BACKBONES}
    fitting = [BACKBONES[template][depths] for template, depths in found.items() if depths in BACKBONES[template]]
    if not fitting:
        depths = next(filter(None, found.values()), ())
        known = ", ".join(name for networks in BACKBONES.values() for name, _ in networks.values())
        raise UserError(
            f"the CNN before this ViT's patch embedding has stages of {list(depths)} bottlenecks; known are those of "
            f"{known}, for which any frame size and number of classes will do"
        )
    name, stride = fitting[0]
    return "conv_vit_base", {"stem": {"name": f"backbone/{name}", "stride": stride}, "dim": dim}


def depths_of(template: str, state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return how many blocks each stage of the CNN before a patch embedding has, if they have these names."""
    stages = numbers_of(f"{BACKBONE}{template.replace('{i}', '{j}').replace('{s}', '{i}')}", state)
    return tuple(len(numbers_of(f"{BACKBONE}{template.replace('{s}', str(stage))}", state)) for stage in stages)


def is_conv_vit(state: Mapping[str, Tensor]) -> bool:
    """Return whether a CNN comes before the patch embedding."""
    return any(key.startswith(BACKBONE) for key in state)


def is_plain(state: Mapping[str, Tensor]) -> bool:
    """Return whether a ViT has no part that hybrids lack."""
    return not any(part in key for key in state for part in FOREIGN)


def is_timms(state: Mapping[str, Tensor]) -> bool:
    """Return whether this is a plain ViT of timm; without bias of queries, keys and values, one with no other parts.

    Code bases that took timm's names have that bias elsewhere, as `q_bias`.
    """
    if not is_plain(state) or "blocks.0.attn.qkv.bias" in state:
        return is_plain(state)
    parts = (*(f"{TIMM.block}.{part}" for part in TIMM.parts), "blocks.{i}.ls1.gamma", "blocks.{i}.ls2.gamma")
    inside = (key for key in state if key.startswith("blocks."))
    return all(any(matched(part, key) is not None for part in parts) for key in inside)


# --- layouts ----------------------------------------------------------------------------------------------------------


def into_hybrid(naming: Naming, signature: tuple[str, ...], accepts: Callable[[Mapping[str, Tensor]], bool]) -> Layout:
    """Return the layout of one naming for hybrids."""
    return Layout(
        name=naming.name,
        family="Hybrid",
        signature=signature,
        renames=(),
        architecture=architecture_of(naming),
        fix=fixer(naming),
        adapt=adapted,
        check=check_blocks,
        accepts=accepts,
        of_images=True,
        renames_into=renames_into(naming),
        lacks=lacking,
    )


TIMM_BLOCKS = ("pos_embed", "blocks.{i}.attn.qkv.weight", "blocks.{i}.mlp.fc1.bias")  # some have no class token
CONV_VIT = into_hybrid(TIMM, TIMM_BLOCKS, lambda state: is_conv_vit(state) and is_timms(state))
HYBRID_VITS = (
    into_hybrid(TIMM, TIMM_BLOCKS, lambda state: not is_conv_vit(state) and is_timms(state)),
    *(into_hybrid(naming, naming.signature(), is_plain) for naming in NAMINGS if naming is not TIMM),
)
