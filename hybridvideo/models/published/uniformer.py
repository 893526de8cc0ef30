"""UniFormer: convolution in early stages with many similar tokens, attention among all tokens in later ones.

Li et al. 2022, *UniFormer: Unified Transformer for Efficient Spatiotemporal Representation Learning*.

    clip -> stem 2x4x4 -> stage1 (convolution) -> /2 -> stage2 (convolution) -> /2 -> stage3 (attention)
         -> /2 -> stage4 (attention) -> BatchNorm -> mean -> classifier

The grid is channels last all the way: convolutions of one position are then linear layers, depthwise ones run on a
view, and nothing is copied between convolution and attention.

    B batch   T H W grid   C channels   c channels of the clip   t h w patch
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.config.data import ClipConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.parts.attention import JointAttention
from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.linear import Linear, autocast_dtype, init_linear
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.patches import PatchEmbed
from hybridvideo.models.parts.shortcuts import may_bypass
from hybridvideo.models.staged import Stage, StagedModel, rising_rates
from hybridvideo.models.variants import KINETICS, Published, Variant

STRIDE = 32  # pixels per position of the last grid


@dataclass(frozen=True)
class UniFormerConfig:
    """Defaults: UniFormer-S."""

    frames: int = 16
    """Frames of the standard input."""
    height: int = 224
    """Frame height of the standard input."""
    width: int = 224
    """Frame width; other sizes of 32 or more work too, cut off beyond a multiple of the strides."""
    dims: tuple[int, int, int, int] = (64, 128, 320, 512)
    """Channels of the four stages."""
    depths: tuple[int, int, int, int] = (3, 4, 8, 3)
    """Blocks of the four stages; the first two are convolution, the others attention."""
    head_dim: int = 64
    """Channels of an attention head."""
    mlp_ratio: float = 4.0
    drop_path: float = 0.1
    """Stochastic depth of the last block, growing linearly from 0."""
    dropout: float = 0.0
    """After the stem, in each MLP, after the projection of attention."""

    def __post_init__(self) -> None:
        if self.frames < 1 or min(self.height, self.width) < STRIDE:
            raise UserError(
                f"input of {self.frames} frames of {self.height}x{self.width}; "
                f"UniFormer needs 1 or more frames of {STRIDE}x{STRIDE} or more"
            )
        if self.head_dim < 1 or any(dim % self.head_dim for dim in self.dims[2:]):
            raise UserError(f"dims {self.dims} do not divide into heads of {self.head_dim} channels; change head_dim")


# --- parts ----------------------------------------------------------------------------------------------------------


class Stem(nn.Module):
    """Patches of 3x4x4 at every second frame, which overlap by one frame: (B, c, T, H, W) -> (B, T/2, H/4, W/4, C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        own = nn.Conv3d(3, dim, (3, 4, 4))  # for its initial values and shape
        self.weight, self.bias = own.weight, own.bias
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BcTHW: Tensor) -> Tensor:
        x_BcTHW = cropped(x_BcTHW, 4)
        x_BTHWp = rearrange(x_BcTHW, "B c T (H h) (W w) -> B T H W (c h w)", h=4, w=4)
        x_BTHWp = F.pad(x_BTHWp, (0, 0, 0, 0, 0, 0, 1, 1))
        T = (x_BcTHW.shape[2] + 1) // 2
        taps = torch.cat([x_BTHWp[:, tap : tap + 2 * T : 2][:, :T] for tap in range(3)], -1)
        out: Tensor = self.norm(F.linear(taps, self.weight.transpose(1, 2).flatten(1), self.bias))
        return out


