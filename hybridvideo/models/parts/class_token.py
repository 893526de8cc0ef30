"""Tokens of each frame among its positions: a class token for the head (Dosovitskiy et al. 2021, *ViT*), registers.

(B, T, H, W, C) becomes (B, T, 1, R + H * W, C): attention within frames, through time and joint take it as it is.
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
        return with_tokens(self.token_C[None], x_BTHWC)


class Registers(nn.Module):
    """(B, T, H, W, C) -> (B, T, 1, R + H * W, C), the R registers first.

    Attention keeps there what belongs to no position, which else it writes over positions that show little (Darcet et
    al. 2024, *Vision Transformers Need Registers*).
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.registers_RC = nn.Parameter(nn.init.trunc_normal_(torch.empty(count, dim), std=0.02))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return with_tokens(self.registers_RC, x_BTHWC)


def with_tokens(tokens_RC: Tensor, x_BTHWC: Tensor) -> Tensor:
    """Put the same tokens before the positions of each frame: (B, T, 1, R + H * W, C)."""
    x_BTNC = x_BTHWC.flatten(2, 3)
    tokens_BTRC = tokens_RC.to(x_BTNC.dtype).expand(*x_BTNC.shape[:2], -1, -1)
    return torch.cat([tokens_BTRC, x_BTNC], 2).unsqueeze(2)


def without_tokens(x_BT1NC: Tensor, sides: Sequence[int]) -> Tensor:
    """Return the grid (B, T, H, W, C) of the positions, which follow all tokens."""
    H, W = sides
    return x_BT1NC[:, :, 0, -H * W :].unflatten(2, (H, W))
