"""A class token for each frame: one more token among the positions, for the head (Dosovitskiy et al. 2021, *ViT*).

(B, T, H, W, C) becomes (B, T, 1, 1 + H * W, C): attention within frames, through time and joint take it as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ClassToken(nn.Module):
    """(B, T, H, W, C) -> (B, T, 1, 1 + H * W, C), the token first."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.token_C = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_BTNC = x_BTHWC.flatten(2, 3)
        token_BT1C = self.token_C.to(x_BTNC.dtype).expand(*x_BTNC.shape[:2], 1, -1)
        return torch.cat([token_BT1C, x_BTNC], 2).unsqueeze(2)


def without_class_token(x_BT1NC: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the grid (B, T, H, W, C) of the positions."""
    return x_BT1NC[:, :, 0, 1:].unflatten(2, tuple(sides))
