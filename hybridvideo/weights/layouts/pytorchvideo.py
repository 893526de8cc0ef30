"""pytorchvideo's hub files, {"model_state": tensors}: their names below `net.`, MViT's tables in the shapes used here.

X3D-XS, -S and -M have the same tensors and differ in frames and size only; `x3d_m` is assumed unless the model is
named.
"""

from __future__ import annotations

from hybridvideo.weights.layouts.layout import Architecture, Layout, State
from hybridvideo.weights.layouts.library import (
    below_net,
    mvit_adapt,
    mvit_architecture,
    mvit_fix,
    mvit_unfix,
    out_of_net,
    token_renames,
    variant_of,
)

POSITIONS = "cls_positional_encoding."
SPACE, TIME = f"{POSITIONS}pos_embed_spatial", f"{POSITIONS}pos_embed_temporal"
TOKENS = ("cls_token", "pos_embed_class")
ONE_PATHWAY = ("slow_r50", "c2d_r50", "i3d_r50", "csn_r101", "r2plus1d_r50", "x3d_m", "x3d_s", "x3d_xs", "x3d_l")
FAMILIES = ("PytorchvideoResNet", "FramePoolResNet", "X3D")


def net_architecture(state: State) -> Architecture:
    """Infer which network of one pathway it is."""
    return Architecture(variant_of(below_net(state), ONE_PATHWAY), {})


def slowfast_architecture(state: State) -> Architecture:
    """Infer slowfast_r50 or slowfast_r101."""
    return Architecture(variant_of(below_net(state), ("slowfast_r50", "slowfast_r101")), {})


def architecture_of_mvit(state: State) -> Architecture:
    """Infer mvit_base_16x4 or mvit_base_32x3, with the size of its tables."""
    return mvit_architecture(MVIT.to_ours(state), ("mvit_base_16x4", "mvit_base_32x3"))


def unfix_mvit(state: State) -> State:
    """Undo the reshaping; tokens also have leading dimensions of 1."""
    state = mvit_unfix(SPACE, TIME, leading=1)(state)
    tokens = {POSITIONS + name for name in TOKENS}
    return {key: value.reshape(1, 1, -1) if key in tokens else value for key, value in state.items()}


NETS = tuple(
    Layout(
        name="3-D CNN (pytorchvideo)",
        family=family,
        signature=(
            "blocks.{i}.res_blocks.{j}.branch2.conv_a.weight",
            "blocks.{i}.res_blocks.{j}.branch2.conv_c.weight",
        ),
        renames=(),
        architecture=net_architecture,
        fix=below_net,
        unfix=out_of_net,
    )
    for family in FAMILIES
)

SLOWFAST = Layout(
    name="SlowFast (pytorchvideo)",
    family="SlowFast",
    signature=("blocks.0.multipathway_blocks.{i}.conv.weight", "blocks.0.multipathway_fusion.conv_fast_to_slow.weight"),
    renames=(),
    architecture=slowfast_architecture,
    fix=below_net,
    unfix=out_of_net,
)

MVIT = Layout(
    name="MViT (pytorchvideo)",
    family="PytorchvideoMViT",
    signature=("patch_embed.patch_model.weight", "cls_positional_encoding.cls_token"),
    renames=token_renames(POSITIONS, (*TOKENS, "pos_embed_spatial", "pos_embed_temporal")),
    architecture=architecture_of_mvit,
    fix=mvit_fix(POSITIONS, SPACE, TIME),
    unfix=unfix_mvit,
    adapt=mvit_adapt,
)

PYTORCHVIDEO_LAYOUTS = (*NETS, SLOWFAST, MVIT)
