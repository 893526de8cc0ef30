"""ST-Adapter: a convolution through time inside a frozen image Transformer, a hybrid in itself.

Pan et al. 2022, *ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning*.
"""

from __future__ import annotations

from torch import Tensor, nn

from hybridvideo.config.model import AdapterConfig
from hybridvideo.models.adapters.adapted_branch import AdaptedBranch, inner_width, width_of
from hybridvideo.models.parts.blocks import Block, Branch
from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.linear import Linear


class StAdapter(nn.Module):
    """x + up(depthwise convolution(down(x))) on a grid (B, T, H, W, C); `up` starts at zero."""

    def __init__(self, dim: int, inner: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.down = Linear(dim, inner)
        self.conv = DepthwiseConv3d(inner, kernel)
        self.up = Linear(inner, dim)
        self.start()

    def start(self) -> None:
        """Begin with an output of zero; called after the initialisation by kind."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = x_BTHWC + self.up(on_grid(self.conv, self.down(x_BTHWC)))
        return out


class StBranch(AdaptedBranch):
    """Attention after an ST-Adapter."""

    def __init__(self, branch: Branch, adapter: StAdapter) -> None:
        super().__init__(branch)
        self.adapter = adapter

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.adapter(x))


def insert_st(block: Block, index: int, config: AdapterConfig, time: bool) -> None:
    """Insert the adapter before the attention of a block; without `time` its kernel is one frame deep."""
    branch = block.branches[index]
    assert isinstance(branch, Branch)
    t, h, w = config.kernel
    dim = width_of(branch)
    adapter = StAdapter(dim, inner_width(config, dim), (t if time else 1, h, w))
    block.branches[index] = StBranch(branch, adapter)
