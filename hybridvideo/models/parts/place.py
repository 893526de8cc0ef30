"""Where a block is built: the settings of its stage, its width, and the grid it will see."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybridvideo.config.model import StageConfig

Grid = tuple[int, int, int]  # frames, rows, columns


@dataclass(frozen=True)
class Place:
    """One block of a hybrid."""

    stage: StageConfig
    """Without any path between frames if `time` is false."""
    index: int
    """Of the block in its stage, from 0."""
    dim_in: int
    """Channels of the grid before the block; differs from `dim` only if the kind can change the width."""
    dim: int
    """Channels after it."""
    grid: Grid
    """Before the block, for the standard input; position tables have this size and are resized for others."""
    drop_path: float = 0.0
    time: bool = True
    """False: no path between frames, the control that cannot see motion."""

    @property
    def stride(self) -> int:
        """Of rows and columns: the stage's in its first block."""
        return 1 if self.index else self.stage.stride

    def kernel(self, default: Grid) -> Grid:
        """Sides of the block's convolution; one frame deep without time."""
        t, h, w = self.stage.kernel or default
        return (t if self.time else 1, h, w)

    @property
    def frame(self) -> Grid:
        """One frame of the grid."""
        return (1, *self.grid[1:])

    @property
    def instant(self) -> Grid:
        """One position of the grid through all frames."""
        return (self.grid[0], 1, 1)

    def inside(self, block: str) -> Place:
        """The same place for a kind inside this block, such as a branch."""
        return replace(self, stage=replace(self.stage, block=block), drop_path=0.0)
