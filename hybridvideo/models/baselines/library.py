"""What networks of other libraries need to stand under the contract; the networks are in `baselines_torchvision` and
`baselines_pytorchvideo`.

A `Baseline` holds the library's network as `net`; its parameters keep the library's names below that, so that
checkpoints of the library load by prefix. What is changed, without changing a result that the library gives:

    convolutions    short clips are padded beforehand (`PaddedConv3d`), activations lie channels last in memory
    pooling         windows are cut to a grid that is smaller (`WindowPool`, `CutMaxPool3d`), so that any size works
    head            no softmax

x_BCTHW  features      grid_BTHWC  the same, channels last      x_BNC  tokens, the class token first
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.contract import NOTHING, Grids, VideoModel
from hybridvideo.models.parts.depthwise import on_grid
from hybridvideo.models.parts.positions import AbsolutePosition

# --- parts of the libraries, mended -----------------------------------------------------------------------------------


class PaddedConv3d(nn.Conv3d):
    """A convolution that on CPU lays the zeros around a short clip itself, and trains depthwise kernels quickly.

    torch 2.15 on CPU, where T < kernel depth + stride: weight gradients are garbage (bf16 at T = 2) or infinite, or the
    process ends (fp32, depth 7, stride 2, T = 5 to 7), and so is the output in bf16 at T = 1 with depth 5. Padded
    beforehand all of these are right. The backward pass of depthwise kernels is slow (`depthwise`); of those with a
    stride, which that does not cover, it takes 5 times as long in bf16 as in fp32.
    """

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        low = torch.is_autocast_enabled("cpu") or x_BCTHW.dtype == torch.bfloat16
        if x_BCTHW.device.type != "cpu" or self.kernel_size[0] == 1 or not (low or torch.is_grad_enabled()):
            return super().forward(x_BCTHW)  # forward in fp32 is right, and faster unpadded
        if self.groups != self.in_channels or self.groups == 1 or not torch.is_grad_enabled():
            return self.padded(x_BCTHW)
        if self.keeps_size() and not self.is_short(x_BCTHW):
            return from_grid(on_grid(self, to_grid(x_BCTHW)))
        with torch.autocast("cpu", enabled=False):
            return self.padded(x_BCTHW.to(self.weight.dtype))

    def keeps_size(self) -> bool:
        """Whether the grid after it is that before it."""
        same = tuple(side // 2 for side in self.kernel_size)
        plain = set(self.stride) == set(self.dilation) == {1} and self.out_channels == self.in_channels
        return plain and tuple(self.padding) == same and all(side % 2 for side in self.kernel_size)

    def is_short(self, x_BCTHW: Tensor) -> bool:
        """Whether torch may go wrong."""
        return x_BCTHW.shape[2] < self.kernel_size[0] + self.stride[0]

    def padded(self, x_BCTHW: Tensor) -> Tensor:
        """The convolution, with a short clip padded before it."""
        if not self.is_short(x_BCTHW):
            return super().forward(x_BCTHW)
        time, height, width = (int(side) for side in self.padding)
        x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, time, time))
        return F.conv3d(x_BCTHW, self.weight, self.bias, self.stride, (0, height, width), self.dilation, self.groups)


class CutMaxPool3d(nn.MaxPool3d):
    """A pool whose window is cut to the grid where that is smaller, in place of an error."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        sides, padding = triple(self.kernel_size), triple(self.padding)
        room = [size + 2 * pad for size, pad in zip(x_BCTHW.shape[2:], padding, strict=True)]
        kernel = [min(side, most) for side, most in zip(sides, room, strict=True)]
        return F.max_pool3d(x_BCTHW, kernel, self.stride, self.padding)


class WindowPool(nn.Module):
    """The mean of each window of a fixed size, as the libraries' heads have it; a smaller grid is one window.

    Of a larger grid the head averages over all places of the window, which weighs the middle more than the border.
    """

    def __init__(self, window: Iterable[int]) -> None:
        super().__init__()
        self.window = tuple(window)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        grid = tuple(x_BCTHW.shape[2:])
        window = tuple(min(side, size) for side, size in zip(self.window, grid, strict=True))
        return x_BCTHW.mean((2, 3, 4), keepdim=True) if window == grid else F.avg_pool3d(x_BCTHW, window, stride=1)


