"""The block of LeViT: attention with a learned bias per offset, BatchNorm, and queries subsampled to shrink the grid.

    B batch   T H W grid   C channels   N queries and M keys of a frame   h heads   k channels of keys, v of values

Graham et al. 2021, *LeViT: a Vision Transformer in ConvNet's Clothing for Faster Inference*. All attention is within a
frame; `temporal` in the stage's settings adds a path between frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.folding import Folded
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.norms import ACTIVATIONS, GridBatchNorm
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.windows import constant

STEEPEST = 2.0  # fall of the first head's bias from one position to the next
SHRINKING_RATIO = 4  # of values to keys where the grid shrinks: fewer queries carry as much


class LinearNorm(nn.Module):
    """A matrix without bias, then BatchNorm; `scale` is the start of the norm's factor.

    `parts`: channels of a head's queries, keys and values, if the matrix holds those of `out / sum(parts)` heads.
    """

    def __init__(self, dim: int, out: int, scale: float = 1.0, parts: Sequence[int] = ()) -> None:
        super().__init__()
        heads = out // sum(parts) if parts else 1
        self.linear = Linear(dim, out, bias=False, stacked=[heads * part for part in parts], interleaved=heads)
        self.norm = GridBatchNorm(out)
        nn.init.constant_(self.norm.weight, scale)
        self.folded = Folded()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.folded(self.linear, self.norm, x)
        return out


class OffsetBias(nn.Module):
    """A learned bias for each head and distance (rows, columns) between query and key, the same in all directions.

    The table has the size of the standard grid and is interpolated for others, distance 0 staying where it is. It
    starts local: each head's bias falls with the distance, from head to head half as fast. With a table of zeros every
    query would start with the mean of the frame, which a grid that shrinks without a residual connection cannot undo.
    """

    def __init__(self, heads: int, rows: int, columns: int) -> None:
        super().__init__()
        down_H1, right_W = torch.arange(rows)[:, None], torch.arange(columns)
        slopes_h11 = STEEPEST * 0.5 ** torch.arange(heads).view(-1, 1, 1)
        self.bias_hHW = nn.Parameter(-slopes_h11 * torch.hypot(down_H1.float(), right_W.float()))
        self.cached = Cached[Tensor]()

    def forward(self, rows: int, columns: int, stride: int, like: Tensor) -> Tensor:
        """(1, h, N, M) for keys of a grid and queries of every `stride`-th row and column, in the dtype of `like`."""

        def make() -> Tensor:
            table_hM = resized_distances(self.bias_hHW, rows, columns).flatten(1)
            return table_hM[:, distances(rows, columns, stride, like.device)][None].to(like.dtype)

        return self.cached.get((self.bias_hHW,), make, rows, columns, stride, like.dtype, like.device)


def resized_distances(table_hHW: Tensor, rows: int, columns: int) -> Tensor:
    """Resize a table of distances from 0, bicubic."""
    if table_hHW.shape[1:] == (rows, columns):
        return table_hHW
    return F.interpolate(table_hHW[None], (rows, columns), mode="bicubic", align_corners=True)[0]


@constant
def distances(rows: int, columns: int, stride: int, device: torch.device) -> Tensor:
    """(N, M) entries of the flat table for each query and key."""
    row, column = torch.arange(rows, device=device), torch.arange(columns, device=device)
    down_nH = (row[::stride, None] - row).abs()
    right_nW = (column[::stride, None] - column).abs()
    index_nnHW = down_nH[:, None, :, None] * columns + right_nW[None, :, None, :]
    return index_nnHW.flatten(2).flatten(0, 1)


class LevitAttention(nn.Module):
    """Attention within each frame; with a stride, queries are every `stride`-th position and the grid shrinks."""

    def __init__(self, place: Place, heads: int, key_dim: int, value_dim: int) -> None:
        super().__init__()
        _, rows, columns = place.grid
        self.heads, self.key_dim, self.value_dim, self.stride = heads, key_dim, value_dim, place.stride
        self.activation = ACTIVATIONS[place.stage.activation]
        self.bias = OffsetBias(heads, rows, columns)
        self.make_projections(place.dim_in, place.dim)

    def make_projections(self, dim: int, out: int) -> None:
        """Queries, keys and values from one matrix; what is added to the grid starts at zero."""
        parts = (self.key_dim, self.key_dim, self.value_dim)
        self.qkv = LinearNorm(dim, self.heads * sum(parts), parts=parts)
        self.proj = LinearNorm(self.heads * self.value_dim, out, scale=0.0)

    def project(self, x_BTHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each with heads and their channels as the last two axes."""
        qkv = self.qkv(x_BTHWC).unflatten(-1, (self.heads, -1))
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.value_dim], -1)
        return q, k, v

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        H, W = (len(range(side)) for side in x_BTHWC.shape[2:4])  # plain numbers, also for torch.compile
        q_BTHWhk, k_BTHWhk, v_BTHWhv = self.project(x_BTHWC)
        q, k, v = (part.flatten(0, 1).flatten(1, 2).transpose(1, 2) for part in (q_BTHWhk, k_BTHWhk, v_BTHWhv))
        out_NhMv = attend(q, k, v, self.bias(H, W, self.stride, q))
        out = out_NhMv.transpose(1, 2).reshape(*q_BTHWhk.shape[:4], -1)
        projected: Tensor = self.proj(self.activation(out))
        return projected


