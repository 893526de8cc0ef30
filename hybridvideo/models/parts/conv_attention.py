"""Blocks that hold convolution and attention together: CoAtNet's Transformer block, which pools, and MaxViT's.

    coat      attention of a frame, or of the clip, with a bias for each offset; its first block may halve the grid
    maxvit    an inverted bottleneck, attention in windows, attention in a grid of positions far apart

Sources: Dai et al. 2021 (CoAtNet), Tu et al. 2022 (MaxViT). In space both are as timm has them, whose weights load.

    B batch   T H W grid   C channels   h heads   d channels of a head   N tokens that see each other   G groups of them
"""

from __future__ import annotations

import torch
from einops import rearrange
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.checks import check_heads
from hybridvideo.models.parts.attend import attend_packed
from hybridvideo.models.parts.attention import GroupedAttention, WindowAttention3d, sides
from hybridvideo.models.parts.blocks import Branch
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.mbconv import MBConv, Shortcut, Shrink
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.norms import NORMS, layer_scale
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.relative import RelativeMlp, RelativePosition, RelativeTable
from hybridvideo.models.parts.windows import Cut, Part, window_layout


class CoatBlock(nn.Module):
    """shortcut(x) + attention(pool(norm(x))), then x + mlp(norm(x)); pooling only in a block of stride 2."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        stage, form = place.stage, place.stage.form
        check_heads(place.dim, stage.heads)
        if stage.attention not in ("spatial", "joint"):
            raise UserError(f"attention of coat blocks is {stage.attention!r}; give spatial or joint")
        width = place.dim if form.expand == "out" else place.dim_in
        T, H, W = place.grid
        grid = (T if stage.attention == "joint" else 1, -(-H // place.stride), -(-W // place.stride))
        self.shortcut = Shortcut(place.dim_in, place.dim, place.stride, form.pool)
        self.norm = NORMS[stage.norm](place.dim_in, eps=stage.norm_eps)
        self.pool = Shrink(form.pool) if place.stride > 1 else nn.Identity()
        heads = width * stage.heads // place.dim
        check_heads(width, heads)
        relative = RelativeMlp(heads) if stage.relative == "mlp" else RelativeTable(heads, grid)
        self.attention = CoatAttention(place.dim_in, width, place.dim, heads, relative, stage.attention == "joint")
        self.dropout = nn.Dropout(stage.dropout)
        self.scale = layer_scale(place.dim, stage.layer_scale)
        self.drop_path = DropPath(place.drop_path)
        self.mlp = mlp_branch(place)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        attended = self.dropout(self.attention(self.pool(self.norm(x_BTHWC))))
        out: Tensor = self.mlp(self.shortcut(x_BTHWC) + self.drop_path(self.scale(attended)))
        return out


class MaxViTBlock(nn.Module):
    """Inverted bottleneck, window attention, grid attention; each attention with an MLP of its own.

    Windows and grids are as many frames deep as `window` says: one frame is MaxViT's own. A clip that does not divide
    by it is continued with its last frame, so that frames which are all alike see nothing else.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        stage, dim = place.stage, place.dim
        self.conv, self.depth = MBConv(place), stage.window[0]
        by_mlp = stage.relative == "mlp"
        windows = WindowAttention3d(dim, stage.heads, stage.window, shifted=False, by_mlp=by_mlp)
        self.window = Branch(place, windows, stage.dropout)
        self.window_mlp = mlp_branch(place)
        grids = GridAttention3d(dim, stage.heads, stage.window, shifted=False, by_mlp=by_mlp)
        self.grid = Branch(place, grids, stage.dropout)
        self.grid_mlp = mlp_branch(place)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        frames = x_BTHWC.shape[1]
        x = continued(self.conv(x_BTHWC), min(self.depth, frames))
        x = self.window_mlp(self.window(x))
        out: Tensor = self.grid_mlp(self.grid(x))
        return out[:, :frames]


def continued(x_BTHWC: Tensor, multiple: int) -> Tensor:
    """Repeat the last frame until there is a multiple of so many frames."""
    missing = -x_BTHWC.shape[1] % multiple
    return torch.cat([x_BTHWC, x_BTHWC[:, -1:].expand(-1, missing, -1, -1, -1)], 1) if missing else x_BTHWC


def mlp_branch(place: Place) -> Branch:
    """x + mlp(norm(x))."""
    stage = place.stage
    return Branch(place, Mlp(place.dim, max(1, int(place.dim * stage.mlp_ratio)), stage.dropout, stage.activation))


# --- attention --------------------------------------------------------------------------------------------------------


class CoatAttention(GroupedAttention):
    """Attention among the positions of each frame, or of the whole clip, with a bias for each offset and head.

    It may take another number of channels than it has inside, and return another.
    """

    def __init__(self, dim: int, width: int, out: int, heads: int, relative: RelativePosition, joint: bool) -> None:
        super().__init__(width, heads, relative)
        self.qkv = Linear(dim, 3 * width, stacked=(width, width, width))
        self.proj = Linear(width, out)
        self.joint = joint

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        T, H, W = sides(x_BTHWC)
        grid = (T, H, W) if self.joint else (1, H, W)
        x_GNC = x_BTHWC.reshape(-1, grid[0] * H * W, x_BTHWC.shape[4])
        qkv_GNthd = self.qkv(x_GNC).unflatten(-1, (3, self.heads, -1))
        assert self.relative is not None
        out: Tensor = self.proj(attend_packed(qkv_GNthd, self.relative(grid, qkv_GNthd)).flatten(2))
        return out.view(*x_BTHWC.shape[:4], -1)


class GridAttention3d(WindowAttention3d):
    """Attention among as many positions as a window has, spread evenly over the frame; frames are neighbours.

    The bias belongs to offsets counted in steps of that spread. Padding and clipping are as for windows.
    """

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        layout = window_layout(sides(x_BTHWC), self.window, shifted=False)
        part = Part((0, 0, 0), layout.padded, layout.window, (0, 0, 0))
        return self.through(x_BTHWC, layout, Spread(layout.padded, (part,)))


class Spread(Cut):
    """One part, whose windows are positions far apart in space."""

    def gather(self, x_BTHWC: Tensor) -> Tensor:
        """(B, T, H, W, C) -> (R, C)."""
        t, h, w = self.parts[0].window
        return rearrange(x_BTHWC, "B (T t) (h H) (w W) C -> (B T H W t h w) C", t=t, h=h, w=w)

    def scatter(self, x_RC: Tensor, batch: int) -> Tensor:
        """(R, C) -> (B, T, H, W, C)."""
        (T, H, W), (t, h, w) = self.padded, self.parts[0].window
        sides = {"T": T // t, "H": H // h, "W": W // w, "t": t, "h": h, "w": w}
        return rearrange(x_RC, "(B T H W t h w) C -> B (T t) (h H) (w W) C", B=batch, **sides)