def mended(net: nn.Module) -> nn.Module:
    """A library's network with the parts above in place of its own; same parameters, same names."""
    for part in net.modules():
        if isinstance(part, nn.Conv3d):
            part.__class__ = PaddedConv3d
        elif isinstance(part, nn.MaxPool3d):
            part.__class__ = CutMaxPool3d
    return net


def picklable(net: nn.Module) -> nn.Module:
    """Blocks of pytorchvideo add by a lambda, which a process cannot hand to another; by `torch.add` they can."""
    blocks: list[Any] = [part for part in net.modules() if hasattr(part, "branch_fusion")]
    for block in blocks:
        block.branch_fusion = torch.add
    return net


def triple(value: Any) -> tuple[int, int, int]:
    """A side for all three, or one for each."""
    sides = (value,) * 3 if isinstance(value, int) else tuple(value)
    return int(sides[0]), int(sides[1]), int(sides[2])


def channels_last(x_BCTHW: Tensor) -> Tensor:
    """The same clip, channels last in memory, as the loader leaves it; every layer after it keeps the order.

    On CPU 1.4 to 3 times as fast in bf16 and as fast in fp32. Kernels stay as they are: laid so too, fp32 is slower.
    """
    return x_BCTHW.contiguous(memory_format=torch.channels_last_3d)


def to_grid(x_BCTHW: Tensor) -> Tensor:
    """Channels last, as a view."""
    return x_BCTHW.permute(0, 2, 3, 4, 1)


def from_grid(grid_BTHWC: Tensor) -> Tensor:
    """Channels first, as a view."""
    return grid_BTHWC.permute(0, 4, 1, 2, 3)


# --- under the contract -----------------------------------------------------------------------------------------------


class Baseline(VideoModel):
    """A library's network: `stem_parts` once, the blocks of each stage one after another, the head.

    A subclass says which modules these are. `config` has frames, height, width and dropout.
    """

    net: Any
    config: Any

    def __init__(self, net: nn.Module, config: Any, num_classes: int, classifier: str) -> None:
        super().__init__()
        self.net = mended(net)
        self.config = config
        self.num_classes = num_classes
        self.classifier_name = f"net.{classifier}"
        self.num_features = self.classifier().weight.shape[1]
        self.input_shape = (3, config.frames, config.height, config.width)

    def classifier(self) -> Any:
        """The last layer: linear, or a pointwise convolution."""
        return self.get_submodule(self.classifier_name)

    @abstractmethod
    def stem_parts(self) -> list[nn.Module]:
        """Modules before the stages, called one after another."""

    @abstractmethod
    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        """Blocks of each stage."""

    @abstractmethod
    def head_parts(self) -> list[nn.Module]:
        """Modules after the stages."""

    @property
    def stage_names(self) -> list[str]:
        return ["stem", *self.stage_blocks()]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = channels_last(x_BCTHW)
        for part in self.stem_parts():
            x_BCTHW = part(x_BCTHW)
        return to_grid(x_BCTHW)

    def forward_stages(self, grid_BTHWC: Tensor, keep: Grids = NOTHING) -> Tensor:
        keep.put("stem", grid_BTHWC)
        x_BCTHW = from_grid(grid_BTHWC)
        del grid_BTHWC  # it is not needed beyond the first block
        for name, blocks in self.stage_blocks().items():
            for block in blocks:
                x_BCTHW = self.run_block(block, x_BCTHW)
            keep.put(name, to_grid(x_BCTHW))
        return to_grid(x_BCTHW)

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = self.pooled(grid_BTHWC)
        return features_BC if pre_logits else self.classify(features_BC)

    @abstractmethod
    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        """What the classifier reads, (B, C)."""

    def classify(self, features_BC: Tensor) -> Tensor:
        """Logits (B, K). A classifier that is a pointwise convolution is applied as the linear layer it is."""
        layer = self.classifier()
        return F.linear(F.dropout(features_BC, self.config.dropout, self.training), layer.weight.flatten(1), layer.bias)

    def reset_classifier(self, num_classes: int) -> None:
        pointwise = self.classifier().weight.ndim == 5
        super().reset_classifier(num_classes)
        if pointwise:
            layer = self.classifier()
            layer.weight = nn.Parameter(layer.weight.detach()[:, :, None, None, None])

    def no_weight_decay(self) -> set[str]:
        return set()

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        groups = [("stem", parameters(self.stem_parts()))]
        for name, blocks in self.stage_blocks().items():
            groups += [(f"{name}.{i}", parameters([block])) for i, block in enumerate(blocks)]
        groups.append(("head", parameters(self.head_parts())))
        return [(name, group) for name, group in groups if group]


