"""The blocks of MobileViT: an inverted residual, and a Transformer between a local convolution and a fusing one.

    B batch   T H W grid   C channels   p side of a patch   P = p * p pixels in it

Mehta and Rastegari 2021, *MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer*. There a
pixel of a patch attends to the same pixel of all other patches; here, with `attention: joint` or `divided`, to those
of all frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from timm.layers import DropPath, make_divisible
from torch import Tensor, nn

from hybridvideo.models.parts.bottleneck import GridConv
from hybridvideo.models.parts.folding import Folded
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.norms import ACTIVATIONS, GridBatchNorm
from hybridvideo.models.parts.place import Place

PATCH = 2  # pixels of a patch's side


class InvertedResidual(nn.Module):
    """Widen, convolve each channel, narrow (Sandler et al. 2018, MobileNetV2); `mlp_ratio` is the expansion.

    Residual if neither width nor grid change.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        hidden = make_divisible(place.dim_in * place.stage.mlp_ratio)
        self.conv1, self.norm1 = Linear(place.dim_in, hidden, bias=False), GridBatchNorm(hidden)
        self.conv2 = GridConv(hidden, hidden, place.kernel((1, 3, 3)), place.stride, groups=hidden)
        self.norm2 = GridBatchNorm(hidden)
        self.conv3, self.norm3 = Linear(hidden, place.dim, bias=False), GridBatchNorm(place.dim)
        self.folded1, self.folded3 = Folded(), Folded()
        self.residual = place.stride == 1 and place.dim_in == place.dim
        self.drop_path, self.activation = DropPath(place.drop_path), ACTIVATIONS[place.stage.activation]

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.activation(self.folded1(self.conv1, self.norm1, x_BTHWC))
        x = self.activation(self.norm2(self.conv2(x)))
        out: Tensor = self.drop_path(self.folded3(self.conv3, self.norm3, x))
        return x_BTHWC + out if self.residual else out


class MobileVit(nn.Module):
    """Local convolution, Transformer on pixels of patches, convolution of the result next to the input."""

    def __init__(self, place: Place, make_block: Callable[[Place], nn.Module]) -> None:
        super().__init__()
        stage, dim = place.stage, place.dim
        width, kernel = stage.inner_dim or dim, place.kernel((1, 3, 3))
        self.local, self.local_norm = GridConv(dim, dim, kernel), GridBatchNorm(dim)
        self.widen = Linear(dim, width, bias=False)
        self.blocks = nn.Sequential(*(make_block(inner_place(place, i, width)) for i in range(stage.inner_depth)))
        self.norm = nn.LayerNorm(width)
        self.narrow, self.narrow_norm = Linear(width, dim, bias=False), GridBatchNorm(dim)
        self.fuse, self.fuse_norm = GridConv(2 * dim, dim, kernel), GridBatchNorm(dim)
        self.activation = ACTIVATIONS[stage.activation]

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        H, W = x_BTHWC.shape[2:4]
        x = self.widen(self.activation(self.local_norm(self.local(x_BTHWC))))
        x = resized_frames(x, -(-H // PATCH) * PATCH, -(-W // PATCH) * PATCH)
        x = fold(self.norm(self.blocks(unfold(x))))
        x = self.activation(self.narrow_norm(self.narrow(resized_frames(x, H, W))))
        out: Tensor = self.activation(self.fuse_norm(self.fuse(torch.cat([x_BTHWC, x], -1))))
        return out


def inner_place(place: Place, index: int, width: int) -> Place:
    """Where a block of the Transformer is built: on the grid of patches, in the width of its own."""
    T, H, W = place.grid
    stage = replace(place.stage, block=place.stage.attention, kernel=None, temporal="none", stride=1)
    return replace(place, stage=stage, index=index, dim_in=width, dim=width, grid=(T, -(-H // PATCH), -(-W // PATCH)))


def unfold(x_BTHWC: Tensor) -> Tensor:
    """A grid for each pixel of a patch: (B, T, H, W, C) -> (B * P, T, H / p, W / p, C)."""
    B, T, H, W, C = x_BTHWC.shape
    patches = x_BTHWC.view(B, T, H // PATCH, PATCH, W // PATCH, PATCH, C)
    return patches.permute(0, 3, 5, 1, 2, 4, 6).reshape(-1, T, H // PATCH, W // PATCH, C)


def fold(x_GTHWC: Tensor) -> Tensor:
    """Undo `unfold`."""
    _, T, H, W, C = x_GTHWC.shape
    pixels = x_GTHWC.view(-1, PATCH, PATCH, T, H, W, C)
    return pixels.permute(0, 3, 4, 1, 5, 2, 6).reshape(-1, T, H * PATCH, W * PATCH, C)


def resized_frames(x_BTHWC: Tensor, rows: int, columns: int) -> Tensor:
    """Resize each frame, bilinear."""
    if x_BTHWC.shape[2:4] == (rows, columns):
        return x_BTHWC
    frames = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)
    resized = F.interpolate(frames, (rows, columns), mode="bilinear", align_corners=False)
    return resized.permute(0, 2, 3, 1).unflatten(0, x_BTHWC.shape[:2])


class Pointwise(nn.Module):
    """A 1x1 convolution, BatchNorm and activation, as at the end of MobileNets."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.conv, self.norm = Linear(place.dim_in, place.dim, bias=False), GridBatchNorm(place.dim)
        self.activation = ACTIVATIONS[place.stage.activation]

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x_BTHWC)))
