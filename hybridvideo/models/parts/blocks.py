"""The block of every hybrid stage, and its kinds: which mixers of positions precede the MLP.

A new attention or convolution is one class that maps (B, T, H, W, C) to the same shape, and one line in MIXERS.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.models.parts.attention import JointAttention, SpatialAttention, TemporalAttention, WindowAttention3d
from hybridvideo.models.parts.convolution import DepthwiseConv
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.positions import ConvPosition

Mixers = list[nn.Module]


def window3d(dim: int, stage: StageConfig, index: int) -> Mixers:
    """3-D windows; every second block is shifted."""
    return [WindowAttention3d(dim, stage.heads, stage.window, shifted=index % 2 == 1)]


# kind -> (channels, stage, index of the block in its stage) -> the mixers of a block, applied in order
MIXERS: dict[str, Callable[[int, StageConfig, int], Mixers]] = {
    "window3d": window3d,
    "divided": lambda dim, stage, _: [TemporalAttention(dim, stage.heads), SpatialAttention(dim, stage.heads)],
    "spatial": lambda dim, stage, _: [SpatialAttention(dim, stage.heads)],
    "temporal": lambda dim, stage, _: [TemporalAttention(dim, stage.heads)],
    "joint": lambda dim, stage, _: [JointAttention(dim, stage.heads)],
    "conv3d": lambda dim, _stage, _index: [DepthwiseConv(dim, (3, 3, 3))],
    "conv": lambda dim, _stage, _index: [DepthwiseConv(dim, (1, 5, 5))],
}

# The same kind without any path between frames. All that is left of a temporal block is its MLP.
TIMELESS = {"divided": "spatial", "joint": "spatial", "conv3d": "conv", "temporal": "none"}


class Block(nn.Module):
    """Pre-norm residual block: [convolutional position,] one or more mixers, MLP."""

    def __init__(self, dim: int, mixers: Mixers, position: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.position = position
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in mixers)
        self.mixers = nn.ModuleList(mixers)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.position(x_BTHWC)
        for norm, mixer in zip(self.norms, self.mixers, strict=True):
            x = x + self.drop_path(mixer(norm(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.mlp_norm(x)))
        return out


def make_block(dim: int, stage: StageConfig, index: int, drop_path: float, time: bool) -> Block:
    """Build block `index` of a stage; `time=False` leaves no path between frames."""
    if not time:
        stage = without_time(stage)
    mixers = MIXERS[stage.block](dim, stage, index) if stage.block != "none" else []
    position: nn.Module = nn.Identity()
    if stage.position == "conv":
        position = ConvPosition(dim, (3, 3, 3) if time else (1, 3, 3))
    return Block(dim, mixers, position, stage.mlp_ratio, drop_path)


def without_time(stage: StageConfig) -> StageConfig:
    """Return the same stage with every path between frames removed."""
    _, rows, columns = stage.window
    return replace(stage, block=TIMELESS.get(stage.block, stage.block), window=(1, rows, columns))
