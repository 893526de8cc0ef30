"""Attention on a grid: who attends to whom, with one signature for all.

Each class maps (B, T, H, W, C) to the same shape; `attend` does the work, for all on 4-D tensors.

    B batch   T H W grid   C channels   h heads   d channels of a head   N tokens that see each other   G groups of them
    R rows: all positions, window by window

With a `relative` position, a bias of the offset between two positions is added to their scores (see `relative`).

Sources: divided attention, Bertasius et al. 2021 (TimeSformer); 3-D shifted windows, Liu et al. 2022 (Video Swin).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.attend import attend, attend_packed
from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.linear import Linear, in_parts
from hybridvideo.models.parts.relative import RelativeMlp, RelativePosition
from hybridvideo.models.parts.shortcuts import shortcuts_allowed
from hybridvideo.models.parts.windows import (
    Cut,
    Gathered,
    Scattered,
    Size,
    WindowLayout,
    Windows,
    constant,
    masked_parts,
    positions_in,
    relative_index,
    seam_mask,
    true_parts,
    window_layout,
)


class GroupedAttention(nn.Module):
    """Multi-head self-attention among the N tokens of each group; subclasses define the groups."""

    def __init__(self, dim: int, heads: int, relative: RelativePosition | None = None) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, stacked=(dim, dim, dim))
        self.proj = Linear(dim, dim)
        self.relative = relative

    def attend(self, x_GNC: Tensor, grid: Size | None = None) -> Tensor:
        """Every token of a group to every other, (G, N, C); of this grid, if positions are relative."""
        if self.relative is not None:
            assert grid is not None
            qkv_GNthd = self.packed(x_GNC)
            return self.proj(attend_packed(qkv_GNthd, self.relative(grid, qkv_GNthd)).flatten(2))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project(x_GNC))
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return out

    def project(self, x_GNC: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values (G, N, C). On a CPU each contiguous: the kernel's reads lie closer together."""
        return in_parts(self.qkv, x_GNC, 3) if x_GNC.is_cpu else self.qkv(x_GNC).chunk(3, -1)

    def packed(self, x: Tensor) -> Tensor:
        """Queries, keys and values in one tensor (..., 3, h, d)."""
        qkv: Tensor = self.qkv(x)
        return qkv.view(*x.shape[:-1], 3, self.heads, -1)


class JointAttention(GroupedAttention):
    """All positions of all frames; of any number of axes between batch and channels."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        grid = None if self.relative is None else sides(x_BTHWC)
        return self.attend(x_BTHWC.flatten(1, -2), grid).view(x_BTHWC.shape)


class SpatialAttention(GroupedAttention):
    """Positions of one frame."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, _ = x_BTHWC.shape
        grid = None if self.relative is None else (1, *sides(x_BTHWC)[1:])
        out = self.attend(rearrange(x_BTHWC, "B T H W C -> (B T) (H W) C"), grid)
        return rearrange(out, "(B T) (H W) C -> B T H W C", B=B, T=T, H=H, W=W)


