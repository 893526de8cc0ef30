"""A stage of a hybrid: what changes the grid, and blocks of one kind."""

from __future__ import annotations

from torch import nn

from hybridvideo.config.model import StageConfig
from hybridvideo.models.parts.convolution import PatchMerging
from hybridvideo.models.parts.kinds import KINDS, built_kind, make_block, without_time
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.multiscale import Ends
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.resampling import SpacePool, TimePool, Tokeniser


class HybridStage(nn.Module):
    """What changes the grid, then `depth` blocks of one kind.

    `earlier`: channels and grid at the end of the stem and of each stage before it. `dim` and `grid` are those it ends
    with, `kind` is that of its blocks, for `auto` the one it chose.
    """

    def __init__(self, earlier: Ends, config: StageConfig, drop_paths: list[float], time: bool) -> None:
        super().__init__()
        *_, (dim, grid) = earlier.values()
        width = config.dim or (2 * dim if config.merge else dim)
        kind = KINDS[config.block]
        self.merge = PatchMerging(dim, width) if config.merge else nn.Identity()
        widened_by_block = kind.changes_width and not config.merge and config.up is None
        widens = width != dim and not config.merge and not widened_by_block
        self.widen = Linear(dim, width) if widens else nn.Identity()
        self.frames = TimePool(config.time_stride, mixing=time) if config.time_stride > 1 else nn.Identity()
        self.pool = SpacePool() if config.pool == "space" else nn.Identity()
        self.tokens = Tokeniser(width, config.tokens) if config.tokens else nn.Identity()
        grid = grid_before_blocks(grid, config)
        self.up = config.up
        if config.up is not None:
            skipped, grid = earlier[config.up]
            self.skip = Linear(skipped, width)
        config = config if time else without_time(config)
        blocks = []
        for i, rate in enumerate(drop_paths):
            into = dim if i == 0 and widened_by_block else width
            place = Place(config, i, into, width, grid, rate, time)
            self.kind = built_kind(place)
            blocks.append(make_block(place))
            grid = (grid[0], -(-grid[1] // place.stride), -(-grid[2] // place.stride))
        self.blocks = nn.Sequential(*blocks)
        self.dim, self.grid = width, grid

    @property
    def before(self) -> list[nn.Module]:
        """Layers before the blocks."""
        return [self.merge, self.widen, self.frames, self.pool, self.tokens]


def grid_before_blocks(grid: Grid, config: StageConfig) -> Grid:
    """Return the grid of a stage's first block."""
    T, H, W = grid
    if config.merge:
        H, W = -(-H // 2), -(-W // 2)
    T = -(-T // config.time_stride)
    if config.pool == "space":
        H, W = 1, 1
    return (T, 1, config.tokens) if config.tokens else (T, H, W)
