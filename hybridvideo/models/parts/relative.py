"""Relative position: a bias on attention's scores for the offset between query and key, a number for each head.

    table   learned for each offset of the grid it was built for (Shaw et al. 2018; Swin, Liu et al. 2021)
    mlp     a small network of the offset (as in Swin V2, Liu et al. 2022), which has an answer for any grid

Both make a table (2T-1, 2H-1, 2W-1, h) for the grid at hand; `spread` looks up each pair of its positions.

    T H W grid   N = T * H * W positions   h heads
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.windows import Size, constant_few


class RelativePosition(nn.Module, ABC):
    """Bias (1, h, N, N) of a grid's positions among each other; subclasses define the table."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = Cached[Tensor]()

    @abstractmethod
    def table(self, grid: Size) -> Tensor:
        """The bias of every offset within a grid, (2T-1, 2H-1, 2W-1, h); that of no offset is in the middle."""

    def forward(self, grid: Size, like: Tensor) -> Tensor:
        """The bias in the precision of `like`, the scores' queries."""
        return self.lookup(lambda: spread(self.table(grid), grid), grid, like)

    def lookup(self, make: Callable[[], Tensor], key: Hashable, like: Tensor) -> Tensor:
        """What `make` derives from the table, in the precision of `like`; kept until the table changes."""
        lowered = lambda: make().to(like.dtype)  # noqa: E731
        return self.cached.get(tuple(self.parameters()), lowered, key, like.dtype, like.device)


class RelativeTable(RelativePosition):
    """A learned number for each offset of the grid that it is built for, at first 0.

    A smaller grid takes those of its own offsets; along an axis where a grid is larger, the table is stretched.
    """

    def __init__(self, heads: int, grid: Size) -> None:
        super().__init__()
        T, H, W = (2 * side - 1 for side in grid)
        self.bias_table = nn.Parameter(torch.zeros(T, H, W, heads))

    def table(self, grid: Size) -> Tensor:
        return fitted_table(self.bias_table, grid)


class RelativeMlp(RelativePosition):
    """An MLP of the offset (frames, rows, columns), on a logarithmic scale; at first 0 for each."""

    def __init__(self, heads: int, hidden: int = 64) -> None:
        super().__init__()
        self.fc1 = Linear(3, hidden)
        self.fc2 = Linear(hidden, heads, bias=False)  # the same for all keys, a bias would change nothing

    def table(self, grid: Size) -> Tensor:
        own = next(self.parameters())
        return self.fc2(F.gelu(self.fc1(log_offsets(grid, own.device).to(own.dtype))))

    def start(self) -> None:
        """Begin as attention without positions."""
        nn.init.zeros_(self.fc2.weight)


def relative_position(kind: str, heads: int, grid: Size) -> RelativePosition | None:
    """Build the relative position that a stage asks for: none, table or mlp."""
    if kind == "none":
        return None
    return RelativeTable(heads, grid) if kind == "table" else RelativeMlp(heads)


def spread(table_THWh: Tensor, grid: Size) -> Tensor:
    """The table's entry for each pair of positions, (1, h, N, N)."""
    N = grid[0] * grid[1] * grid[2]
    index = offset_index(grid, table_THWh.device)
    # Heads first: the gradient of this lookup is then five times as fast as that of `table[index]`.
    return table_THWh.flatten(0, 2).t().index_select(1, index).view(1, -1, N, N)


def fitted_table(table_THWh: Tensor, grid: Size) -> Tensor:
    """The table of another grid: cut to the offsets within it, stretched along axes where it is larger."""
    for axis, side in enumerate(grid):
        surplus = table_THWh.shape[axis] - (2 * side - 1)
        if surplus > 0:
            table_THWh = table_THWh.narrow(axis, surplus // 2, 2 * side - 1)
        elif surplus < 0:
            table_THWh = stretched(table_THWh, axis, 2 * side - 1)
    return table_THWh


def stretched(table: Tensor, axis: int, length: int) -> Tensor:
    """Interpolate along an axis; first, middle and last entry keep their values."""
    lines = table.movedim(axis, -1)
    long = F.interpolate(lines.flatten(0, 1), length, mode="linear", align_corners=True)
    return long.unflatten(0, lines.shape[:2]).movedim(-1, axis)


@constant_few
def offset_index(grid: Size, device: torch.device) -> Tensor:
    """(N * N) rows of the flat table for each query and key."""
    index: Tensor | int = 0
    for axis, side in enumerate(grid):
        places = torch.arange(side, device=device, dtype=torch.int32)
        offsets = (places[:, None] - places + side - 1).view([side if i % 3 == axis else 1 for i in range(6)])
        index = index * (2 * side - 1) + offsets
    assert isinstance(index, Tensor)
    return index.flatten()


@constant_few
def log_offsets(grid: Size, device: torch.device) -> Tensor:
    """Every offset within a grid, (2T-1, 2H-1, 2W-1, 3), as sign * log2(1 + distance)."""
    axes = [torch.arange(1 - side, side, device=device, dtype=torch.float32) for side in grid]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return offsets.sign() * (1 + offsets.abs()).log2()
