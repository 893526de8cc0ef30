"""Convolution as a mixer of grid positions, interchangeable with attention: (B, T, H, W, C) -> the same shape."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.linear import Linear


class DepthwiseConv(nn.Module):
    """Pointwise, depthwise (frames, rows, columns), pointwise: the local block of UniFormer (Li et al. 2022)."""

    def __init__(self, dim: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.before = Linear(dim, dim)
        self.conv = DepthwiseConv3d(dim, kernel)
        self.after = Linear(dim, dim)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = self.after(on_grid(self.conv, self.before(x_BTHWC)))
        return out


class PatchMerging(nn.Module):
    """Merge 2x2 positions into one, as in Swin; an odd side is padded with zeros."""

    def __init__(self, dim: int, out: int | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = Linear(4 * dim, out or 2 * dim, bias=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        _, _, H, W, _ = x_BTHWC.shape
        x = nn.functional.pad(x_BTHWC, (0, 0, 0, W % 2, 0, H % 2))
        quarters = [x[:, :, 0::2, 0::2], x[:, :, 1::2, 0::2], x[:, :, 0::2, 1::2], x[:, :, 1::2, 1::2]]
        out: Tensor = self.reduction(self.norm(torch.cat(quarters, -1)))
        return out
