"""The bottleneck of a ResNet, and that of BoTNet, where attention with relative position replaces the 3x3 convolution.

    B batch   T H W grid   C channels   h heads   d channels of a head   N positions that see each other   G groups
    R offsets: 2 * side - 1, from the farthest before to the farthest after

He et al. 2015, *Deep Residual Learning*; Srinivas et al. 2021, *Bottleneck Transformers for Visual Recognition*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.folding import Folded
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.norms import ACTIVATIONS, GridBatchNorm
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.positions import resized_time
from hybridvideo.models.parts.windows import constant

REDUCTION = 4  # channels of the block per channel inside


class GridConv(nn.Conv3d):
    """A convolution of the grid without bias: odd sides, stride in rows and columns. (B, T, H, W, C), channels last."""

    def __init__(self, dim: int, out: int, kernel: Grid, stride: int = 1, groups: int = 1) -> None:
        t, h, w = kernel
        padding = (t // 2, h // 2, w // 2)
        super().__init__(dim, out, kernel, (1, stride, stride), padding, groups=groups, bias=False)
        self.in_frame: dict[str, Any] = {"stride": stride, "padding": padding[1:], "groups": groups}

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        if self.kernel_size[0] > 1:
            return super().forward(x_BTHWC.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        frames = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)  # libraries are faster at 2-D kernels
        out = F.conv2d(frames, self.weight[:, :, 0], **self.in_frame)
        return out.permute(0, 2, 3, 1).unflatten(0, x_BTHWC.shape[:2])


class RelativeAttention(nn.Module):
    """Attention with an embedding of the offset in rows and in columns, and if `joint` in frames.

    softmax(q k / sqrt(d) + q (rows[dh] + columns[dw] + frames[dt])) v, within a frame or among all positions. The
    tables have the size of the standard grid and are interpolated for others.
    """

    def __init__(self, dim: int, heads: int, grid: Grid, joint: bool) -> None:
        super().__init__()
        check_heads(dim, heads)
        self.heads = heads
        self.qkv = Linear(dim, 3 * dim, bias=False, stacked=(dim, dim, dim))
        frames, rows, columns = (nn.Parameter(torch.empty(dim // heads, 2 * side - 1)) for side in grid)
        self.rows_CR, self.columns_CR = rows, columns
        self.frames_CR = frames if joint else None
        self.start()

    def start(self) -> None:
        """Initialise offsets small."""
        for table in self.tables():
            nn.init.trunc_normal_(table, std=len(table) ** -0.5)

    def tables(self) -> list[nn.Parameter]:
        """Of the axes along which positions see each other: [frames,] rows, columns."""
        tables = [self.frames_CR, self.rows_CR, self.columns_CR]
        return [table for table in tables if table is not None]

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        groups, tables = x_BTHWC.flatten(0, 1) if self.frames_CR is None else x_BTHWC, self.tables()
        sides = tuple(len(range(side)) for side in groups.shape[1:-1])  # plain numbers, also for torch.compile
        qkv = self.qkv(groups).unflatten(-1, (3, self.heads, -1)).flatten(1, len(sides))
        q, k, v = (part.transpose(1, 2) for part in qkv.unbind(2))
        q, k = with_offsets(q, k, tables, sides)
        more = q.shape[-1] - v.shape[-1]
        # Fused kernels want values as wide as keys; others would hold the scores of all pairs, which are many here.
        padded = self.frames_CR is not None
        out_GhNd = attend(q, k, F.pad(v, (0, more)) if padded else v)[..., : v.shape[-1]]
        return out_GhNd.transpose(1, 2).reshape(x_BTHWC.shape)


def with_offsets(q: Tensor, k: Tensor, tables: list[nn.Parameter], sides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return longer queries and keys, whose products also hold what a query says of the offsets.

    The scores along one axis depend on the key's place in it alone, so they are channels of the query that meet a one
    at that place in the key: no score for each pair of positions is ever held outside the attention itself.
    """
    G, h, N, d = q.shape
    q_grid = q.unflatten(2, sides)
    parts = [q * d**-0.5]
    for axis, (table_CR, side) in enumerate(zip(tables, sides, strict=True)):
        offsets_SSd = resized_time(table_CR, 2 * side - 1).t()[offsets(side, q.device)].to(q.dtype)
        rows = q_grid.movedim(2 + axis, 2).reshape(G, h, side, -1, d)
        scores = (rows @ offsets_SSd.transpose(1, 2)).unflatten(3, [s for a, s in enumerate(sides) if a != axis])
        parts.append(scores.movedim(2, 2 + axis).reshape(G, h, N, side))
    places_NS = one_hot(sides, q.device).to(k.dtype)
    long_k = torch.cat([k, places_NS.expand(G, h, -1, -1)], -1)
    long_q = torch.cat(parts, -1)
    return long_q * math.sqrt(long_q.shape[-1]), long_k  # attention divides by it


