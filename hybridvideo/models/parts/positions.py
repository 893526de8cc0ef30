"""Position encodings: learned tables or fixed waves added to the grid, or a convolution of the features themselves.

Relative positions are a bias on attention's scores: see `relative`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid


class AbsolutePosition(nn.Module):
    """Learned tables of time (T) and of space (H, W), added; interpolated if the grid has another size."""

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
    """Resize a (C, H, W) table, bicubic."""
    if table_CHW.shape[1:] == (height, width):
        return table_CHW
    return F.interpolate(table_CHW[None], (height, width), mode="bicubic", align_corners=False)[0]


def resized_time(table_CT: Tensor, frames: int) -> Tensor:
    """Resize a (C, T) table, linear."""
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


class SinusoidalPosition(nn.Module):
    """Fixed waves of frame, row and column, added: any size of grid, any number of channels.

    A third of the channels belongs to each axis, in pairs of sine and cosine of wavelengths from 2 pi to 10000 * 2 pi
    (Vaswani et al. 2017); without `time`, half to each axis of a frame.
    """

    def __init__(self, dim: int, time: bool = True) -> None:
        super().__init__()
        self.dim, self.time = dim, time

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        _, T, H, W, _ = x_BTHWC.shape
        place = torch.arange(max(T, H, W), device=x_BTHWC.device, dtype=torch.float32)
        of_time, of_row, of_column = (waves.to(x_BTHWC.dtype) for waves in self.waves(place))
        space_HWC = of_row[:H, None] + of_column[:W]
        return x_BTHWC + (of_time[:T, None, None] + space_HWC if self.time else space_HWC)

    def waves(self, place_N: Tensor) -> list[Tensor]:
        """The waves of each axis at these places, (N, C): zero in the channels of the other two."""
        pairs, before = -(-self.dim // 2), 0
        waves = []
        for share in axis_shares(pairs, self.time):
            padding = (2 * before, 2 * (pairs - before - share))
            waves.append(F.pad(axis_waves(place_N, share), padding)[:, : self.dim])
            before += share
        return waves


def axis_shares(pairs: int, time: bool) -> tuple[int, int, int]:
    """How many pairs of channels frames, rows and columns have."""
    frames = pairs // 3 if time else 0
    rows = (pairs - frames) // 2
    return frames, rows, pairs - frames - rows


def axis_waves(place_N: Tensor, pairs: int) -> Tensor:
    """Sines and cosines, (N, 2 * pairs)."""
    speed = 10_000.0 ** -(torch.arange(pairs, device=place_N.device) / max(pairs, 1))
    angle = place_N[:, None] * speed
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)