class ShrinkingAttention(LevitAttention):
    """The same from one width to another, with queries of their own: no residual connection is possible around it."""

    def make_projections(self, dim: int, out: int) -> None:
        """Keys and values from one matrix, queries from another."""
        parts = (self.key_dim, self.value_dim)
        self.kv = LinearNorm(dim, self.heads * sum(parts), parts=parts)
        self.q = LinearNorm(dim, self.heads * self.key_dim)
        self.proj = LinearNorm(self.heads * self.value_dim, out)

    def project(self, x_BTHWC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kv = self.kv(x_BTHWC).unflatten(-1, (self.heads, -1))
        k, v = kv.split([self.key_dim, self.value_dim], -1)
        q = self.q(x_BTHWC[:, :, :: self.stride, :: self.stride].contiguous()).unflatten(-1, (self.heads, -1))
        return q, k, v


class LevitMlp(nn.Module):
    """Linear, BatchNorm, activation, dropout, linear, BatchNorm, which starts at zero."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        hidden = max(1, int(place.dim * place.stage.mlp_ratio))
        self.fc1 = LinearNorm(place.dim, hidden)
        self.fc2 = LinearNorm(hidden, place.dim, scale=0.0)
        self.activation, self.drop = ACTIVATIONS[place.stage.activation], nn.Dropout(place.stage.dropout)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.drop(self.activation(self.fc1(x))))
        return out


class LevitBlock(nn.Module):
    """Attention and MLP, each in a residual branch; where width or grid change, attention alone."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.changes = place.stride > 1 or place.dim_in != place.dim
        self.attention = changing_attention(place) if self.changes else levit_attention(place)
        self.mlp = LevitMlp(place)
        self.drop_path = DropPath(place.drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out = self.attention(x_BTHWC)
        x = out if self.changes else x_BTHWC + self.drop_path(out)
        return x + self.drop_path(self.mlp(x))


def levit_attention(place: Place) -> LevitAttention:
    """With the heads of the stage."""
    stage = place.stage
    key_dim = stage.key_dim or int(place.dim / stage.heads / stage.value_ratio)
    if key_dim < 1:
        raise UserError(f"{stage.heads} heads for {place.dim} channels in a levit block; give fewer heads or key_dim")
    return LevitAttention(place, stage.heads, key_dim, int(stage.value_ratio * key_dim))


def changing_attention(place: Place) -> ShrinkingAttention:
    """With as many heads as the keys of the grid before it have room for, as published."""
    stage = place.stage
    key_dim = stage.key_dim or max(1, int(place.dim / stage.heads / stage.value_ratio))
    if key_dim > place.dim_in:
        raise UserError(f"key_dim {key_dim} of {place.dim_in} channels in a levit block; give {place.dim_in} or less")
    return ShrinkingAttention(place, place.dim_in // key_dim, key_dim, SHRINKING_RATIO * key_dim)
