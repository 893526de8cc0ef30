"""How a grid is cut into 3-D windows, shifted or not: arithmetic and rearrangement, no parameters.

Two ways to the same result. `WindowLayout` is Swin's own: pad, roll, cut, and a mask that keeps those apart that the
roll brought into one window; few large operations, which is what a GPU and a compiler want. `Cut` cuts the true parts:
a shifted window at the border is up to eight small ones, attention within each needs no mask and 0.43 to 0.75 of the
work. Along one axis of 14 positions, window 7, shift 3:

    0 1 2 | 3 4 5 6 7 8 9 | 10 11 12 13          parts of 3, 7 and 4 positions; Swin masks (10 .. 13, 0 .. 2)

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


def constant(function: Callable[P, R]) -> Callable[P, R]:
    """Computed once for the same arguments; to torch.compile a constant."""
    cached = lru_cache(maxsize=256)(torch.inference_mode(False)(function))

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return cached(*args, **kwargs)  # type: ignore[arg-type]

    constant_call: Callable[P, R] = torch.compiler.assume_constant_result(call)
    return constant_call


class WindowLayout(NamedTuple):
    """How a grid is cut into windows: all sizes are (frames, rows, columns)."""

    grid: Size
    window: Size
    shift: Size
    padded: Size

    @property
    def windows(self) -> int:
        """Windows in one grid."""
        T, H, W = (side // step for side, step in zip(self.padded, self.window, strict=True))
        return T * H * W

    def pad(self, x_BTHWC: Tensor) -> Tensor:
        """Zeros at the end of each axis, up to whole windows."""
        if self.padded == self.grid:
            return x_BTHWC
        (T, H, W), (t, h, w) = self.padded, self.grid
        return F.pad(x_BTHWC, (0, 0, 0, W - w, 0, H - h, 0, T - t))

    def crop(self, x_BTHWC: Tensor) -> Tensor:
        """Without the padding."""
        t, h, w = self.grid
        return x_BTHWC if self.padded == self.grid else x_BTHWC[:, :t, :h, :w]

    def split(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B * G, N, C)."""
        x_BTHWC = self.pad(x_BTHWC)
        if any(self.shift):
            x_BTHWC = x_BTHWC.roll([-step for step in self.shift], (1, 2, 3))
        return windowed(x_BTHWC, self.window).flatten(0, 1)

    def join(self, x_GNC: Tensor, batch: int) -> Tensor:
        """(B * G, N, C) -> (B, T, H, W, C)."""
        x = unwindowed(x_GNC.unflatten(0, (batch, -1)), self.padded, self.window)
        if any(self.shift):
            x = x.roll(self.shift, (1, 2, 3))
        return self.crop(x)


def window_layout(grid: Size, window: Size, shifted: bool) -> WindowLayout:
    """Windows clipped to the grid; a side of one window is not shifted."""
    sides = tuple(min(side, step) for side, step in zip(grid, window, strict=True))
    shift = tuple(step // 2 if shifted and side > step else 0 for side, step in zip(grid, window, strict=True))
    padded = tuple(-(-side // step) * step for side, step in zip(grid, sides, strict=True))
    return WindowLayout(grid, sides, shift, padded)  # type: ignore[arg-type]


def windowed(x_BTHWC: Tensor, window: Size) -> Tensor:
    """(B, T, H, W, C) -> (B, G, N, C); sides that divide."""
    t, h, w = window
    return rearrange(x_BTHWC, "B (T t) (H h) (W w) C -> B (T H W) (t h w) C", t=t, h=h, w=w)


def unwindowed(x_BGNC: Tensor, grid: Size, window: Size) -> Tensor:
    """(B, G, N, C) -> (B, T, H, W, C)."""
    T, H, W = (side // step for side, step in zip(grid, window, strict=True))
    t, h, w = window
    return rearrange(x_BGNC, "B (T H W) (t h w) C -> B (T t) (H h) (W w) C", T=T, H=H, W=W, t=t, h=h, w=w)


class Part(NamedTuple):
    """A box of the grid in which all windows have one size, and where in a whole window they lie."""

    start: Size
    stop: Size
    window: Size
    offset: Size

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

    def rows_of(self, part: Part, batch: int) -> int:
        """Rows of a part."""
        T, H, W = part.grid
        return batch * T * H * W

    def gather(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (R, C)."""
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
        return out

    def split(self, x_RC: Tensor, batch: int) -> list[tuple[Part, Tensor]]:
        """Each part with its rows as (B, G, N, C), views."""
        rows = x_RC.split([self.rows_of(part, batch) for part in self.parts])
        return [(part, piece.view(batch, -1, part.tokens, x_RC.shape[1]))
                for part, piece in zip(self.parts, rows, strict=True)]  # fmt: skip

    def portions(self, batch: int, most: int) -> tuple[tuple[Windows, ...], ...]:
        """All rows in order, in groups of about `most` of them or less; a window is never divided."""
        return portions_of(self, batch, most)


class Windows(NamedTuple):
    """Neighbouring rows that are windows of one part."""

    part: Part
    start: int
    stop: int


@lru_cache(maxsize=256)
def portions_of(cut: Cut, batch: int, most: int) -> tuple[tuple[Windows, ...], ...]:
    """See `Cut.portions`."""
    portions: list[tuple[Windows, ...]] = []
    group: list[Windows] = []
    start = 0
    for part in cut.parts:
        stop, step = start + cut.rows_of(part, batch), max(1, most // part.tokens) * part.tokens
        for at in range(start, stop, step):
            windows = Windows(part, at, min(at + step, stop))
            if group and windows.stop - group[0].start > most:
                portions.append(tuple(group))
                group = []
            group.append(windows)
        start = stop
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
def shift_mask(padded: Size, window: Size, shift: Size, device: torch.device) -> Tensor:
    """(G, N, N): 0 where two positions of a window were neighbours before the shift, else -100 as in Swin."""
    region = torch.zeros(1, *padded, 1, device=device)
    for axis, (side, step, rolled) in enumerate(zip(padded, window, shift, strict=True)):
        place = torch.arange(side, device=device)
        part = (place >= side - step).long() + (place >= side - rolled).long() if rolled else place * 0
        region = region * 3 + part.view([-1 if i == axis + 1 else 1 for i in range(5)])
    region_GN = windowed(region, window)[0, ..., 0]
    return (region_GN[:, :, None] != region_GN[:, None]).float() * -100.0


def positions_in(part: Part, window: Size) -> list[int]:
    """Flat places of a part's positions in the whole window."""
    ranges = [range(start, start + side) for start, side in zip(part.offset, part.window, strict=True)]
    return [(t * window[1] + h) * window[2] + w for t, h, w in itertools.product(*ranges)]
