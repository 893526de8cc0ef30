"""Two branches side by side, one of convolutions and one of tokens, and what passes between them.

    ToTokens        convolution -> tokens: pooled to their grid, 1x1 convolution to their width, LayerNorm, GELU
    ToConvolution   tokens -> convolution: 1x1 convolution to its width, BatchNorm, ReLU, resized to its grid
    CoupledBlock    a bottleneck, a block of tokens, a bottleneck, and a coupling each way between them

Peng et al. 2021, *Conformer: Local Features Coupling Global Representations for Visual Recognition*. Averages and 1x1
convolutions commute, so each coupling changes the width on the smaller of the two grids.

A stage of a hybrid maps one grid to one grid; here two of different size and width go through all blocks. That is why
couplings are no kind of block in the grammar: `models.conformer` is a class of its own. Its branch of tokens takes any
kind of the grammar.

    B batch   T H W grid   C channels   N = B * T frames
"""

from __future__ import annotations

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.models.parts.class_token import without_tokens
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.norms import GridBatchNorm
from hybridvideo.models.parts.place import Grid
from hybridvideo.models.readings import BranchMap


class ToTokens(nn.Module):
    """Features of the convolution (B, T, H, W, C) for the tokens of a grid."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.project = Linear(channels, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(self, conv_BTHWC: Tensor, size: Grid) -> Tensor:
        return F.gelu(self.norm(self.project(resized(conv_BTHWC, size))))


class ToConvolution(nn.Module):
    """Tokens (B, T, H, W, C) as features for the grid of the convolution."""

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.project = Linear(dim, channels)
        self.norm = GridBatchNorm(channels)

    def forward(self, tokens_BTHWC: Tensor, size: Grid) -> Tensor:
        return resized(F.relu(self.norm(self.project(tokens_BTHWC))), size)


class CoupledBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions of each frame with a shortcut, as in ResNet; `added` joins before the 3x3.

    Returns its output, and the features after the 3x3, which have a quarter of the channels.
    """

    def __init__(self, dim_in: int, dim: int, stride: int = 1, drop_path: float = 0.0) -> None:
        super().__init__()
        self.inner = max(1, dim // 4)
        self.conv1, self.norm1 = nn.Conv2d(dim_in, self.inner, 1, bias=False), nn.BatchNorm2d(self.inner)
        self.conv2 = nn.Conv2d(self.inner, self.inner, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(self.inner)
        self.conv3, self.norm3 = nn.Conv2d(self.inner, dim, 1, bias=False), nn.BatchNorm2d(dim)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or dim_in != dim:
            self.shortcut = nn.Sequential(nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim))
        self.drop_path = DropPath(drop_path)

    def forward(self, x_BTHWC: Tensor, added_BTHWC: Tensor | None = None) -> tuple[Tensor, Tensor]:
        B, x = len(x_BTHWC), frames(x_BTHWC)
        h = F.relu(self.norm1(self.conv1(x)))
        if added_BTHWC is not None:
            h = h + frames(added_BTHWC)
        inner = F.relu(self.norm2(self.conv2(h)))
        out = F.relu(self.shortcut(x) + self.drop_path(self.norm3(self.conv3(inner))))
        return grid(out, B), grid(inner, B)


class CoupledBlock(nn.Module):
    """Both branches one block further, each having seen the other. Can be read: `conv_map`, `attention_map`.

    Args:
        attention: maps the tokens (B, T, H, W, C) to the same shape; with a class token (B, T, 1, 1 + H * W, C).
        dim_in, channels: of the convolution's grid before and after.
        dim: of the tokens.
        class_token: whether the first token of each frame is one; it takes no part in the coupling.
    """

    def __init__(
        self,
        attention: nn.Module,
        dim_in: int,
        channels: int,
        dim: int,
        *,
        stride: int = 1,
        class_token: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.conv = CoupledBottleneck(dim_in, channels, stride, drop_path)
        self.to_tokens = ToTokens(self.conv.inner, dim)
        self.attention = attention
        self.to_conv = ToConvolution(dim, self.conv.inner)
        self.fusion = CoupledBottleneck(channels, channels, drop_path=drop_path)
        self.class_token = class_token
        self.conv_map, self.attention_map = BranchMap(), BranchMap()

    def forward(self, conv_BTHWC: Tensor, tokens: Tensor, size: Grid) -> tuple[Tensor, Tensor]:
        """Take and return the two grids; `size` is that of the tokens without class tokens."""
        conv, inner = self.conv(conv_BTHWC)
        tokens = self.attention(tokens + self.for_tokens(self.to_tokens(inner, size)))
        places = self.attention_map(without_tokens(tokens, size[1:]) if self.class_token else tokens)
        _, T, H, W, _ = conv.shape
        out, _ = self.fusion(conv, self.to_conv(places, (T, H, W)))
        return self.conv_map(out), tokens

    def for_tokens(self, coupled_BTHWC: Tensor) -> Tensor:
        """Zeros for the class token."""
        return F.pad(coupled_BTHWC.flatten(2, 3)[:, :, None], (0, 0, 1, 0)) if self.class_token else coupled_BTHWC


def resized(x_BTHWC: Tensor, size: Grid) -> Tensor:
    """Return a grid of another size: averages along sides that shrink, nearest positions along those that grow."""
    _, T, H, W, _ = x_BTHWC.shape
    t, h, w = size
    smaller = (min(T, t), min(H, h), min(W, w))
    if smaller != (T, H, W):
        x_BTHWC = averaged(x_BTHWC, smaller)
    if smaller == size:
        return x_BTHWC
    return F.interpolate(x_BTHWC.permute(0, 4, 1, 2, 3), size).permute(0, 2, 3, 4, 1)


def averaged(x_BTHWC: Tensor, size: Grid) -> Tensor:
    """Return the averages over cells of equal size, or, where the sides do not divide, over overlapping ones."""
    B, T, H, W, C = x_BTHWC.shape
    t, h, w = size
    if T % t or H % h or W % w:
        return F.adaptive_avg_pool3d(x_BTHWC.permute(0, 4, 1, 2, 3), size).permute(0, 2, 3, 4, 1)
    return x_BTHWC.reshape(B, t, T // t, h, H // h, w, W // w, C).mean((2, 4, 6))


def frames(x_BTHWC: Tensor) -> Tensor:
    """View a grid as frames (N, C, H, W), channels last in memory."""
    return x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)


def grid(x_NCHW: Tensor, batch: int) -> Tensor:
    """Undo `frames`."""
    return x_NCHW.permute(0, 2, 3, 1).unflatten(0, (batch, -1))
