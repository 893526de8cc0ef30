"""Grids of several resolutions joined: skips to a stage that goes back up, and a pyramid of three levels.

What an earlier stage gives away is projected as soon as that stage ends (`lateral`), so that only the projection, and
not the grid itself, waits for the later stage.

Sources: U-Net, Ronneberger et al. 2015; feature pyramid, Lin et al. 2017 (FPN); weights for scales
by the input, Li et al. 2020 (learned dynamic routing), here soft.

    B batch   T H W grid   C channels   S scales
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import HybridConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.place import Grid
from hybridvideo.models.parts.positions import ConvPosition
from hybridvideo.models.readings import Reading

Ends = dict[str, tuple[int, Grid]]  # stem or stage -> channels and grid at its end

LEVELS = 3


def resized(x_BTHWC: Tensor, grid: Grid) -> Tensor:
    """Bring a grid to another size: bilinear within frames; in time each frame is repeated, so that none are mixed."""
    T, H, W = grid
    if x_BTHWC.shape[1] != T:
        x_BTHWC = x_BTHWC[:, torch.arange(T, device=x_BTHWC.device) * x_BTHWC.shape[1] // T]
    if x_BTHWC.shape[2:4] == (H, W):
        return x_BTHWC
    x_NCHW = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)
    out_NCHW = F.interpolate(x_NCHW, (H, W), mode="bilinear", align_corners=False)
    return out_NCHW.permute(0, 2, 3, 1).unflatten(0, (-1, T))


def joined(x_BTHWC: Tensor, lateral_BTHWC: Tensor) -> Tensor:
    """A coarse grid at the resolution of a fine one, and added to it."""
    T, H, W = lateral_BTHWC.shape[1:4]
    return lateral_BTHWC + resized(x_BTHWC, (T, H, W))


class Pyramid(nn.Module):
    """Three levels, each with what all coarser ones know, joined at the resolution of the finest.

    `laterals[i]` brings the grid of level i to the common width: call it when that grid is there. `forward` takes what
    they returned, the finest first. The levels are averaged, or with `route` weighted by a softmax of what the input is
    like at all levels (over the clip, or in the control over each frame); `weights` can be read, (B, 1 or T, 1, 1, S).
    """

    def __init__(self, levels: dict[str, int], dim: int, route: bool, time: bool) -> None:
        super().__init__()
        self.levels, self.dim, self.time = tuple(levels), dim, time
        self.laterals = nn.ModuleDict({name: Linear(width, dim) for name, width in levels.items()})
        self.smooth = nn.ModuleList(ConvPosition(dim, (1, 3, 3)) for _ in levels)
        self.scores = nn.Sequential(nn.LayerNorm(LEVELS * dim), Linear(LEVELS * dim, LEVELS)) if route else None
        self.weights = Reading()

    def forward(self, laterals: Sequence[Tensor]) -> Tensor:
        outs = [laterals[-1]]
        for lateral in laterals[-2::-1]:
            outs.insert(0, joined(outs[0], lateral))
        weights = self.weights(self.weigh(laterals)).to(outs[0].dtype).unbind(-1)
        T, H, W = outs[0].shape[1:4]
        total = torch.zeros_like(outs[0])
        for smooth, out, weight in zip(self.smooth, outs, weights, strict=True):
            total = total + weight[..., None] * resized(smooth(out), (T, H, W))
        return total

    def weigh(self, laterals: Sequence[Tensor]) -> Tensor:
        """The weight of each level, (B, 1 or T, 1, 1, S); they sum to one."""
        if self.scores is None:
            return laterals[0].new_full((1, 1, 1, 1, LEVELS), 1 / LEVELS)
        axes, frames = ((1, 2, 3), 1) if self.time else ((2, 3), laterals[0].shape[1])
        pooled = torch.cat([resized(lateral.mean(axes, keepdim=True), (frames, 1, 1)) for lateral in laterals], -1)
        weights: Tensor = self.scores(pooled).softmax(-1)
        return weights


def three_levels(ends: Ends) -> dict[str, int]:
    """Return channels by name, the finest first, of the last grid of each of the three coarsest resolutions.

    Raises UserError if there are fewer.
    """
    last = {(rows, columns): (name, width) for name, (width, (_, rows, columns)) in ends.items()}
    sizes = sorted(last, reverse=True)
    if len(sizes) < LEVELS:
        found = ", ".join(f"{rows}x{columns}" for rows, columns in sizes)
        raise UserError(
            f"scales needs {LEVELS} resolutions, and stem and stages have {found}; add a stage with merge or stride 2"
        )
    return dict(last[size] for size in sizes[-LEVELS:])


def check_scales(config: HybridConfig, index: int, geometry: bool) -> None:
    """Raise UserError unless `up` of a stage, and `scales`, find grids of frames to join."""
    stage, where = config.stages[index], f"stages[{index}]"
    if stage.up is None and config.scales == "last":
        return
    if not geometry:
        raise UserError(f"{where}: up and scales join the rows and columns of frames, which are pooled")
    if stage.up is None:
        return
    earlier = ["stem", *(f"stage{i + 1}" for i in range(index))]
    if stage.up not in earlier:
        raise UserError(f"{where}.up is {stage.up!r}; give an earlier grid: {', '.join(earlier)}")
    if config.scales != "last":
        raise UserError(f"{where}.up joins resolutions, and so does scales {config.scales}; use one of them")
    if stage.merge or stage.stride > 1 or stage.time_stride > 1:
        raise UserError(f"{where} has up, which enlarges the grid, and merge or a stride; use two stages")
