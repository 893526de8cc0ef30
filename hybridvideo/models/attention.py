"""Attention on a grid: which positions look at which, one signature for all.

Each class maps (B, T, H, W, C) to the same shape; scaled-dot-product attention does the work, always on 4-D
tensors, since 5-D ones fall back to the slow math kernel.

    B batch   T H W grid   C channels   h heads   d channels of a head   N tokens that see each other   G groups of them

Sources: divided attention, Bertasius et al. 2021 (TimeSformer); 3-D shifted windows, Liu et al. 2022 (Video Swin).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridvideo.errors import UserError

Size = tuple[int, int, int]  # frames, rows, columns


class GroupedAttention(nn.Module):
    """Multi-head self-attention among the N tokens of each group; subclasses say which tokens form a group."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise UserError(f"{dim} channels do not divide into {heads} heads; change heads or dim")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def attend(self, x_GNC: Tensor) -> Tensor:
        """Every token of a group to every other."""
        q, k, v = rearrange(self.qkv(x_GNC), "G N (three h d) -> three G h N d", three=3, h=self.heads)
        out_GhNd = F.scaled_dot_product_attention(q, k, v)
        return self.proj(rearrange(out_GhNd, "G h N d -> G N (h d)"))


class JointAttention(GroupedAttention):
    """All positions of all frames."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        return self.attend(x_BTHWC.flatten(1, 3)).reshape(x_BTHWC.shape)


class SpatialAttention(GroupedAttention):
    """Positions of one frame."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, _ = x_BTHWC.shape
        out = self.attend(rearrange(x_BTHWC, "B T H W C -> (B T) (H W) C"))
        return rearrange(out, "(B T) (H W) C -> B T H W C", B=B, T=T, H=H, W=W)


class TemporalAttention(GroupedAttention):
    """One position through all frames."""

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, _, H, W, _ = x_BTHWC.shape
        out = self.attend(rearrange(x_BTHWC, "B T H W C -> (B H W) T C"))
        return rearrange(out, "(B H W) T C -> B T H W C", B=B, H=H, W=W)