class TemporalAttention(GroupedAttention):
    """One position through all frames. Positions are further heads, so that nothing is copied into another order."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_BTNC = x_BTHWC.flatten(2, 3)
        if self.relative is None or self.bias_is_small(x_BTNC):
            out = self.all_at_once(x_BTNC)
        else:
            out = self.clip_by_clip(x_BTNC)
        return self.proj(out).view(x_BTHWC.shape)

    def bias_is_small(self, x_BTNC: Tensor) -> bool:
        """Whether the bias, repeated for each position, has no more numbers than a clip's queries.

        On a CPU it always goes clip by clip: a call costs little, and no scores are kept.
        """
        eager_cpu = x_BTNC.is_cpu and not torch.compiler.is_compiling()
        return not eager_cpu and x_BTNC.shape[1] * self.heads <= x_BTNC.shape[3]

    def all_at_once(self, x_BTNC: Tensor) -> Tensor:
        """All clips and positions in one call."""
        bias = None if self.relative is None else self.over_time(x_BTNC, x_BTNC).repeat(1, x_BTNC.shape[2], 1, 1)
        return through_time(self, x_BTNC, bias)

    def clip_by_clip(self, x_BTNC: Tensor) -> Tensor:
        """Positions are groups, which share one bias: a view of each clip, but not of the batch."""
        qkv_BTNthd = self.packed(x_BTNC)
        bias_1hTT = self.over_time(x_BTNC, qkv_BTNthd)
        clips = [attend_packed(clip.transpose(0, 1), bias_1hTT).transpose(0, 1) for clip in qkv_BTNthd]
        return torch.stack(clips).view(x_BTNC.shape)

    def over_time(self, x_BTNC: Tensor, like: Tensor) -> Tensor:
        """The bias of the frames among each other, (1, h, T, T)."""
        assert self.relative is not None
        out: Tensor = self.relative((len(range(x_BTNC.shape[1])), 1, 1), like)
        return out


def through_time(attention: GroupedAttention, x_BTNC: Tensor, bias: Tensor | None = None) -> Tensor:
    """One position through all frames, by the queries, keys and values of any attention, before its projection."""
    q, k, v = temporal_heads(in_parts(attention.qkv, x_BTNC, 3), attention.heads)
    return attend(q, k, v, bias if bias is None else bias.to(q.dtype)).transpose(1, 2).reshape(x_BTNC.shape)


def sides(x_BTHWC: Tensor) -> Size:
    """Frames, rows and columns as plain numbers: torch.compile would make symbols of them."""
    T, H, W = (len(range(side)) for side in x_BTHWC.shape[1:4])
    return T, H, W


def temporal_heads(parts_BTNC: Sequence[Tensor], heads: int) -> list[Tensor]:
    """Queries, keys and values of N places -> (B, N * h, T, d), as views if memory allows."""
    B, T, N, C = parts_BTNC[0].shape
    return [part.reshape(B, T, N * heads, C // heads).transpose(1, 2) for part in parts_BTNC]


class WindowAttention3d(GroupedAttention):
    """Windows of (frames, rows, columns), shifted by half a window if `shifted`, with relative position bias.

    A grid that does not divide by the window is padded with zeros at its end; a window larger than the grid is
    clipped to it and not shifted. Which positions see each other is as in Swin; how it is computed depends on the
    device (see `windows`): by `true_parts` on an eager CPU, by `masked_parts` elsewhere.

    `clipped_bias` chooses the entries of the bias table for a clipped window: those of the true offsets, or, as in the
    published Video Swin, of the `first` positions of a whole window (the same if only time is clipped). With
    `by_mlp` a network of the offset takes the table's place.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        window: Size,
        shifted: bool,
        clipped_bias: Literal["offsets", "first"] = "offsets",
        by_mlp: bool = False,
    ) -> None:
        super().__init__(dim, heads, RelativeMlp(heads) if by_mlp else None)
        self.window, self.shifted, self.clipped_bias = window, shifted, clipped_bias
        if not by_mlp:
            t, h, w = (2 * side - 1 for side in window)
            self.bias_table = nn.Parameter(torch.zeros(t, h, w, heads))
        self.cached = Cached[Biases]()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        layout = window_layout(sides(x_BTHWC), self.window, self.shifted)
        return self.through(x_BTHWC, layout, true_parts(layout) if parts_are_faster(x_BTHWC) else masked_parts(layout))

    def through(self, x_BTHWC: Tensor, layout: WindowLayout, cut: Cut) -> Tensor:
        """Attention within the windows of a cut, part after part."""
        B, x_BTHWC = x_BTHWC.shape[0], layout.pad(x_BTHWC)
        compiling = torch.compiler.is_compiling()
        x_RC: Tensor = cut.gather(x_BTHWC) if compiling else Gathered.apply(x_BTHWC, cut)
        out_RC = self.attend_rows(x_RC, cut.everything(B), self.biases(layout, cut, x_RC))
        return layout.crop(cut.scatter(out_RC, B) if compiling else Scattered.apply(out_RC, cut, B))

    def attend_rows(self, x_RC: Tensor, runs: Sequence[Windows], biases: Biases) -> Tensor:
        """Attention of neighbouring rows in their windows, with its projections; rows in, rows out."""
        outs = []
        pieces = self.qkv(x_RC).split([stop - start for _, start, stop in runs])
        for (part, _, _), piece in zip(runs, pieces, strict=True):
            qkv_GNthd = piece.view(-1, part.tokens, 3, self.heads, piece.shape[1] // (3 * self.heads))
            bias_1hNN = biases[part.window, part.offset].to(piece.dtype)
            if any(part.seam):
                bias_1hNN = bias_1hNN + seam_mask(part.window, part.seam, piece.device).to(piece.dtype)
            outs.append(attend_packed(qkv_GNthd, bias_1hNN).flatten(0, 1).flatten(1))
        out: Tensor = self.proj(torch.cat(outs) if len(outs) > 1 else outs[0])
        return out

    def biases(self, layout: WindowLayout, cut: Cut, like: Tensor) -> Biases:
        """The bias of each kind of window in a cut. Masks are not cached: as many as there are kinds of border."""
        kinds = dict.fromkeys((part.window, part.offset) for part in cut.parts)

        def make() -> Biases:
            table = self.table()
            return {kind: self.bias(table, layout, *kind, like) for kind in kinds}

        sources = (self.bias_table,) if self.relative is None else tuple(self.relative.parameters())
        return self.cached.get(sources, make, layout, *kinds, self.clipped_bias, like.dtype, like.device)

    def table(self) -> Tensor:
        """The bias of every offset within a whole window, (2t-1, 2h-1, 2w-1, h)."""
        return self.bias_table if self.relative is None else self.relative.table(self.window)

    def bias(self, table_THWh: Tensor, layout: WindowLayout, window: Size, offset: Size, like: Tensor) -> Tensor:
        """(1, h, N, N) for windows of a size at a place in the whole window."""
        index_NN = bias_index(layout.window, self.window, self.clipped_bias, window, offset, like.device)
        return table_THWh.flatten(0, 2)[index_NN].permute(2, 0, 1)[None].to(like.dtype)


Biases = dict[tuple[Size, Size], Tensor]  # (window, its offset in the whole window) -> (1, h, N, N)


def parts_are_faster(x: Tensor) -> bool:
    """Return whether many small operations beat a few large ones: on a CPU, but not on a GPU or for a compiler."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling() and shortcuts_allowed()


@constant
def bias_index(
    whole: Size, table_window: Size, clipped: str, window: Size, offset: Size, device: torch.device
) -> Tensor:
    """(N, N) rows of the flat bias table for windows of a size at an offset in a `whole` one."""
    count = whole[0] * whole[1] * whole[2]
    if clipped == "first":
        index_NN = relative_index(table_window, table_window, device)[:count, :count]
    else:
        index_NN = relative_index(whole, table_window, device)
    if window == whole:
        return index_NN
    places = torch.tensor(positions_in(window, offset, whole), device=device)
    return index_NN[places[:, None], places]
