"""Attention on a grid: which positions look at which, one signature for all.

Each class maps (B, T, H, W, C) to the same shape; scaled-dot-product attention does the work, always on 4-D
tensors, since 5-D ones fall back to the slow math kernel.

    B batch   T H W grid   C channels   h heads   d channels of a head   N tokens that see each other   G groups of them

Sources: divided attention, Bertasius et al. 2021 (TimeSformer); 3-D shifted windows, Liu et al. 2022 (Video Swin).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.windows import (
    Gathered,
    Part,
    Scattered,
    Size,
    WindowLayout,
    Windows,
    constant,
    positions_in,
    relative_index,
    shift_mask,
    true_parts,
    window_layout,
)


class GroupedAttention(nn.Module):
    """Multi-head self-attention among the N tokens of each group; subclasses say which tokens form a group."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)

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
    clipped to it and not shifted. What positions look at is that of Swin; how it is computed depends on the device:

        eager CPU    attention within the true parts of shifted windows (`windows.Cut`): less work, no mask
        else         Swin's roll, with bias and shift mask as one additive mask of the fused kernel

    `clipped_bias` says what a clipped window takes from the bias table: the entries of the true offsets, or, as the
    published Video Swin does, of the `first` positions of a whole window (the same where only time is clipped).
    """

    def __init__(
        self, dim: int, heads: int, window: Size, shifted: bool, clipped_bias: Literal["offsets", "first"] = "offsets"
    ) -> None:
        super().__init__(dim, heads)
        self.window, self.shifted, self.clipped_bias = window, shifted, clipped_bias
        t, h, w = (2 * side - 1 for side in window)
        self.bias_table = nn.Parameter(torch.zeros(t, h, w, heads))
        self.cached = Cached[list[Tensor]]()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        # A length is a number where torch.compile would make a size of the grid a symbol: each has windows of its own.
        T, H, W = (len(range(side)) for side in x_BTHWC.shape[1:4])
        layout = window_layout((T, H, W), self.window, self.shifted)
        return self.by_parts(x_BTHWC, layout) if parts_are_faster(x_BTHWC) else self.masked(x_BTHWC, layout)

    def masked(self, x_BTHWC: Tensor, layout: WindowLayout) -> Tensor:
        """All windows at once, those of the border with a mask."""
        B = x_BTHWC.shape[0]
        x_GNC = layout.split(x_BTHWC)
        q, k, v = rearrange(self.qkv(x_GNC), "(B G) N (three h d) -> three B (G h) N d", B=B, three=3, h=self.heads)
        (mask,) = self.cached.get(
            (self.bias_table,), lambda: [self._mask(layout, q)], "mask", layout, self.clipped_bias, q.dtype, q.device
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out_GNC = self.proj(rearrange(out, "B (G h) N d -> (B G) N (h d)", h=self.heads))
        return layout.join(out_GNC, B)

    def by_parts(self, x_BTHWC: Tensor, layout: WindowLayout) -> Tensor:
        """The true parts, one after another."""
        B, cut = x_BTHWC.shape[0], true_parts(layout)
        x_RC: Tensor = Gathered.apply(layout.pad(x_BTHWC), cut)
        biases = dict(zip(cut.parts, self.part_biases(layout, x_RC), strict=True))
        (everything,) = cut.portions(B, most=x_RC.shape[0])
        out_RC = self.attend_portion(x_RC, everything, biases)
        return layout.crop(Scattered.apply(out_RC, cut, B))

    def attend_portion(self, x_RC: Tensor, portion: Sequence[Windows], biases: dict[Part, Tensor]) -> Tensor:
        """Attention of neighbouring rows in their windows, with its projections; rows in, rows out."""
        outs = []
        pieces = self.qkv(x_RC).split([stop - start for _, start, stop in portion])
        for (part, _, _), piece in zip(portion, pieces, strict=True):
            qkv_GNthd = piece.view(-1, part.tokens, 3, self.heads, piece.shape[1] // (3 * self.heads))
            outs.append(attend_biased(qkv_GNthd, biases[part].to(piece.dtype)).flatten(0, 1).flatten(1))
        out: Tensor = self.proj(torch.cat(outs) if len(outs) > 1 else outs[0])
        return out

    def part_biases(self, layout: WindowLayout, like: Tensor) -> list[Tensor]:
        """Bias (1, h, N, N) of each part."""
        parts = true_parts(layout).parts
        make = lambda: [self._bias(layout, part, like) for part in parts]  # noqa: E731
        return self.cached.get((self.bias_table,), make, "parts", layout, self.clipped_bias, like.dtype, like.device)

    def _bias(self, layout: WindowLayout, part: Part | None, like: Tensor) -> Tensor:
        index_NN = bias_index(layout.window, self.window, self.clipped_bias, part, like.device)
        return self.bias_table.flatten(0, 2)[index_NN].permute(2, 0, 1)[None].to(like.dtype)

    def _mask(self, layout: WindowLayout, like: Tensor) -> Tensor:
        mask_GhNN = self._bias(layout, None, like).expand(layout.windows, -1, -1, -1)
        if any(layout.shift):
            apart_GNN = shift_mask(layout.padded, layout.window, layout.shift, like.device)
            mask_GhNN = mask_GhNN + apart_GNN[:, None].to(like.dtype)
        return mask_GhNN.flatten(0, 1)[None]


def parts_are_faster(x: Tensor) -> bool:
    """Many small kernels cost little on a CPU; a GPU and a compiler want few large ones."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


