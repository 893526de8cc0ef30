"""Patch embedding: non-overlapping cuboids of the clip, each through one linear map.

A convolution whose stride is its kernel is a matrix product; as a convolution it is many times slower in some builds.
The weight keeps the shape of the convolution, so that 2-D and 3-D checkpoints load and inflate directly.

    B batch   T H W grid   t h w patch   c channels of the clip, C of the grid
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridvideo.errors import UserError

Patch = tuple[int, int, int]  # frames, rows, columns


class PatchEmbed(nn.Module):
    """(B, c, T*t, H*h, W*w) -> (B, T, H, W, C).

    An input that does not divide into patches raises UserError, or with `pad` is padded with zeros at its end.
    """

    def __init__(self, dim: int, patch: Patch, channels: int = 3, pad: bool = False) -> None:
        super().__init__()
        self.patch, self.pad = patch, pad
        self.weight = nn.Parameter(torch.empty(dim, channels, *patch))
        self.bias = nn.Parameter(torch.empty(dim))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # the default of a convolution, as is the bias' bound
        bound = 1 / math.sqrt(channels * math.prod(patch))
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x_BcTHW: Tensor) -> Tensor:
        x, weight = self.divisible(x_BcTHW), self.weight
        t, h, w = self.patch
        # Any order of a patch's values will do: the one closer to the clip's order in memory copies faster.
        if x.stride(1) == 1:
            patches = rearrange(x, "B c (T t) (H h) (W w) -> B T H W (t h w c)", t=t, h=h, w=w)
            return F.linear(patches, weight.permute(0, 2, 3, 4, 1).flatten(1), self.bias)
        patches = rearrange(x, "B c (T t) (H h) (W w) -> B T H W (c t h w)", t=t, h=h, w=w)
        return F.linear(patches, weight.flatten(1), self.bias)

    def divisible(self, x_BcTHW: Tensor) -> Tensor:
        """Return the clip, padded if that was asked for. Raises UserError if it does not divide."""
        T, H, W = x_BcTHW.shape[2:]
        t, h, w = (-side % step for side, step in zip((T, H, W), self.patch, strict=True))
        if not (t or h or w):
            return x_BcTHW
        if not self.pad:
            frames = f"{T} frames of " if self.patch[0] > 1 else ""
            step = "x".join(str(side) for side in (self.patch if frames else self.patch[1:]))
            raise UserError(
                f"a clip of {frames}{H}x{W} does not divide into patches of {step}; "
                f"resize or crop it to multiples of {step}"
            )
        return F.pad(x_BcTHW, (0, w, 0, h, 0, t))
