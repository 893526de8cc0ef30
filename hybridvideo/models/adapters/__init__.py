"""Small trained parts in a frozen Transformer of images, which make it see motion at a fraction of its parameters.

    st        a bottleneck with a depthwise convolution through time before the attention of each block
    aim       the attention of each block a second time, through time, with bottlenecks after both and next to the MLP
    zeroi2v   some heads attend to the frames before and after; linear adapters that merge into the weights

All start as the image network: on a still clip, and on a single frame, they add nothing. They are inserted into the
blocks that a ViT of images has too: attention within frames or over all positions, then an MLP, with norms before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from hybridvideo.config.model import AdapterConfig
from hybridvideo.errors import UserError
from hybridvideo.models.adapters.aim import insert_aim
from hybridvideo.models.adapters.st_adapter import insert_st
from hybridvideo.models.adapters.zeroi2v import AdaptedLinear, insert_zeroi2v
from hybridvideo.models.parts.attention import GroupedAttention, JointAttention, SpatialAttention
from hybridvideo.models.parts.blocks import Block, Branch

ADAPTER = ".adapter"  # in the name of every parameter of an adapter
TABLE_OF_TIME = "position.time_CT"  # trains too: images have none, and attention alone does not see the order of frames

INSERT: dict[str, Callable[[Block, int, AdapterConfig, bool], None]] = {
    "st": insert_st,
    "aim": insert_aim,
    "zeroi2v": insert_zeroi2v,
}


def insert_adapters(stages: nn.Module, config: AdapterConfig, time: bool) -> None:
    """Insert adapters into every block that takes them. Raises UserError if there is none."""
    blocks = list(image_blocks(stages))
    if config.kind == "zeroi2v":
        blocks = [(block, i) for block, i in blocks if isinstance(inner_of(block, i), SpatialAttention)]
    if not blocks:
        kinds = "spatial or divided" if config.kind == "zeroi2v" else "spatial, divided or joint"
        raise UserError(
            f"adapter.kind {config.kind} has no block to go into; give stages of {kinds} blocks with an MLP"
        )
    for block, i in blocks:
        INSERT[config.kind](block, i, config, time)


def image_blocks(stages: nn.Module) -> Iterator[tuple[Block, int]]:
    """Yield each block that a ViT of images has too, and the number of its attention branch."""
    for block in stages.modules():
        if isinstance(block, Block) and isinstance(block.mlp, Branch) and block.mlp.norm_first:
            fitting = [i for i in range(len(block.branches)) if is_of_images(inner_of(block, i))]
            if len(fitting) == 1:
                yield block, fitting[0]


def inner_of(block: Block, index: int) -> nn.Module:
    """Return the mixer of a branch."""
    branch = block.branches[index]
    assert isinstance(branch, Branch)
    return branch.inner


def is_of_images(inner: nn.Module) -> bool:
    """Return whether a mixer is attention that an image network has too."""
    return isinstance(inner, GroupedAttention) and isinstance(inner, SpatialAttention | JointAttention)


def freeze_but_adapters(model: nn.Module, head: str) -> None:
    """Let adapters, the table of time and the parameters whose names start with `head` train, and nothing else."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(ADAPTER in name or name == TABLE_OF_TIME or name.startswith(head))


def rest_frozen_norms(model: nn.Module) -> None:
    """Put every BatchNorm without trained parameters in evaluation mode, so that its statistics stay as well."""
    for layer in model.modules():
        of_batch = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if of_batch and not any(parameter.requires_grad for parameter in layer.parameters()):
            layer.eval()


def merge_linear_adapters(stages: nn.Module) -> None:
    """Fold linear adapters into the layers they follow or precede: the same numbers at the image network's cost."""
    for module in list(stages.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, AdaptedLinear):
                setattr(module, name, layer.merged())