@constant
def bias_index(window: Size, table_window: Size, clipped: str, part: Part | None, device: torch.device) -> Tensor:
    """(N, N) rows of the flat bias table for windows of a part; None: whole windows."""
    count = window[0] * window[1] * window[2]
    if clipped == "first":
        index_NN = relative_index(table_window, table_window, device)[:count, :count]
    else:
        index_NN = relative_index(window, table_window, device)
    if part is None or part.window == window:
        return index_NN
    places = torch.tensor(positions_in(part, window), device=device)
    return index_NN[places[:, None], places]


def attend_biased(qkv_GNthd: Tensor, bias_1hNN: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v, (G, N, h, d), where t is one of query, key, value."""
    if torch.is_grad_enabled() and bias_1hNN.requires_grad:
        out: Tensor = BiasedAttention.apply(qkv_GNthd, bias_1hNN)
        return out
    q, k, v = qkv_GNthd.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias_1hNN).transpose(1, 2)


class BiasedAttention(torch.autograd.Function):
    """Attention with a learned bias that keeps no scores: backward computes them again, some windows at a time.

    torch's fused CPU kernel gives no gradient of its mask; with one wanted it falls back to keeping every score.
    """

    SCORES = 2**20  # of one step backward: they stay in the caches

    @staticmethod
    def forward(qkv_GNthd: Tensor, bias_1hNN: Tensor) -> Tensor:
        with torch.no_grad():
            return attend_biased(qkv_GNthd, bias_1hNN.detach())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad_GNhd: Tensor) -> tuple[Tensor, Tensor]:
        qkv_GNthd, bias = ctx.saved_tensors
        G, N, _, h, d = qkv_GNthd.shape
        q, k, v = qkv_GNthd.permute(2, 0, 3, 1, 4)
        grad_out, grad_qkv = grad_GNhd.transpose(1, 2), torch.empty_like(qkv_GNthd)
        grad_q, grad_k, grad_v = grad_qkv.permute(2, 0, 3, 1, 4)
        grad_bias = torch.zeros(bias.shape, dtype=torch.float32)
        step = max(1, BiasedAttention.SCORES // (h * N * N))
        for at in range(0, G, step):
            some = slice(at, at + step)
            q_s, k_s = q[some] * d**-0.5, k[some]
            weights = torch.matmul(q_s, k_s.transpose(2, 3)).add_(bias).softmax(-1)
            grad_v[some] = torch.matmul(weights.transpose(2, 3), grad_out[some])
            grad_weights = torch.matmul(grad_out[some], v[some].transpose(2, 3))
            grad_scores = torch.ops.aten._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            grad_q[some] = torch.matmul(grad_scores, k_s).mul_(d**-0.5)
            grad_k[some] = torch.matmul(grad_scores.transpose(2, 3), q_s)
            grad_bias += grad_scores.sum(0, keepdim=True)
        return grad_qkv, grad_bias.to(bias.dtype)
