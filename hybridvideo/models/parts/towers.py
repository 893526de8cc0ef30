"""How two branches that ran apart meet: brought to one grid, then fused once.

B batch   T H W grid   C channels
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import GateConfig
from hybridvideo.models.parts.coupling import frames, grid
from hybridvideo.models.parts.gates import Gate
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.place import Grid


@dataclass(frozen=True)
class FusionConfig:
    """How the grids of two towers become one."""

    rule: Literal["concatenate", "sum", "gate"] = "concatenate"
    """concatenate: the channels of both. sum, gate: as many as attention has; the others are mapped to them."""
    gate: GateConfig = field(default_factory=GateConfig)
    """gate: which share the convolution has."""
    align: Literal["bilinear", "transposed"] = "bilinear"
    """How the coarser grid comes to the size of the finer: interpolation, or a learned transposed convolution."""


class Align(nn.Module):
    """Bring a grid to the rows and columns of a finer one; a grid of that size passes unchanged.

    Args:
        dim: channels.
        factor: rows and columns of the finer grid for each of this one, at the standard input.
        way: of FusionConfig.
    """

    def __init__(self, dim: int, factor: tuple[int, int], way: str) -> None:
        super().__init__()
        learned = way == "transposed" and factor != (1, 1)
        self.up = nn.ConvTranspose2d(dim, dim, factor, factor) if learned else None

    def start(self) -> None:
        """Keep the scale of features: each position of the finer grid is one product."""
        if self.up is not None and self.up.bias is not None:
            nn.init.normal_(self.up.weight, std=self.up.in_channels**-0.5)
            nn.init.zeros_(self.up.bias)

    def forward(self, x_BTHWC: Tensor, size: Grid) -> Tensor:
        if self.up is not None:
            x_BTHWC = grid(self.up(frames(x_BTHWC)), len(x_BTHWC))
        _, T, H, W, _ = x_BTHWC.shape
        if size == (T, H, W):
            return x_BTHWC
        x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
        return F.interpolate(x_BCTHW, size, mode="trilinear", align_corners=False).permute(0, 2, 3, 4, 1)


class Fusion(nn.Module):
    """Two grids (B, T, H, W, C) of one size, of the convolution and of attention -> one, of `dim` channels."""

    def __init__(self, conv_dim: int, attention_dim: int, config: FusionConfig) -> None:
        super().__init__()
        self.rule, self.widths = config.rule, (conv_dim, attention_dim)
        maps = config.rule != "concatenate" and conv_dim != attention_dim
        self.project = Linear(conv_dim, attention_dim) if maps else nn.Identity()
        self.gate = Gate(attention_dim, config.gate) if config.rule == "gate" else None
        self.dim = conv_dim + attention_dim if config.rule == "concatenate" else attention_dim

    def forward(self, conv_BTHWC: Tensor, attention_BTHWC: Tensor) -> Tensor:
        if self.rule == "concatenate":
            return torch.cat([conv_BTHWC, attention_BTHWC], -1)
        conv_BTHWC = self.project(conv_BTHWC)
        if self.gate is None:
            return conv_BTHWC + attention_BTHWC
        out: Tensor = self.gate(conv_BTHWC, attention_BTHWC)
        return out

    def alone(self, conv: Tensor, attention: Tensor) -> dict[str, Tensor]:
        """Return the fused features as either branch alone makes them, of grids or of vectors (..., C)."""
        if self.rule == "concatenate":
            C, D = self.widths
            return {"conv": F.pad(conv, (0, D)), "attention": F.pad(attention, (C, 0))}
        return {"conv": self.project(conv), "attention": attention}
