"""Patch embedding: non-overlapping cuboids of the clip, each through one linear map; and a stem of nothing else.

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

from hybridvideo.config.data import Normalisation
from hybridvideo.config.model import StemConfig
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


class PatchStem(nn.Module):
    """The first grid of a ViT: patches, or tubelets of several frames (Arnab et al. 2021, *ViViT*).

    (B, 3, T, H, W) -> (B, ceil(T / t), ceil(H / h), ceil(W / w), C). A last tubelet that lacks frames repeats the last
    one, so that a single frame is seen as a still clip is; rows and columns are padded with zeros. Without `time`, a
    tubelet is its first frame.
    """

    def __init__(self, dim: int, patch: Patch, normalisation: Normalisation, time: bool = True) -> None:
        super().__init__()
        t, h, w = patch
        self.every = 1 if time else t
        self.embed = PatchEmbed(dim, (t if time else 1, h, w), pad=True)
        self.channels, self.strides, self.stride = dim, patch, h
        self.normalisation = normalisation

    def forward(self, x_BcTHW: Tensor) -> Tensor:
        x = x_BcTHW[:, :, :: self.every]
        if missing := -x.shape[2] % self.embed.patch[0]:
            x = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1, -1)], 2)
        grid_BTHWC: Tensor = self.embed(x)
        return grid_BTHWC


def patch_stem(config: StemConfig, time: bool) -> PatchStem:
    """Build the stem of a config. Raises UserError for settings that it does not have."""
    if len(config.widths) != 1:
        raise UserError(f"stem.widths is {config.widths}; give one number for the patch stem, the channels of its grid")
    if config.weights is not None:
        raise UserError("stem.weights is set, but the patch stem has none; load those of a ViT with model.weights")
    own = Normalisation()
    return PatchStem(
        config.widths[0], config.patch, Normalisation(config.mean or own.mean, config.std or own.std), time
    )