def parameters(parts: Iterable[nn.Module]) -> list[nn.Parameter]:
    """All of them."""
    return list(chain.from_iterable(part.parameters() for part in parts))


# --- multiscale vision transformers -----------------------------------------------------------------------------------

MVIT_PATCH = (2, 4, 4)  # stride of the patches
MVIT_KEYS = (1, 8, 8)  # stride of keys and values in the first stage


class MViTTokens(nn.Module):
    """A grid of patches -> tokens with their positions, behind a class token with its own."""

    def __init__(self, dim: int, frames: int, height: int, width: int, position: bool = True) -> None:
        super().__init__()
        self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02))
        self.class_position = nn.Parameter(nn.init.trunc_normal_(torch.empty(dim), std=0.02)) if position else None
        self.position = AbsolutePosition(dim, frames, height, width) if position else None

    def forward(self, grid_BTHWC: Tensor) -> Tensor:
        class_C: Tensor = self.class_token
        if self.position is not None and self.class_position is not None:
            grid_BTHWC, class_C = self.position(grid_BTHWC), class_C + self.class_position
        return torch.cat([class_C.expand(len(grid_BTHWC), 1, -1), grid_BTHWC.flatten(1, 3)], 1)


class MViT(Baseline):
    """Multiscale vision transformers (Fan et al. 2021), whose blocks are the library's: `block(tokens, grid sizes)`.

    The last grid is the class token, (B, 1, 1, 1, C); those of the stages are without it. `config` has depths too.
    """

    def __init__(self, net: nn.Module, config: Any, num_classes: int, classifier: str, position: bool = True) -> None:
        super().__init__(net, config, num_classes, classifier)
        sides = zip((config.frames, config.height, config.width), MVIT_PATCH, strict=True)
        frames, height, width = (max(1, side // stride) for side, stride in sides)
        self.tokens = MViTTokens(config.channels, frames, height, width, position)

    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        blocks = iter(self.net.blocks)
        return {f"stage{i + 1}": [next(blocks) for _ in range(depth)] for i, depth in enumerate(self.config.depths)}

    @abstractmethod
    def norm(self) -> nn.Module:
        """Before the head."""

    def head_parts(self) -> list[nn.Module]:
        return [self.norm(), self.net.head]

    def forward_stages(self, grid_BTHWC: Tensor, keep: Grids = NOTHING) -> Tensor:
        keep.put("stem", grid_BTHWC)
        sizes = tuple(grid_BTHWC.shape[1:4])
        x_BNC = self.tokens(grid_BTHWC)
        del grid_BTHWC  # it is not needed beyond here
        for name, blocks in self.stage_blocks().items():
            for block in blocks:
                x_BNC, sizes = self.run_block(block, x_BNC, sizes)
            keep.put(name, x_BNC[:, 1:].unflatten(1, tuple(sizes)))
        out: Tensor = self.norm()(x_BNC[:, 0])
        return out[:, None, None, None]

    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        return grid_BTHWC.flatten(1)

    def no_weight_decay(self) -> set[str]:
        relative = {name for name, _ in self.named_parameters() if ".rel_pos_" in name}
        return {name for name, _ in self.named_parameters() if name.startswith("tokens.")} | relative

    def layer_groups(self) -> list[tuple[str, list[nn.Parameter]]]:
        (stem, first), *rest = super().layer_groups()
        return [(stem, [*first, *self.tokens.parameters()]), *rest]


def stage_starts(depths: Iterable[int]) -> list[int]:
    """Index of the first block of each stage after the first: where the grid is halved and the channels doubled."""
    starts, block = [], 0
    for depth in depths:
        block += depth
        starts.append(block)
    return starts[:-1]
