"""2-D ResNets, as torchvision and timm name them, into video networks of the same blocks.

    ResNet-50, -101    Slow, C2D, I3D of pytorchvideo
    ResNet-18, -34     r3d and mc3 of torchvision

Only names change here; the loader spreads each 2-D kernel evenly over the frames of the 3-D one. On a still clip C2D
then returns exactly what the image network returns on the frame; the others do so away from the ends of the clip, where
kernels are not padded (and r3d lacks the pooling that the image network has after its stem).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybridvideo.weights.layouts.layout import Architecture, Layout, Renames, State, numbers_of

STEM = ("conv1.weight", "bn1.running_mean")
STAGES = (1, 2, 3, 4)


def bottleneck_renames(stages: Sequence[int], head: int) -> Renames:
    """Rename layer1 to layer4 into pytorchvideo's blocks of these indices."""
    rows = [("conv1.{p}", "net.blocks.0.conv.{p}"), ("bn1.{p}", "net.blocks.0.norm.{p}")]
    for stage, block in zip(STAGES, stages, strict=True):
        theirs, ours = f"layer{stage}.{{i}}", f"net.blocks.{block}.res_blocks.{{i}}"
        for number, letter in zip((1, 2, 3), "abc", strict=True):
            rows.append((f"{theirs}.conv{number}.{{p}}", f"{ours}.branch2.conv_{letter}.{{p}}"))
            rows.append((f"{theirs}.bn{number}.{{p}}", f"{ours}.branch2.norm_{letter}.{{p}}"))
        rows.append((f"{theirs}.downsample.0.{{p}}", f"{ours}.branch1_conv.{{p}}"))
        rows.append((f"{theirs}.downsample.1.{{p}}", f"{ours}.branch1_norm.{{p}}"))
    return (*rows, ("fc.{p}", f"net.blocks.{head}.proj.{{p}}"))


def basic_renames() -> Renames:
    """Rename into torchvision's video ResNet, whose stem and convolutions are sequences with their norms."""
    rows = [("conv1.{p}", "net.stem.0.{p}"), ("bn1.{p}", "net.stem.1.{p}")]
    for stage in STAGES:
        theirs, ours = f"layer{stage}.{{i}}", f"net.layer{stage}.{{i}}"
        for number in (1, 2):
            rows.append((f"{theirs}.conv{number}.{{p}}", f"{ours}.conv{number}.0.{{p}}"))
            rows.append((f"{theirs}.bn{number}.{{p}}", f"{ours}.conv{number}.1.{{p}}"))
        rows += [(f"{theirs}.downsample.{part}.{{p}}", f"{ours}.downsample.{part}.{{p}}") for part in (0, 1)]
    return (*rows, ("fc.{p}", "net.fc.{p}"))


def bottleneck_architecture(state: State) -> Architecture:
    """Infer slow_r50, or the same with the layers of ResNet-101 or -152."""
    blocks = sum(len(numbers_of(f"layer{stage}.{{i}}.conv1.weight", state)) for stage in STAGES)
    return Architecture("slow_r50", {} if blocks == 16 else {"depth": 3 * blocks + 2})


def basic_architecture(state: State) -> Architecture:
    """Infer r3d_18, or the same with the blocks of ResNet-34."""
    depths = tuple(len(numbers_of(f"layer{stage}.{{i}}.conv1.weight", state)) for stage in STAGES)
    return Architecture("r3d_18", {} if depths == (2, 2, 2, 2) else {"depths": depths})


def has_bottlenecks(state: Any) -> bool:
    """Return whether this is ResNet-50 or deeper."""
    return "layer1.0.conv3.weight" in state


def bottleneck_layout(family: str, stages: Sequence[int], head: int) -> Layout:
    """Return the layout for a network whose stages and head have these indices."""
    return Layout(
        name="ResNet of images",
        family=family,
        signature=(*STEM, "layer{i}.{j}.conv3.weight"),
        renames=bottleneck_renames(stages, head),
        architecture=bottleneck_architecture,
    )


BASIC = Layout(
    name="ResNet of images",
    family="TorchvisionResNet",
    signature=(*STEM, "layer{i}.{j}.conv2.weight"),
    renames=basic_renames(),
    architecture=basic_architecture,
    accepts=lambda state: not has_bottlenecks(state),
)

IMAGE_RESNET_LAYOUTS = (
    bottleneck_layout("PytorchvideoResNet", (1, 2, 3, 4), 5),
    bottleneck_layout("FramePoolResNet", (1, 3, 4, 5), 6),
    BASIC,
)
