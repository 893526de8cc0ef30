"""How a block weighs convolution against attention: gate * convolution + (1 - gate) * attention.

    kind     gate                                                    learned
    fixed    a number                                                nothing
    static   sigmoid of a parameter, per channel or for all          1 or C numbers
    conv     sigmoid(W2 gelu(W1 pool(convolution)))                  two matrices, C/2 between
    both     sigmoid(W2 gelu(W1 [pool(convolution), pool(attention)]))

W2 starts at zero and its bias at the wanted gate, so that every clip starts with that.

    B batch   T H W grid   C channels   G channels of the gate: C or 1
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import GateConfig
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.readings import Reading

OF_POOLED = {"conv": 1, "both": 2}  # grids that are pooled for the gate


class Gate(nn.Module):
    """Two grids (B, T, H, W, C) -> one; `values` can be read: the gate, broadcastable to the grid."""

    fixed: Tensor

    def __init__(self, dim: int, config: GateConfig) -> None:
        super().__init__()
        self.config = config
        width = dim if config.channels == "each" else 1
        if config.kind == "fixed":
            self.register_buffer("fixed", torch.tensor(config.value), persistent=False)
        elif config.kind == "static":
            self.logit_G = nn.Parameter(torch.empty(width))
        else:
            self.scores = PooledMlp(OF_POOLED[config.kind] * dim, max(1, dim // 2), width)
        self.values = Reading()
        self.start()

    def start(self) -> None:
        """Set what decides to the wanted gate, whatever the input."""
        if self.config.kind == "fixed":
            return
        logit = math.log(self.config.value / (1 - self.config.value))
        if self.config.kind == "static":
            nn.init.constant_(self.logit_G, logit)
        else:
            nn.init.zeros_(self.scores.second.weight)
            nn.init.constant_(self.scores.second.bias, logit)

    def forward(self, conv_BTHWC: Tensor, attention_BTHWC: Tensor) -> Tensor:
        """Return the weighted sum; exactly one of the two where the gate is 0 or 1."""
        gate = self.values(self.gate(conv_BTHWC, attention_BTHWC))
        kind = torch.promote_types(conv_BTHWC.dtype, attention_BTHWC.dtype)
        return torch.lerp(attention_BTHWC.to(kind), conv_BTHWC.to(kind), gate.to(kind))

    def gate(self, conv_BTHWC: Tensor, attention_BTHWC: Tensor) -> Tensor:
        """The gate: a scalar, (G), (B, 1, 1, 1, G), or (B, T, 1, 1, G) per frame."""
        if self.config.kind == "fixed":
            return self.fixed
        if self.config.kind == "static":
            return self.logit_G.sigmoid()
        grids = [conv_BTHWC, attention_BTHWC][: OF_POOLED[self.config.kind]]
        pooled = torch.cat([pool(grid, self.config.per) for grid in grids], -1)
        gate: Tensor = self.scores(pooled).sigmoid()
        return gate


class PooledMlp(nn.Module):
    """linear -> GELU -> linear of pooled features: the scores of gates, paths and channels."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.first = Linear(dim, hidden)
        self.second = Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.second(F.gelu(self.first(x)))
        return out


def pool(x_BTHWC: Tensor, per: str) -> Tensor:
    """Average over the clip, (B, 1, 1, 1, C), or over each frame, (B, T, 1, 1, C)."""
    return x_BTHWC.mean((1, 2, 3) if per == "clip" else (2, 3), keepdim=True)