class Downsample(nn.Module):
    """2x2 positions of a frame into one, with more channels; an odd row or column at the end is cut off."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.embed = PatchEmbed(out, (1, 2, 2), channels=dim)
        self.norm = nn.LayerNorm(out)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = self.norm(self.embed(cropped(x_BTHWC.permute(0, 4, 1, 2, 3), 2)))
        return out


class GridBatchNorm(nn.BatchNorm3d):
    """BatchNorm of a grid, channels last."""

    bypassable = True  # see `shortcuts`

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.cached = Cached[tuple[Tensor, Tensor]]()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return super().forward(x_BTHWC.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)

    def then(self, linear: Linear, x_BTHWC: Tensor) -> Tensor:
        """`linear(self(x))`, in evaluation as one product: there the norm is only a scale and a shift."""
        if self.training or self.running_mean is None or self.running_var is None or not may_bypass(self, linear):
            out: Tensor = linear(self(x_BTHWC))
            return out
        sources = (self.weight, self.bias, self.running_mean, self.running_var, linear.weight, linear.bias)
        kind = autocast_dtype(x_BTHWC)
        return F.linear(x_BTHWC, *self.cached.get(sources, lambda: self.folded(linear, kind), kind))

    def folded(self, linear: Linear, kind: torch.dtype | None) -> tuple[Tensor, Tensor]:
        """Weight and bias of `linear` after this norm, in the precision of the product."""
        assert self.running_mean is not None and self.running_var is not None
        scale_C = self.weight * (self.running_var + self.eps).rsqrt()
        shift_C = self.bias - self.running_mean * scale_C
        weight, bias = linear.weight * scale_C, torch.addmv(linear.bias, linear.weight, shift_C)
        return (weight, bias) if kind is None else (weight.to(kind), bias.to(kind))


class ConvBlock(nn.Module):
    """Position, then a depthwise convolution of 5x5x5, then the MLP; BatchNorm before both."""

    def __init__(self, dim: int, config: UniFormerConfig, drop_path: float) -> None:
        super().__init__()
        self.position = DepthwiseConv3d(dim, (3, 3, 3))
        self.norm = GridBatchNorm(dim)
        self.before = Linear(dim, dim)
        self.conv = DepthwiseConv3d(dim, (5, 5, 5))
        self.after = Linear(dim, dim)
        self.mlp_norm = GridBatchNorm(dim)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = x_BTHWC + on_grid(self.position, x_BTHWC)
        x = x + self.drop_path(self.neighbourhood(x))
        out: Tensor = x + self.drop_path(self.transform(x))
        return out

    def neighbourhood(self, x_BTHWC: Tensor) -> Tensor:
        """Norm, pointwise, depthwise, pointwise."""
        out: Tensor = self.after(on_grid(self.conv, self.norm.then(self.before, x_BTHWC)))
        return out

    def transform(self, x_BTHWC: Tensor) -> Tensor:
        """Norm and MLP."""
        return self.mlp.after_first(self.mlp_norm.then(self.mlp.fc1, x_BTHWC))


class AttentionBlock(nn.Module):
    """Position, then attention among all positions of all frames, then the MLP; LayerNorm before both."""

    def __init__(self, dim: int, config: UniFormerConfig, drop_path: float) -> None:
        super().__init__()
        self.position = DepthwiseConv3d(dim, (3, 3, 3))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.attention = JointAttention(dim, dim // config.head_dim)
        self.dropout = nn.Dropout(config.dropout)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * config.mlp_ratio), config.dropout)
        self.drop_path = DropPath(drop_path)
        self.apply(init_linear)  # as the authors; convolutions keep torch's own

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = x_BTHWC + on_grid(self.position, x_BTHWC)
        x = x + self.drop_path(self.dropout(self.attention(self.norm(x))))
        out: Tensor = x + self.drop_path(self.mlp(self.mlp_norm(x)))
        return out


def cropped(x_BCTHW: Tensor, step: int) -> Tensor:
    """Cut off the rows and columns at the end that do not fill a step."""
    H, W = (side - side % step for side in x_BCTHW.shape[3:])
    return x_BCTHW[..., :H, :W]


BLOCKS = (ConvBlock, ConvBlock, AttentionBlock, AttentionBlock)  # of the four stages


# --- the network ----------------------------------------------------------------------------------------------------


class UniFormer(StagedModel):
    """The network of a `UniFormerConfig`."""

    config: UniFormerConfig
    classifier_name = "head"
    least_side = STRIDE

    def __init__(self, config: UniFormerConfig, num_classes: int) -> None:
        super().__init__(config, num_classes)
        self.normalisation = KINETICS
        dims = config.dims
        self.num_features = dims[-1]
        self.stem = Stem(dims[0])
        self.dropout = nn.Dropout(config.dropout)
        self.downsamples = nn.ModuleList(Downsample(*pair) for pair in pairwise(dims))
        self.stages = nn.ModuleList(
            nn.ModuleList(kind(dim, config, rate) for rate in rates)
            for kind, dim, rates in zip(BLOCKS, dims, rising_rates(config.drop_path, config.depths), strict=True)
        )
        self.norm = GridBatchNorm(dims[-1])
        self.head = Linear(dims[-1], num_classes)
        self.init_classifier(self.head)

    def stem_parts(self) -> list[nn.Module]:
        return [self.stem]

    def stage_list(self) -> list[Stage]:
        stages: list[Any] = list(self.stages)
        before = [[], *([layer] for layer in self.downsamples)]
        return [Stage(f"stage{i + 1}", blocks, before[i]) for i, blocks in enumerate(stages)]

    def head_parts(self) -> list[nn.Module]:
        return [self.norm, self.head]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        grid: Tensor = self.dropout(self.stem(x_BCTHW))
        return grid

    def leave(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(x)
        return out

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = grid_BTHWC.mean((1, 2, 3))
        return features_BC if pre_logits else self.head(features_BC)

    def init_classifier(self, layer: nn.Linear) -> None:
        init_linear(layer)


# --- named variants -------------------------------------------------------------------------------------------------


def published(top1: float) -> Published:
    """A figure of 16 frames, every fourth, with logits averaged over 4 clips."""
    return Published(
        top1=top1,
        clip=ClipConfig(frames=16, stride=4),
        views=EvalConfig(clips=4, crops=1, average="logits"),
        pretrained="ImageNet-1k",
        weights="github.com/Sense-X/UniFormer",
        paper="Li et al. 2022, UniFormer",
        normalisation=KINETICS,
    )


base = UniFormerConfig(depths=(5, 8, 20, 7), drop_path=0.3)

# The weights for other lengths fit unchanged: with num_frames=8 (every eighth frame) S 78.4, B 79.8;
# with num_frames=32 (every fourth) S 82.0, B 82.9.
UNIFORMERS: dict[str, Callable[..., VideoModel]] = {
    "uniformer_small": Variant(UniFormer, UniFormerConfig(), published(80.8)),
    "uniformer_base": Variant(UniFormer, base, published(82.0)),
}
