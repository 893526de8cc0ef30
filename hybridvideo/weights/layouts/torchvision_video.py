"""torchvision's video ResNets, S3D and MViT: their names below `net.`, MViT's tables in the shapes used here."""

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

POSITIONS = "pos_encoding."
SPACE, TIME = f"{POSITIONS}spatial_pos", f"{POSITIONS}temporal_pos"


def resnet_architecture(state: State) -> Architecture:
    """Infer r3d_18, mc3_18 or r2plus1d_18."""
    return Architecture(variant_of(below_net(state), ("r3d_18", "mc3_18", "r2plus1d_18")), {})


def architecture_of_mvit(state: State) -> Architecture:
    """Infer mvit_v1_b or mvit_v2_s, with the size of its tables."""
    return mvit_architecture(MVIT.to_ours(state), ("mvit_v1_b", "mvit_v2_s"))


RESNET = Layout(
    name="video ResNet (torchvision)",
    family="TorchvisionResNet",
    signature=("stem.0.weight", "layer{i}.{j}.conv1.1.running_mean"),
    renames=(),
    architecture=resnet_architecture,
    fix=below_net,
    unfix=out_of_net,
)

S3D = Layout(
    name="S3D (torchvision)",
    family="S3D",
    signature=("features.0.0.0.weight", "features.{i}.branch0.0.weight"),
    renames=(),
    architecture=lambda _state: Architecture("s3d", {}),
    fix=below_net,
    unfix=out_of_net,
)

MVIT = Layout(
    name="MViT (torchvision)",
    family="TorchvisionMViT",
    signature=("conv_proj.weight", "pos_encoding.class_token"),
    renames=token_renames(POSITIONS, ("class_token", "class_pos", "spatial_pos", "temporal_pos")),
    architecture=architecture_of_mvit,
    fix=mvit_fix(POSITIONS, SPACE, TIME),
    unfix=mvit_unfix(SPACE, TIME, leading=0),
    adapt=mvit_adapt,
)

TORCHVISION_LAYOUTS = (RESNET, S3D, MVIT)
