"""A Transformer encoder and decoder over the tokens of a clip, in the form of 2017.

Every layer is post-norm: norm(x + dropout(f(x))), with FFN(x) = max(0, x W1 + b1) W2 + b2. The decoder turns queries,
or a sequence of labels, into features by reading a memory: masked self-attention, cross-attention, FFN.

    B batch   N tokens of the memory   Q queries, or places of a sequence   C channels   h heads   d channels of a head

Masks are true where a token may be seen. Sources: Vaswani et al. 2017, *Attention Is All You Need*; Carion et al. 2020
(DETR) for the encoder over features of a CNN and for learned queries.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.mlp import Mlp


class MaskedAttention(nn.Module):
    """Multi-head attention of tokens to others, or to themselves, each allowed to see what a mask says."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.query, self.key, self.value = Linear(dim, dim), Linear(dim, dim), Linear(dim, dim)
        self.proj = Linear(dim, dim)

    def forward(self, x_BQC: Tensor, seen_BNC: Tensor, mask_BN: Tensor | None = None, causal: bool = False) -> Tensor:
        """Return (B, Q, C).

        Args:
            x_BQC: tokens that attend.
            seen_BNC: tokens that they attend to.
            mask_BN: which of those may be seen, at least one for each B; null: all.
            causal: the token at a place sees those up to its own place; N must be Q.
        """
        q = self.in_heads(self.query(x_BQC))
        k, v = self.in_heads(self.key(seen_BNC)), self.in_heads(self.value(seen_BNC))
        if mask_BN is None and not causal:
            out = attend(q, k, v)
        else:
            mask = None if mask_BN is None else mask_BN[:, None, None]
            assert mask is None or not causal
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
        result: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return result

    def in_heads(self, x_BNC: Tensor) -> Tensor:
        """(B, N, C) -> (B, h, N, d)."""
        return x_BNC.unflatten(2, (self.heads, -1)).transpose(1, 2)


class CrossAttention(MaskedAttention):
    """The same, of queries to a memory."""


class Added(nn.Module):
    """norm(x + dropout(update))."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.dropout, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim)

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        out: Tensor = self.norm(x + self.dropout(update))
        return out


class EncoderLayer(nn.Module):
    """Self-attention among all tokens of the memory, then the FFN."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.attention, self.after_attention = MaskedAttention(dim, heads), Added(dim, dropout)
        self.mlp, self.after_mlp = Mlp(dim, int(dim * mlp_ratio), dropout, "relu"), Added(dim, 0.0)

    def forward(self, x_BNC: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        x = self.after_attention(x_BNC, self.attention(x_BNC, x_BNC, mask_BN))
        out: Tensor = self.after_mlp(x, self.mlp(x))
        return out


class DecoderLayer(nn.Module):
    """Self-attention among the queries, attention of the queries to the memory, then the FFN."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, dropout: float) -> None:
        super().__init__()
        self.attention, self.after_attention = MaskedAttention(dim, heads), Added(dim, dropout)
        self.cross, self.after_cross = CrossAttention(dim, heads), Added(dim, dropout)
        self.mlp, self.after_mlp = Mlp(dim, int(dim * mlp_ratio), dropout, "relu"), Added(dim, 0.0)

    def forward(self, x_BQC: Tensor, memory_BNC: Tensor, mask_BN: Tensor | None, causal: bool) -> Tensor:
        x = self.after_attention(x_BQC, self.attention(x_BQC, x_BQC, causal=causal))
        x = self.after_cross(x, self.cross(x, memory_BNC, mask_BN))
        out: Tensor = self.after_mlp(x, self.mlp(x))
        return out


class QueryDecoder(nn.Module):
    """Learned queries that read the memory: (B, N, C) -> (B, Q, C)."""

    def __init__(self, layers: list[DecoderLayer], queries: int, dim: int) -> None:
        super().__init__()
        self.queries_QC = nn.Parameter(torch.empty(queries, dim))
        self.layers = nn.ModuleList(layers)

    def start(self) -> None:
        """Queries differ from the first step on."""
        nn.init.normal_(self.queries_QC)

    def forward(self, memory_BNC: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        x = self.queries_QC.repeat(memory_BNC.shape[0], 1, 1)
        for layer in self.layers:
            x = layer(x, memory_BNC, mask_BN, causal=False)
        return x


class LabelDecoder(nn.Module):
    """A sequence of labels that reads the memory, each place seeing itself and what is before it.

    The sequence begins with a mark of its own, so that the feature at place i follows from the labels before i.
    """

    def __init__(self, layers: list[DecoderLayer], labels: int, dim: int) -> None:
        super().__init__()
        self.labels = nn.Embedding(labels, dim)
        self.begin_C = nn.Parameter(torch.empty(dim))
        self.layers = nn.ModuleList(layers)

    def start(self) -> None:
        """Labels at the scale of the positions that are added to them."""
        nn.init.normal_(self.labels.weight)
        nn.init.normal_(self.begin_C)

    def forward(self, memory_BNC: Tensor, mask_BN: Tensor | None = None, labels_BL: Tensor | None = None) -> Tensor:
        """Return (B, L + 1, C): what follows each of the labels, and the beginning."""
        x = self.begin_C.repeat(memory_BNC.shape[0], 1, 1)
        if labels_BL is not None:
            x = torch.cat([x, self.labels(labels_BL).to(x.dtype)], 1)
        places = torch.arange(x.shape[1], device=x.device)
        x = x + waves(places, x.shape[2]).to(x.dtype)
        for layer in self.layers:
            x = layer(x, memory_BNC, mask_BN, causal=True)
        return x


# --- positions of the memory ------------------------------------------------------------------------------------------


def waves(places_N: Tensor, dim: int) -> Tensor:
    """Return sines, then cosines of places at wavelengths from 2 pi to 20,000 pi, (N, dim)."""
    count = -(-dim // 2)
    rates = torch.exp(torch.arange(count, device=places_N.device) * (-math.log(10_000) / max(1, count)))
    angles = places_N[:, None].float() * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :dim]


def grid_waves(x_BTHWC: Tensor, time: bool) -> Tensor:
    """Return the waves of a grid's places, (T, H, W, C): half of the channels for the frame, a quarter for each side.

    By the number of the frame, not its share of the clip: frames that follow do not move those before them. Without
    `time` the channels of the frame are zero; without rows and columns all channels are the frame's.
    """
    _, T, H, W, C = x_BTHWC.shape
    sides = (C, 0, 0) if H * W == 1 else (C - 2 * (C // 4), C // 4, C // 4)
    parts = []
    for axis, (count, dim) in enumerate(zip((T, H, W), sides, strict=True)):
        places = torch.arange(count, device=x_BTHWC.device)
        wave = waves(places, dim) if time or axis else torch.zeros(count, dim, device=x_BTHWC.device)
        shape = [count if i == axis else 1 for i in range(3)]
        parts.append(wave.view(*shape, dim).expand(T, H, W, dim))
    return torch.cat(parts, -1)
