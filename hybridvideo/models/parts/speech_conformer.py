"""The Conformer block of speech recognition, over the frames of a video: Gulati et al. 2020, *Conformer*.

    x + MLP(x) / 2 -> + attention through time -> + convolution module -> + MLP(x) / 2 -> LayerNorm

Each part has a norm of its own in front of it. The control without time has no attention, and kernels of one frame.

    B batch   T H W grid   C channels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.norms import GridBatchNorm
from hybridvideo.models.parts.place import Grid, Place


class ConformerTimeBlock(nn.Module):
    """(B, T, H, W, C) -> the same shape; `attention` is through time, empty without."""

    def __init__(self, place: Place, attention: Sequence[nn.Module]) -> None:
        super().__init__()
        dim, stage = place.dim, place.stage
        hidden = max(1, int(dim * stage.mlp_ratio))
        mlps = [Mlp(dim, hidden, stage.dropout, stage.activation) if hidden else None for _ in range(2)]
        self.mlp1, self.mlp2 = (Step(place, mlp, 0.5) if mlp is not None else nn.Identity() for mlp in mlps)
        self.attention = nn.Sequential(*(Step(place, mixer) for mixer in attention))
        self.convolution = Step(place, ConvolutionModule(dim, place.kernel((15, 1, 1))))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = self.norm(self.mlp2(self.convolution(self.attention(self.mlp1(x_BTHWC)))))
        return out


class Step(nn.Module):
    """x + drop_path(factor * dropout(inner(norm(x))))."""

    def __init__(self, place: Place, inner: nn.Module, factor: float = 1.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(place.dim)
        self.inner, self.factor = inner, factor
        self.dropout = nn.Dropout(place.stage.dropout)
        self.drop_path = DropPath(place.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return x.add(self.drop_path(self.dropout(self.inner(self.norm(x)))), alpha=self.factor)


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, depthwise, BatchNorm, SiLU, pointwise."""

    def __init__(self, dim: int, kernel: Grid) -> None:
        super().__init__()
        self.before = Linear(dim, 2 * dim, stacked=(dim, dim))
        self.conv = DepthwiseConv3d(dim, kernel, bias=False)
        self.norm = GridBatchNorm(dim)
        self.after = Linear(dim, dim)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        gated = F.glu(self.before(x_BTHWC), -1)
        out: Tensor = self.after(F.silu(self.norm(on_grid(self.conv, gated))))
        return out
