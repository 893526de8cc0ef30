"""Layers that replace a library's own, so that every clip works; parameters and results stay the same.

convolutions    short clips are padded beforehand (`PaddedConv3d`), activations are channels last in memory
pooling         windows are clipped to a smaller grid (`WindowPool`, `ClippedMaxPool3d`), so that any size works

x_BCTHW  features      grid_BTHWC  the same, channels last
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import mirrored


class PaddedConv3d(nn.Conv3d):
    """A convolution that on CPU lays the zeros around a short clip itself, and trains depthwise kernels quickly.

    torch 2.15 on CPU, where T < kernel depth + stride: weight gradients are garbage (bf16 at T = 2) or infinite, or the
    process ends (fp32, depth 7, stride 2, T = 5 to 7), and so is the output in bf16 at T = 1 with depth 5. Padded
    beforehand all of these are right. The backward pass of depthwise kernels is slow (`depthwise`); of those with a
    stride, which that does not cover, it takes 5 times as long in bf16 as in fp32.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu") or x_BCTHW.dtype == torch.bfloat16
        if x_BCTHW.device.type != "cpu" or self.kernel_size[0] == 1 or not (low or torch.is_grad_enabled()):
            return super().forward(x_BCTHW)  # forward in fp32 is right, and faster unpadded
        if self.groups != self.in_channels or self.groups == 1 or not torch.is_grad_enabled():
            return self.padded(x_BCTHW)
        if self.keeps_size() and not self.is_short(x_BCTHW):
            return mirrored(self, x_BCTHW)
        with torch.autocast("cpu", enabled=False):
            return self.padded(x_BCTHW.to(self.weight.dtype))

    def keeps_size(self) -> bool:
        """Whether the grid after it is that before it."""
        same = tuple(side // 2 for side in self.kernel_size)
        plain = set(self.stride) == set(self.dilation) == {1} and self.out_channels == self.in_channels
        return plain and tuple(self.padding) == same and all(side % 2 for side in self.kernel_size)

    def is_short(self, x_BCTHW: Tensor) -> bool:
        """Whether torch may go wrong."""
        return x_BCTHW.shape[2] < self.kernel_size[0] + self.stride[0]

    def padded(self, x_BCTHW: Tensor) -> Tensor:
        """The convolution, with a short clip padded before it."""
        if not self.is_short(x_BCTHW):
            return super().forward(x_BCTHW)
        time, height, width = (int(side) for side in self.padding)
        x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, time, time))
        return F.conv3d(x_BCTHW, self.weight, self.bias, self.stride, (0, height, width), self.dilation, self.groups)


class ClippedMaxPool3d(nn.MaxPool3d):
    """A pool whose window is cut to the grid where that is smaller, in place of an error."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        sides, padding = triple(self.kernel_size), triple(self.padding)
        room = [size + 2 * pad for size, pad in zip(x_BCTHW.shape[2:], padding, strict=True)]
        kernel = [min(side, most) for side, most in zip(sides, room, strict=True)]
        return F.max_pool3d(x_BCTHW, kernel, self.stride, self.padding)


class WindowPool(nn.Module):
    """The mean of each window of a fixed size, as the libraries' heads have it; a smaller grid is one window.

    Of a larger grid the head averages over all places of the window, which weighs the middle more than the border.
    """

    def __init__(self, window: Iterable[int]) -> None:
        super().__init__()
        self.window = tuple(window)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        grid = tuple(x_BCTHW.shape[2:])
        window = tuple(min(side, size) for side, size in zip(self.window, grid, strict=True))
        return x_BCTHW.mean((2, 3, 4), keepdim=True) if window == grid else F.avg_pool3d(x_BCTHW, window, stride=1)


def adapted(net: nn.Module) -> nn.Module:
    """Put the layers above in place of the library's own; parameters and their names stay."""
    for part in net.modules():
        if isinstance(part, nn.Conv3d):
            part.__class__ = PaddedConv3d
        elif isinstance(part, nn.MaxPool3d):
            part.__class__ = ClippedMaxPool3d
    return net


def picklable(net: nn.Module) -> nn.Module:
    """Blocks of pytorchvideo add by a lambda, which a process cannot hand to another; by `torch.add` they can."""
    blocks: list[Any] = [part for part in net.modules() if hasattr(part, "branch_fusion")]
    for block in blocks:
        block.branch_fusion = torch.add
    return net


def triple(value: Any) -> tuple[int, int, int]:
    """A side for all three, or one for each."""
    sides = (value,) * 3 if isinstance(value, int) else tuple(value)
    return int(sides[0]), int(sides[1]), int(sides[2])


def channels_last(x_BCTHW: Tensor) -> Tensor:
    """The same clip, channels last in memory, as the loader leaves it; every layer after it keeps the order.

    On CPU 1.4 to 3 times as fast in bf16 and as fast in fp32. Kernels stay as they are: laid so too, fp32 is slower.
    """
    return x_BCTHW.contiguous(memory_format=torch.channels_last_3d)


def to_grid(x_BCTHW: Tensor) -> Tensor:
    """Channels last, as a view."""
    return x_BCTHW.permute(0, 2, 3, 4, 1)


def from_grid(grid_BTHWC: Tensor) -> Tensor:
    """Channels first, as a view."""
    return grid_BTHWC.permute(0, 4, 1, 2, 3)
