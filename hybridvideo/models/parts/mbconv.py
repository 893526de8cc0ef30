"""Inverted bottlenecks of EfficientNet (Tan & Le 2019) as CoAtNet and MaxViT have them: normed first, with a shortcut.

    shortcut(x) + project(squeeze(norm(depthwise(norm(expand(norm(x)))))))

In a block of stride 2 the depthwise convolution, or an average before the expansion, halves rows and columns, and the
shortcut pools. All space is that of a frame; only a kernel deeper than one frame reaches into its neighbours.

    B batch   T H W grid   C channels   N = B * T frames
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath, make_divisible
from torch import Tensor, nn

from hybridvideo.config.model import FormConfig
from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.folding import Folded
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.norms import ACTIVATIONS, GridBatchNorm
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.shortcuts import is_bare


class MBConv(nn.Module):
    """(B, T, H, W, C) -> (B, T, H / stride, W / stride, C'), odd sides rounded up."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        stage, form, into, dim = place.stage, place.stage.form, place.dim_in, place.dim
        hidden = make_divisible((dim if form.expand == "out" else into) * stage.mlp_ratio)
        pools = place.stride > 1 and form.shrink == "pool"
        self.shortcut = Shortcut(into, dim, place.stride, form.pool)
        self.norm = GridBatchNorm(into, eps=form.batch_eps)
        self.pool = Shrink("mean") if pools else nn.Identity()
        self.expand = Linear(into, hidden, bias=False)
        self.expand_norm = GridBatchNorm(hidden, eps=form.batch_eps)
        stride = 1 if pools else place.stride
        self.conv = depthwise(hidden, place.kernel((1, 3, 3)), stride, form.padding)
        self.conv_norm = GridBatchNorm(hidden, eps=form.batch_eps)
        self.squeeze = SqueezeExcite(hidden, form) if form.squeeze else nn.Identity()
        self.project = Linear(hidden, dim)
        self.drop_path = DropPath(place.drop_path)
        self.expanded, self.convolved = Folded(), Folded(grid=True)
        self.activation = form.activation
        self.activate_first, self.squeeze_first = form.activate_first, form.squeeze_first

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.norm(x_BTHWC)
        x = self.pool(self.activated(x, self.norm) if self.activate_first else x)
        x = self.activated(self.expanded(self.expand, self.expand_norm, x), self.expand_norm)
        if self.squeeze_first:
            x = self.activated(self.conv_norm(self.squeeze(on_grid(self.conv, x))), self.conv_norm)
        else:
            x = self.squeeze(self.activated(self.convolved(self.conv, self.conv_norm, x), self.conv_norm))
        out: Tensor = self.shortcut(x_BTHWC) + self.drop_path(self.project(x))
        return out

    def activated(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The activation of what a norm returned; in its memory if nothing else can see it."""
        in_place = IN_PLACE.get(self.activation)
        if in_place is None or torch.is_grad_enabled() or torch.compiler.is_compiling() or not is_bare(norm):
            return ACTIVATIONS[self.activation](x)
        return in_place(x)


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {"gelu": torch.ops.aten.gelu_, "silu": torch.ops.aten.silu_}


class SqueezeExcite(nn.Module):
    """Each channel of a frame times a gate that depends on all channels' means over it (Hu et al. 2018)."""

    def __init__(self, dim: int, form: FormConfig) -> None:
        super().__init__()
        hidden = max(1, int(dim * form.squeeze))
        self.fc1, self.fc2 = Linear(dim, hidden), Linear(hidden, dim)
        self.activation = form.squeeze_activation

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        mean_BT11C = x_BTHWC.mean((2, 3), keepdim=True)
        gate: Tensor = self.fc2(ACTIVATIONS[self.activation](self.fc1(mean_BT11C))).sigmoid()
        return x_BTHWC * gate


# --- stride 2 ---------------------------------------------------------------------------------------------------------


class Shrink(nn.Module):
    """Halve rows and columns of each frame: the mean of 2x2 positions, or the maximum of 3x3."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x_NCHW = x_BTHWC.flatten(0, 1).permute(0, 3, 1, 2)
        out = F.max_pool2d(x_NCHW, 3, 2, 1) if self.pool == "max" else F.avg_pool2d(x_NCHW, 2, 2, ceil_mode=True)
        return out.permute(0, 2, 3, 1).unflatten(0, x_BTHWC.shape[:2])


class Shortcut(nn.Sequential):
    """What a residual sum starts from: the input, pooled for stride 2, with a 1x1 convolution to another width."""

    def __init__(self, dim: int, out: int, stride: int, pool: str) -> None:
        super().__init__(
            Shrink(pool) if stride > 1 else nn.Identity(),
            Linear(dim, out) if dim != out else nn.Identity(),
        )


def depthwise(dim: int, kernel: tuple[int, int, int], stride: int, padding: str) -> DepthwiseConv3d:
    """Build a depthwise convolution without bias."""
    return ShrinkingConv3d(dim, kernel, padding) if stride > 1 else DepthwiseConv3d(dim, kernel, bias=False)


class ShrinkingConv3d(DepthwiseConv3d):
    """A depthwise convolution of stride (1, 2, 2), as 2-D convolutions, one for each frame of the kernel.

    torch's 3-D kernels with a stride are slow on a CPU, backward above all.
    """

    bypassable = True

    def __init__(self, dim: int, kernel: tuple[int, int, int], padding: str) -> None:
        super().__init__(dim, kernel, bias=False)
        self.stride = (1, 2, 2)
        self.like_tensorflow = padding == "same"

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self._conv_forward(x_BCTHW, self.weight, self.bias)

    def _conv_forward(self, x_BCTHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        B, T, t = x_BCTHW.shape[0], x_BCTHW.shape[2], weight.shape[2]
        frames = x_BCTHW.transpose(1, 2)
        if t > 1:
            frames = F.pad(frames, (0, 0, 0, 0, 0, 0, t // 2, t // 2))
        total: Tensor | None = None
        for k in range(t):
            plane = self.plane(frames[:, k : k + T].flatten(0, 1), weight[:, :, k], None if k else bias)
            total = plane if total is None else total + plane
        assert total is not None
        return total.unflatten(0, (B, T)).transpose(1, 2)

    def plane(self, x_NCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """One frame of the kernel, with stride 2."""
        height, width = weight.shape[2:]
        padding = (height // 2, width // 2)
        if self.like_tensorflow:
            before_after = [same_padding(side, k) for side, k in zip(x_NCHW.shape[:1:-1], (width, height), strict=True)]
            x_NCHW, padding = F.pad(x_NCHW, [side for pair in before_after for side in pair]), (0, 0)
        return F.conv2d(x_NCHW, weight, bias, 2, padding, groups=weight.shape[0])


def same_padding(side: int, kernel: int) -> tuple[int, int]:
    """TensorFlow's `same` for stride 2: zeros before and after, the odd one after."""
    total = max(0, (-(-side // 2) - 1) * 2 + kernel - side)
    return total // 2, total - total // 2
