"""Where a feature is: learned tables added to the grid, or a convolution of the features themselves.

Relative positions live in the bias of `attention.WindowAttention3d`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid


class AbsolutePosition(nn.Module):
    """Learned tables of time (T) and of space (H, W), added; interpolated where the grid has another size."""

    def __init__(self, dim: int, frames: int, height: int, width: int, time: bool = True) -> None:
        super().__init__()
        self.space_CHW = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim, height, width), std=0.02))
        self.time_CT = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim, frames), std=0.02)) if time else None

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        _, T, H, W, _ = x_BTHWC.shape
        x_BTHWC = x_BTHWC + resized_space(self.space_CHW, H, W).permute(1, 2, 0)
        if self.time_CT is None:
            return x_BTHWC
        return x_BTHWC + resized_time(self.time_CT, T).t()[:, None, None]


def resized_space(table_CHW: Tensor, height: int, width: int) -> Tensor:
    """A (C, H, W) table at another size, bicubic."""
    if table_CHW.shape[1:] == (height, width):
        return table_CHW
    return F.interpolate(table_CHW[None], (height, width), mode="bicubic", align_corners=False)[0]


def resized_time(table_CT: Tensor, frames: int) -> Tensor:
    """A (C, T) table at another length, linear."""
    if table_CT.shape[1] == frames:
        return table_CT
    return F.interpolate(table_CT[None], frames, mode="linear", align_corners=False)[0]


class ConvPosition(nn.Module):
    """x + depthwise convolution of x: position from the features, at any size.

    Chu et al. 2021, *Conditional Positional Encodings*; 3-D as in UniFormer (Li et al. 2022).
    """

    def __init__(self, dim: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        super().__init__()
        self.conv = DepthwiseConv3d(dim, kernel)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return x_BTHWC + on_grid(self.conv, x_BTHWC)
