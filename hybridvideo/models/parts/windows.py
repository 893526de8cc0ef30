"""How a grid is cut into 3-D windows, shifted or not: arithmetic and rearrangement, no parameters.

A `Cut` lists the boxes of the grid in which all windows are alike; attention runs once for each box. There are two:

    masked_parts   Swin's own: the grid is rolled by the shift, all windows are whole, and those at the end of a shifted
                   axis need a mask between the positions that the roll brought together. Windows that share a mask are
                   one box, so there are at most 8 boxes and 8 masks, however many windows: few large operations, which
                   is what a GPU and a compiler want.
    true_parts     nothing is rolled: a shifted window at the border is up to eight small ones, and attention within
                   each needs no mask and 0.43 to 0.75 of the work. Many small operations, which a CPU does not mind.

Along one axis of 14 positions, window 7, shift 3:

    0 1 2 | 3 4 5 6 7 8 9 | 10 11 12 13          true parts: 3, 7 and 4 positions
    3 4 5 6 7 8 9 | 10 11 12 13 : 0 1 2          masked parts: a whole window, and one with a seam after 4 positions

    B batch   T H W grid   C channels   G windows   N positions of one   R rows: all positions, window by window
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

Size = tuple[int, int, int]  # frames, rows, columns
P = ParamSpec("P")
R = TypeVar("R")


def constant(function: Callable[P, R], most: int = 256) -> Callable[P, R]:
    """Cache a function of constants by its arguments; torch.compile takes its result as a constant."""
    cached = lru_cache(maxsize=most)(torch.inference_mode(False)(function))

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    constant_call: Callable[P, R] = torch.compiler.assume_constant_result(call)
    return constant_call


def constant_few(function: Callable[P, R]) -> Callable[P, R]:
    """The same for large results, of which only a few are kept: those of the grids of one model."""
    return constant(function, most=8)


class WindowLayout(NamedTuple):
    """How a grid is divided into windows: all sizes are (frames, rows, columns)."""

    grid: Size
    window: Size
    shift: Size
    padded: Size

    def pad(self, x_BTHWC: Tensor) -> Tensor:
        """Append zeros to each axis, up to a multiple of the window."""
        if self.padded == self.grid:
            return x_BTHWC
        (T, H, W), (t, h, w) = self.padded, self.grid
        return F.pad(x_BTHWC, (0, 0, 0, W - w, 0, H - h, 0, T - t))

    def crop(self, x_BTHWC: Tensor) -> Tensor:
        """Remove the padding."""
        t, h, w = self.grid
        return x_BTHWC if self.padded == self.grid else x_BTHWC[:, :t, :h, :w]


def window_layout(grid: Size, window: Size, shifted: bool) -> WindowLayout:
    """The layout of a grid: windows are clipped to it, and an axis of a single window is not shifted."""
    sides = tuple(min(side, step) for side, step in zip(grid, window, strict=True))
    shift = tuple(step // 2 if shifted and side > step else 0 for side, step in zip(grid, window, strict=True))
    padded = tuple(-(-side // step) * step for side, step in zip(grid, sides, strict=True))
    return WindowLayout(grid, sides, shift, padded)  # type: ignore[arg-type]


def windowed(x_BTHWC: Tensor, window: Size) -> Tensor:
    """(B, T, H, W, C) -> (B, G, N, C), for sides that are multiples of the window's."""
    t, h, w = window
    return rearrange(x_BTHWC, "B (T t) (H h) (W w) C -> B (T H W) (t h w) C", t=t, h=h, w=w)


