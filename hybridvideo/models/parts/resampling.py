"""What a stage may do to the grid before its first block: merge positions, average frames, pool, learn tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridvideo.models.parts.linear import Linear


class TimePool(nn.Module):
    """Average every `stride` frames into one; the last group may be smaller. Without `mixing`, keep its first frame."""

    def __init__(self, stride: int, mixing: bool = True) -> None:
        super().__init__()
        self.stride, self.mixing = stride, mixing

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        if not self.mixing:
            return x_BTHWC[:, :: self.stride]
        return torch.stack([frames.mean(1) for frames in x_BTHWC.split(self.stride, 1)], 1)


class SpacePool(nn.Module):
    """One vector for each frame: (B, T, H, W, C) -> (B, T, 1, 1, C)."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return x_BTHWC.mean((2, 3), keepdim=True)


class Tokeniser(nn.Module):
    """A few learned tokens per frame: (B, T, H, W, C) -> (B, T, 1, S, C), each a weighted mean of the positions.

    Ryoo et al. 2021, *TokenLearner*, with weights that sum to one (as in its second version).
    """

    def __init__(self, dim: int, tokens: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.scores = Linear(dim, tokens)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_BTNC = self.norm(x_BTHWC.flatten(2, 3))
        weights_BTSN = self.scores(x_BTNC).transpose(2, 3).softmax(-1)
        return (weights_BTSN.to(x_BTNC.dtype) @ x_BTNC)[:, :, None]
