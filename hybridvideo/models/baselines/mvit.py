"""Multiscale vision transformers of the libraries under this project's contract.

Fan et al. 2021, *Multiscale Vision Transformers*.

    grid_BTHWC  features, channels last      x_BNC  tokens, the class token first
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.models.baselines.baseline import Baseline
from hybridvideo.models.parts.positions import AbsolutePosition

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
    """A multiscale vision transformer with the library's blocks: `block(tokens, grid sizes)`.

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

    def enter(self, grid_BTHWC: Tensor) -> Any:
        return self.tokens(grid_BTHWC), tuple(grid_BTHWC.shape[1:4])

    def run(self, block: nn.Module, x: Any) -> Any:
        return self.run_block(block, *x)

    def grid_of(self, x: Any) -> Tensor:
        x_BNC, sizes = x
        grid: Tensor = x_BNC[:, 1:].unflatten(1, tuple(sizes))
        return grid

    def leave(self, x: Any) -> Tensor:
        out: Tensor = self.norm()(x[0][:, 0])
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
    """Index of the first block of each stage but the first: there the grid is halved and the channels are doubled."""
    starts, block = [], 0
    for depth in depths:
        block += depth
        starts.append(block)
    return starts[:-1]