def unwindowed(x_BGNC: Tensor, grid: Size, window: Size) -> Tensor:
    """(B, G, N, C) -> (B, T, H, W, C)."""
    T, H, W = (side // step for side, step in zip(grid, window, strict=True))
    t, h, w = window
    return rearrange(x_BGNC, "B (T H W) (t h w) C -> B (T t) (H h) (W w) C", T=T, H=H, W=W, t=t, h=h, w=w)


class Part(NamedTuple):
    """A box of the grid in which all windows have one size and one mask."""

    start: Size
    stop: Size
    window: Size
    offset: Size
    """Place of these windows in a whole window."""
    seam: Size = (0, 0, 0)
    """Positions of a window before the seam, along each axis; attention must not cross it. 0: no seam."""

    @property
    def tokens(self) -> int:
        """Positions of one window."""
        return self.window[0] * self.window[1] * self.window[2]

    @property
    def grid(self) -> Size:
        """Sides of the box."""
        return tuple(stop - start for start, stop in zip(self.start, self.stop, strict=True))  # type: ignore[return-value]

    def of(self, x_BTHWC: Tensor) -> Tensor:
        """The box, a view."""
        (t, h, w), (T, H, W) = self.start, self.stop
        return x_BTHWC[:, t:T, h:H, w:W]


class Cut(NamedTuple):
    """The parts of a padded grid. Rows are ordered by part, then clip, then window."""

    padded: Size
    parts: tuple[Part, ...]
    roll: Size = (0, 0, 0)
    """Positions by which the grid is rolled backwards before it is cut."""

    def rows_of(self, part: Part, batch: int) -> int:
        """Number of rows of a part."""
        T, H, W = part.grid
        return batch * T * H * W

    def gather(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (R, C)."""
        if any(self.roll):
            x_BTHWC = x_BTHWC.roll([-step for step in self.roll], (1, 2, 3))
        rows = [windowed(part.of(x_BTHWC), part.window).flatten(0, 2) for part in self.parts]
        return torch.cat(rows) if len(rows) > 1 else rows[0]

    def scatter(self, x_RC: Tensor, batch: int) -> Tensor:
        """(R, C) -> (B, T, H, W, C)."""
        if len(self.parts) == 1:
            (part,) = self.parts
            return unwindowed(x_RC.view(batch, -1, part.tokens, x_RC.shape[1]), self.padded, part.window)
        out = x_RC.new_empty(batch, *self.padded, x_RC.shape[1])
        for part, rows in self.split(x_RC, batch):
            part.of(out).copy_(unwindowed(rows, part.grid, part.window))
        return out.roll(self.roll, (1, 2, 3)) if any(self.roll) else out

    def split(self, x_RC: Tensor, batch: int) -> list[tuple[Part, Tensor]]:
        """Each part with its rows as (B, G, N, C), views."""
        rows = x_RC.split([self.rows_of(part, batch) for part in self.parts])
        return [
            (part, piece.view(batch, -1, part.tokens, x_RC.shape[1]))
            for part, piece in zip(self.parts, rows, strict=True)
        ]

    def everything(self, batch: int) -> tuple[Windows, ...]:
        """All rows, a run for each part."""
        stops = itertools.accumulate(self.rows_of(part, batch) for part in self.parts)
        return tuple(
            Windows(part, stop - self.rows_of(part, batch), stop) for part, stop in zip(self.parts, stops, strict=True)
        )

    def portions(self, batch: int, most: int) -> tuple[tuple[Windows, ...], ...]:
        """All rows in order, in groups of at most about `most` rows; a window is never divided."""
        return portions_of(self, batch, most)


class Windows(NamedTuple):
    """A run of rows that are windows of one part."""

    part: Part
    start: int
    stop: int


@lru_cache(maxsize=256)
def portions_of(cut: Cut, batch: int, most: int) -> tuple[tuple[Windows, ...], ...]:
    """See `Cut.portions`."""
    portions: list[tuple[Windows, ...]] = []
    group: list[Windows] = []
    for part, start, stop in cut.everything(batch):
        step = max(1, most // part.tokens) * part.tokens
        for at in range(start, stop, step):
            windows = Windows(part, at, min(at + step, stop))
            if group and windows.stop - group[0].start > most:
                portions.append(tuple(group))
                group = []
            group.append(windows)
    return (*portions, tuple(group))


@lru_cache(maxsize=256)
def true_parts(layout: WindowLayout) -> Cut:
    """The boxes of a layout within which Swin's mask lets positions see each other."""
    axes = [axis_parts(*sides) for sides in zip(layout.padded, layout.window, layout.shift, strict=True)]
    boxes = [Part(*zip(*box, strict=True)) for box in itertools.product(*axes)]
    return Cut(layout.padded, tuple(boxes))


def axis_parts(side: int, window: int, shift: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, size of the windows in it, their place in a whole window) along one axis."""
    if not shift:
        return [(0, side, window, 0)]
    last = side - (window - shift)
    parts = [(0, shift, shift, window - shift), (shift, last, window, 0), (last, side, window - shift, 0)]
    return [part for part in parts if part[0] < part[1]]


def masked_parts(layout: WindowLayout) -> Cut:
    """The boxes of a rolled layout in which all windows have the same mask: at most two along each axis."""
    axes = [axis_seams(*sides) for sides in zip(layout.padded, layout.window, layout.shift, strict=True)]
    boxes = [Part(*zip(*box, strict=True)) for box in itertools.product(*axes)]
    return Cut(layout.padded, tuple(boxes), layout.shift)


def axis_seams(side: int, window: int, shift: int) -> list[tuple[int, int, int, int, int]]:
    """(start, stop, size of the windows in it, 0, positions before the seam) along one rolled axis."""
    if not shift:
        return [(0, side, window, 0, 0)]
    last = side - window
    return [(0, last, window, 0, 0), (last, side, window, 0, window - shift)]


class Gathered(torch.autograd.Function):
    """`Cut.gather`, whose gradient is `Cut.scatter`; autograd's own would fill the grid with zeros for each part."""

    @staticmethod
    def forward(x_BTHWC: Tensor, cut: Cut) -> Tensor:
        return cut.gather(x_BTHWC)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Cut], output: Tensor) -> None:
        ctx.cut, ctx.batch = inputs[1], inputs[0].shape[0]

    @staticmethod
    def backward(ctx: Any, grad_RC: Tensor) -> tuple[Tensor, None]:
        return ctx.cut.scatter(grad_RC.contiguous(), ctx.batch), None


