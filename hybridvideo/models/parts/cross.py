"""Each position of the grid attends to the frame vectors of the whole clip: time at the cost of T keys per position.

B batch   T H W grid   N positions of a frame   C channels   h heads   d channels of a head
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.attention import sides
from hybridvideo.models.parts.linear import Linear, in_parts
from hybridvideo.models.parts.relative import RelativePosition


class CrossAttention(nn.Module):
    """Queries are positions, keys and values the mean of each frame; `relative` is a bias of their distance in time.

    With `frames_apart` a position sees the mean of its own frame only.
    """

    def __init__(
        self, dim: int, heads: int, relative: RelativePosition | None = None, frames_apart: bool = False
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads, self.frames_apart = heads, frames_apart
        self.q = Linear(dim, dim)
        self.kv = Linear(dim, 2 * dim, stacked=(dim, dim))
        self.proj = Linear(dim, dim)
        self.relative = relative

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_BTNC = (x_BTHWC.flatten(0, 1)[:, None] if self.frames_apart else x_BTHWC).flatten(2, 3)
        frames = in_parts(self.kv, x_BTNC.mean(2), 2)
        parts = (self.q(x_BTNC.flatten(1, 2)), *frames)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        out = attend(q, k, v, None if self.relative is None else self.bias(x_BTHWC, q))
        return self.proj(out.transpose(1, 2).flatten(2)).view(x_BTHWC.shape)

    def bias(self, x_BTHWC: Tensor, like: Tensor) -> Tensor:
        """The bias of the frames among each other, for each position of a frame, (1, h, T * N, T)."""
        assert self.relative is not None
        T, H, W = (1, *sides(x_BTHWC)[1:]) if self.frames_apart else sides(x_BTHWC)
        return torch.repeat_interleave(self.relative((T, 1, 1), like), H * W, 2)
