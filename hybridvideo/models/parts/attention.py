"""Attention on a grid: who attends to whom, with one signature for all.

Each class maps (B, T, H, W, C) to the same shape; `attend` does the work, for all on 4-D tensors.

    B batch   T H W grid   C channels   h heads   d channels of a head   N tokens that see each other   G groups of them
    R rows: all positions, window by window

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

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, stacked=(dim, dim, dim))
        self.proj = Linear(dim, dim)

    def attend(self, x_GNC: Tensor) -> Tensor:
        """Every token of a group to every other, (G, N, C)."""
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.project(x_GNC))
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return out

    def project(self, x_GNC: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values (G, N, C). On a CPU each contiguous: the kernel's reads lie closer together."""
        return in_parts(self.qkv, x_GNC, 3) if x_GNC.is_cpu else self.qkv(x_GNC).chunk(3, -1)


class JointAttention(GroupedAttention):
    """All positions of all frames; of any number of axes between batch and channels."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.attend(x_BTHWC.flatten(1, -2)).view(x_BTHWC.shape)


class SpatialAttention(GroupedAttention):
    """Positions of one frame."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, _ = x_BTHWC.shape
        out = self.attend(rearrange(x_BTHWC, "B T H W C -> (B T) (H W) C"))
        return rearrange(out, "(B T) (H W) C -> B T H W C", B=B, T=T, H=H, W=W)


class TemporalAttention(GroupedAttention):
    """One position through all frames. Positions are further heads, so that nothing is copied into another order."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, C = x_BTHWC.shape
        q, k, v = temporal_heads(in_parts(self.qkv, x_BTHWC.flatten(2, 3), 3), self.heads)
        out: Tensor = self.proj(attend(q, k, v).transpose(1, 2).reshape(B, T, H * W, C))
        return out.view(B, T, H, W, -1)


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
    published Video Swin, of the `first` positions of a whole window (the same if only time is clipped).
    """

    def __init__(
        self, dim: int, heads: int, window: Size, shifted: bool, clipped_bias: Literal["offsets", "first"] = "offsets"
    ) -> None:
        super().__init__(dim, heads)
        self.window, self.shifted, self.clipped_bias = window, shifted, clipped_bias
        t, h, w = (2 * side - 1 for side in window)
        self.bias_table = nn.Parameter(torch.zeros(t, h, w, heads))
        self.cached = Cached[Biases]()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        # A plain number: torch.compile would make a size of the grid a symbol, but each size has its own windows.
        T, H, W = (len(range(side)) for side in x_BTHWC.shape[1:4])
        layout = window_layout((T, H, W), self.window, self.shifted)
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
        make = lambda: {kind: self.bias(layout, *kind, like) for kind in kinds}  # noqa: E731
        return self.cached.get((self.bias_table,), make, layout, *kinds, self.clipped_bias, like.dtype, like.device)

    def bias(self, layout: WindowLayout, window: Size, offset: Size, like: Tensor) -> Tensor:
        """(1, h, N, N) for windows of a size at a place in the whole window."""
        index_NN = bias_index(layout.window, self.window, self.clipped_bias, window, offset, like.device)
        return self.bias_table.flatten(0, 2)[index_NN].permute(2, 0, 1)[None].to(like.dtype)


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