class WindowAttention3d(GroupedAttention):
    """Windows of (frames, rows, columns), shifted by half a window where `shifted`, with relative position bias.

    A grid that does not divide by the window is padded with zeros at its end; a window larger than the grid is
    clipped to it and not shifted. Bias and shift mask make one additive mask for the fused kernel: the index
    tables and the shift mask are computed once per grid size, the sum once per change of the bias in evaluation.
    In a clipped window the bias still follows the true offsets.
    """

    def __init__(self, dim: int, heads: int, window: Size, shifted: bool) -> None:
        super().__init__(dim, heads)
        self.window = window
        self.shifted = shifted
        offsets = [2 * side - 1 for side in window]
        self.bias_table = nn.Parameter(torch.zeros(offsets[0] * offsets[1] * offsets[2], heads))
        self._mask_key: object = None
        self._mask: Tensor | None = None

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, _ = x_BTHWC.shape
        layout = window_layout((T, H, W), self.window, self.shifted)
        x_GNC = layout.split(x_BTHWC)
        q, k, v = rearrange(self.qkv(x_GNC), "(B G) N (three h d) -> three B (G h) N d", B=B, three=3, h=self.heads)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask(layout, q))
        out_GNC = self.proj(rearrange(out, "B (G h) N d -> (B G) N (h d)", h=self.heads))
        return layout.join(out_GNC, B)

    def mask(self, layout: WindowLayout, like: Tensor) -> Tensor:
        """Bias plus shift mask, (1, G * h, N, N)."""
        if torch.is_grad_enabled() and self.bias_table.requires_grad:
            return self._make_mask(layout, like)
        # An in-place change of the table (optimizer, load_state_dict) raises its version; a move changes its address.
        table = self.bias_table
        key = (layout, like.dtype, like.device, table.data_ptr(), table._version)
        if self._mask is None or key != self._mask_key:
            with torch.inference_mode(False), torch.no_grad():  # an ordinary tensor serves every later caller
                self._mask, self._mask_key = self._make_mask(layout, like), key
        return self._mask

    def _make_mask(self, layout: WindowLayout, like: Tensor) -> Tensor:
        index_NN = relative_index(layout.window, self.window, like.device)
        bias_hNN = self.bias_table[index_NN].permute(2, 0, 1)
        mask_GhNN = bias_hNN[None].expand(layout.windows, -1, -1, -1)
        if any(layout.shift):
            mask_GhNN = mask_GhNN + shift_mask(layout, like.device)[:, None]
        return mask_GhNN.flatten(0, 1)[None].to(like.dtype)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_mask": None, "_mask_key": None}  # a cache is not state: copies start without it


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

    def split(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (B * G, N, C)."""
        if self.padded != self.grid:
            (T, H, W), (t, h, w) = self.padded, self.grid
            x_BTHWC = F.pad(x_BTHWC, (0, 0, 0, W - w, 0, H - h, 0, T - t))
        if any(self.shift):
            x_BTHWC = x_BTHWC.roll([-step for step in self.shift], (1, 2, 3))
        t, h, w = self.window
        return rearrange(x_BTHWC, "B (T t) (H h) (W w) C -> (B T H W) (t h w) C", t=t, h=h, w=w)

    def join(self, x_GNC: Tensor, batch: int) -> Tensor:
        """(B * G, N, C) -> (B, T, H, W, C)."""
        T, H, W = (side // step for side, step in zip(self.padded, self.window, strict=True))
        t, h, w = self.window
        pattern = "(B T H W) (t h w) C -> B (T t) (H h) (W w) C"
        x = rearrange(x_GNC, pattern, B=batch, T=T, H=H, W=W, t=t, h=h, w=w)
        if any(self.shift):
            x = x.roll(self.shift, (1, 2, 3))
        return x[:, : self.grid[0], : self.grid[1], : self.grid[2]]


@lru_cache(maxsize=256)
def window_layout(grid: Size, window: Size, shifted: bool) -> WindowLayout:
    """Windows clipped to the grid; a side of one window is not shifted."""
    sides = tuple(min(side, step) for side, step in zip(grid, window, strict=True))
    shift = tuple(step // 2 if shifted and side > step else 0 for side, step in zip(grid, window, strict=True))
    padded = tuple(-(-side // step) * step for side, step in zip(grid, sides, strict=True))
    return WindowLayout(grid, sides, shift, padded)  # type: ignore[arg-type]


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def relative_index(window: Size, table_window: Size, device: torch.device) -> Tensor:
    """(N, N) rows of the bias table: the offset between two positions of `window`, counted in `table_window`."""
    axes = [torch.arange(side, device=device) for side in window]
    place_N3 = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)
    offset_NN3 = place_N3[:, None] - place_N3[None] + torch.tensor(table_window, device=device) - 1
    _, rows, columns = (2 * side - 1 for side in table_window)
    index: Tensor = (offset_NN3[..., 0] * rows + offset_NN3[..., 1]) * columns + offset_NN3[..., 2]
    return index


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def shift_mask(layout: WindowLayout, device: torch.device) -> Tensor:
    """(G, N, N): 0 where two positions of a window were neighbours before the shift, else -100 as in Swin."""
    region = torch.zeros(1, *layout.padded, 1, device=device)
    for axis, (side, step, shift) in enumerate(zip(layout.padded, layout.window, layout.shift, strict=True)):
        place = torch.arange(side, device=device)
        part = (place >= side - step).long() + (place >= side - shift).long() if shift else place * 0
        region = region * 3 + part.view([-1 if i == axis + 1 else 1 for i in range(5)])
    region_GN = layout._replace(shift=(0, 0, 0), grid=layout.padded).split(region)[..., 0]
    return (region_GN[:, :, None] != region_GN[:, None]).float() * -100.0
