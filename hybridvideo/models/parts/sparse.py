"""Sparse attention: each window of the grid attends to itself and to random positions of the whole clip.

After Zaheer et al. 2020 (Big Bird), in three dimensions: the cost grows with the positions, and no two of them are more
than a few blocks apart. Windows at the end of an axis are smaller; nothing is padded or masked.

    B batch   T H W grid   N all positions, window by window   G windows of one size   n positions of one
    R random keys   M = n + R keys   C channels   h heads   d channels of a head
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.attention import GroupedAttention, sides
from hybridvideo.models.parts.relative import RelativePosition
from hybridvideo.models.parts.windows import Part, Size, constant, constant_few, unwindowed, windowed


class SparseAttention(GroupedAttention):
    """Local windows and random keys, the same keys in each forward pass for a size of grid.

    Args:
        window: frames, rows, columns.
        random_keys: for each window, drawn from all positions outside it; fewer if there are not so many.
        seed: of the draw; layers should differ.
        relative: a bias of the true offset, also to the random keys.
        frames_apart: windows and random keys within each frame.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: Size,
        random_keys: int,
        seed: int = 0,
        relative: RelativePosition | None = None,
        frames_apart: bool = False,
    ) -> None:
        super().__init__(dim, heads, relative)
        self.window, self.random_keys, self.seed, self.frames_apart = window, random_keys, seed, frames_apart

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = x_BTHWC.flatten(0, 1)[:, None] if self.frames_apart else x_BTHWC
        parts = local_parts(sides(x), self.window)
        pieces = [windowed(part.of(x), part.window) for part in parts]
        qkv_BN3hd = self.packed(torch.cat([piece.flatten(1, 2) for piece in pieces], 1))
        outs_BNC, start = [], 0
        for i, piece in enumerate(pieces):
            _, G, n, _ = piece.shape
            outs_BNC.append(self.attend_part(qkv_BN3hd, sides(x), i, slice(start, start + G * n), G))
            start += G * n
        out = self.proj(torch.cat(outs_BNC, 1))
        return in_place_of(out, parts, sides(x)).view(x_BTHWC.shape)

    def attend_part(self, qkv_BN3hd: Tensor, grid: Size, part: int, rows: slice, windows: int) -> Tensor:
        """Attention of the windows of one part, (B, G * n, C)."""
        B, _, _, h, d = qkv_BN3hd.shape
        index_GR = random_places(grid, self.window, part, self.random_keys, self.seed, qkv_BN3hd.device)
        q, k, v = qkv_BN3hd[:, rows].unflatten(1, (windows, -1)).permute(3, 0, 1, 4, 2, 5)  # each B, G, h, n, d
        if index_GR.shape[1]:
            far = qkv_BN3hd[:, :, 1:].index_select(1, index_GR.flatten()).unflatten(1, index_GR.shape)
            far_k, far_v = far.permute(3, 0, 1, 4, 2, 5)
            k, v = torch.cat([k, far_k], 3), torch.cat([v, far_v], 3)
        if self.relative is None:
            out = attend(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1))
        else:  # each window has its own bias
            out = attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), self.bias(grid, part, q))
        return out.view(B, windows, h, -1, d).transpose(2, 3).flatten(3).flatten(1, 2)

    def bias(self, grid: Size, part: int, like: Tensor) -> Tensor:
        """(1, G * h, n, M)."""
        relative = self.relative
        assert relative is not None
        settings = grid, self.window, part, self.random_keys, self.seed

        def make() -> Tensor:
            table = relative.table(grid)
            index_GnM = key_offsets(*settings, table.device)
            flat = table.flatten(0, 2).t().index_select(1, index_GnM.flatten())
            return flat.unflatten(1, index_GnM.shape).transpose(0, 1).flatten(0, 1)[None]

        return relative.lookup(make, settings, like)


def in_place_of(x_BNC: Tensor, parts: tuple[Part, ...], grid: Size) -> Tensor:
    """Positions window by window -> the grid (B, T, H, W, C)."""
    (T, H, W), C = grid, x_BNC.shape[2]
    rows = x_BNC.split([box_size(part) for part in parts], 1)
    boxes = [
        unwindowed(piece.unflatten(1, (-1, part.tokens)), part.grid, part.window)
        for part, piece in zip(parts, rows, strict=True)
    ]
    if len(boxes) == 1:
        return boxes[0]
    out = x_BNC.new_empty(len(x_BNC), T, H, W, C)
    for part, box in zip(parts, boxes, strict=True):
        part.of(out).copy_(box)
    return out


def box_size(part: Part) -> int:
    """Positions of all windows of a part."""
    T, H, W = part.grid
    return T * H * W


def local_parts(grid: Size, window: Size) -> tuple[Part, ...]:
    """The boxes of a grid in which windows have one size: whole ones, and along each axis what remains at its end."""
    axes = []
    for side, step in zip(grid, window, strict=True):
        step = min(side, step)
        whole = side - side % step
        axes.append([(0, whole, step, 0), (whole, side, side - whole, 0)] if whole < side else [(0, side, step, 0)])
    return tuple(Part(*zip(*box, strict=True)) for box in itertools.product(*axes))


@constant
def random_places(grid: Size, window: Size, part: int, keys: int, seed: int, device: torch.device) -> Tensor:
    """(G, R) places, in the order of windows, of the random keys of each window of a part: none twice, none its own."""
    parts = local_parts(grid, window)
    total, start = sum(map(box_size, parts)), sum(map(box_size, parts[:part]))
    n = parts[part].tokens
    keys = min(keys, total - n)
    random = torch.Generator().manual_seed(seed * len(parts) + part)
    rows = []
    for first in range(start, start + box_size(parts[part]), n):
        others = torch.randperm(total - n, generator=random)[:keys]
        rows.append(others + n * (others >= first))
    return torch.stack(rows).to(device)


@constant_few
def key_offsets(grid: Size, window: Size, part: int, keys: int, seed: int, device: torch.device) -> Tensor:
    """(G, n, M) rows of the grid's flat table for each query of a window and its own and random keys."""
    parts = local_parts(grid, window)
    start, n = sum(map(box_size, parts[:part])), parts[part].tokens
    place_N3 = places_by_window(parts, grid)
    own_Gn3 = place_N3[start : start + box_size(parts[part])].view(-1, n, 3)
    random_GR3 = place_N3[random_places(grid, window, part, keys, seed, torch.device("cpu"))]
    keys_GM3 = torch.cat([own_Gn3, random_GR3], 1)
    offset = own_Gn3[:, :, None] - keys_GM3[:, None] + torch.tensor(grid) - 1
    _, rows, columns = (2 * side - 1 for side in grid)
    return ((offset[..., 0] * rows + offset[..., 1]) * columns + offset[..., 2]).int().to(device)


def places_by_window(parts: tuple[Part, ...], grid: Size) -> Tensor:
    """(N, 3) frame, row and column of every position, in the order of windows."""
    axes = torch.meshgrid(*(torch.arange(side, device="cpu") for side in grid), indexing="ij")
    place_1THW3 = torch.stack(axes, -1)[None]
    return torch.cat([windowed(part.of(place_1THW3), part.window).flatten(0, 2) for part in parts])