@constant
def offsets(side: int, device: torch.device) -> Tensor:
    """(side, side) entries of a table of offsets, from each query to each key."""
    place = torch.arange(side, device=device)
    return place[None] - place[:, None] + side - 1


@constant
def one_hot(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """(N, sum of sides): for each position a one at its place along each axis."""
    places = torch.cartesian_prod(*(torch.arange(side, device=device) for side in sides)).view(-1, len(sides))
    return torch.cat([F.one_hot(places[:, axis], side) for axis, side in enumerate(sides)], -1).float()


class Attending(nn.Module):
    """Attention in place of the 3x3 convolution; a stride averages what it returns."""

    def __init__(self, place: Place, dim: int) -> None:
        super().__init__()
        joint = place.stage.attention == "joint"
        self.attention, self.stride = RelativeAttention(dim, place.stage.heads, place.grid, joint), place.stride

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = self.attention(x_BTHWC)
        if self.stride == 1:
            return out
        frames = out.flatten(0, 1).permute(0, 3, 1, 2)
        pooled = F.avg_pool2d(frames, self.stride, self.stride, ceil_mode=True)
        return pooled.permute(0, 2, 3, 1).unflatten(0, out.shape[:2])


def convolving(place: Place, dim: int) -> nn.Module:
    """The convolution of a ResNet, 3x3 in each frame unless the stage says otherwise."""
    return GridConv(dim, dim, place.kernel((1, 3, 3)), place.stride)


MIDDLES: dict[str, Callable[[Place, int], nn.Module]] = {"none": convolving, "spatial": Attending, "joint": Attending}


class Bottleneck(nn.Module):
    """1x1, middle, 1x1, each with BatchNorm; the middle is a 3x3 convolution or attention (`stage.attention`)."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        stage = place.stage
        if stage.attention not in MIDDLES:
            raise UserError(f"attention is {stage.attention!r} in a bottleneck; give one of {', '.join(MIDDLES)}")
        hidden = max(1, place.dim // REDUCTION)
        self.conv1, self.norm1 = Linear(place.dim_in, hidden, bias=False), GridBatchNorm(hidden)
        self.middle, self.norm2 = MIDDLES[stage.attention](place, hidden), GridBatchNorm(hidden)
        self.conv3, self.norm3 = Linear(hidden, place.dim, bias=False), GridBatchNorm(place.dim)
        self.folded1, self.folded3 = Folded(), Folded()
        changes = place.stride > 1 or place.dim_in != place.dim
        self.shortcut = Shortcut(place) if changes else nn.Identity()
        self.drop_path, self.activation = DropPath(place.drop_path), ACTIVATIONS[stage.activation]

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.activation(self.folded1(self.conv1, self.norm1, x_BTHWC))
        x = self.activation(self.norm2(self.middle(x)))
        x = self.drop_path(self.folded3(self.conv3, self.norm3, x))
        return self.activation(x + self.shortcut(x_BTHWC))


class Shortcut(nn.Module):
    """A 1x1 convolution with stride and BatchNorm, where width or grid change."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.conv, self.norm = Linear(place.dim_in, place.dim, bias=False), GridBatchNorm(place.dim)
        self.stride, self.folded = place.stride, Folded()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        kept = x_BTHWC[:, :, :: self.stride, :: self.stride].contiguous()
        out: Tensor = self.folded(self.conv, self.norm, kept)
        return out