class Scattered(torch.autograd.Function):
    """`Cut.scatter`, whose gradient is `Cut.gather`."""

    @staticmethod
    def forward(x_RC: Tensor, cut: Cut, batch: int) -> Tensor:
        return cut.scatter(x_RC, batch)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Cut, int], output: Tensor) -> None:
        ctx.cut = inputs[1]

    @staticmethod
    def backward(ctx: Any, grad_BTHWC: Tensor) -> tuple[Tensor, None, None]:
        return ctx.cut.gather(grad_BTHWC), None, None


@constant
def relative_index(window: Size, table_window: Size, device: torch.device) -> Tensor:
    """(N, N) rows of the flat bias table: the offset between positions of `window`, counted in `table_window`."""
    axes = [torch.arange(side, device=device) for side in window]
    place_N3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    offset_NN3 = place_N3[:, None] - place_N3[None] + torch.tensor(table_window, device=device) - 1
    _, rows, columns = (2 * side - 1 for side in table_window)
    index: Tensor = (offset_NN3[..., 0] * rows + offset_NN3[..., 1]) * columns + offset_NN3[..., 2]
    return index


@constant
def seam_mask(window: Size, seam: Size, device: torch.device) -> Tensor:
    """(N, N): 0 between positions of a window on the same side of all seams, else -100 as in Swin."""
    region = torch.zeros(window, dtype=torch.long, device=device)
    for axis, (side, before) in enumerate(zip(window, seam, strict=True)):
        beyond = (torch.arange(side, device=device) >= before).long() if before else torch.zeros_like(region[:1, 0, 0])
        region = region * 2 + beyond.view([-1 if i == axis else 1 for i in range(3)])
    region_N = region.flatten()
    return (region_N[:, None] != region_N).float() * -100.0


def positions_in(window: Size, offset: Size, whole: Size) -> list[int]:
    """Flat places in a whole window of the positions of a smaller one at an offset."""
    ranges = [range(start, start + side) for start, side in zip(offset, window, strict=True)]
    return [(t * whole[1] + h) * whole[2] + w for t, h, w in itertools.product(*ranges)]
