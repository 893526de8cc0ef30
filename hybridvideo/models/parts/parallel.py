"""Convolution and attention next to each other on the same input, joined by a gate.

Both branches read one normed grid, which is computed once; `blocks.branch` builds a branch of any kind.

    B batch   T H W grid   C channels
"""

from __future__ import annotations

from torch import Tensor, nn

from hybridvideo.models.parts.gates import Gate
from hybridvideo.models.parts.place import Place
from hybridvideo.models.readings import BranchMap


class Parallel(nn.Module):
    """gate * convolution(x) + (1 - gate) * attention(x), (B, T, H, W, C) -> the same shape.

    Can be read: the gate, and how strong each branch is at each position.
    """

    def __init__(self, place: Place, convolution: nn.Module, attention: nn.Module) -> None:
        super().__init__()
        self.convolution, self.attention = convolution, attention
        self.gate = Gate(place.dim, place.stage.gate)
        self.convolution_map, self.attention_map = BranchMap(), BranchMap()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        conv_BTHWC = self.convolution_map(self.convolution(x_BTHWC))
        attention_BTHWC = self.attention_map(self.attention(x_BTHWC))
        out: Tensor = self.gate(conv_BTHWC, attention_BTHWC)
        return out
