"""A bottleneck that adds nothing at the start of training (Houlsby et al. 2019, *Parameter-Efficient Transfer*)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import AdapterConfig
from hybridvideo.models.parts.blocks import Branch
from hybridvideo.models.parts.linear import Linear


class Bottleneck(nn.Module):
    """up(gelu(down(x))) over the last axis; `up` starts at zero."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.down = Linear(dim, inner)
        self.up = Linear(inner, dim)
        self.start()

    def start(self) -> None:
        """Begin with an output of zero; called after the initialisation by kind."""
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.up(F.gelu(self.down(x)))
        return out


class AdaptedBranch(Branch):
    """A branch with the parts, and the names of the parts, of another; subclasses add adapters."""

    def __init__(self, branch: Branch) -> None:
        nn.Module.__init__(self)
        self.norm, self.inner, self.dropout = branch.norm, branch.inner, branch.dropout
        self.scale, self.drop_path, self.norm_first = branch.scale, branch.drop_path, branch.norm_first


def width_of(branch: nn.Module) -> int:
    """Return the channels of a branch."""
    norm = branch.norm
    assert isinstance(norm, nn.LayerNorm | nn.modules.batchnorm._BatchNorm)
    return int(norm.weight.shape[0])


def inner_width(config: AdapterConfig, dim: int) -> int:
    """Return the channels of a bottleneck in a block of `dim`."""
    return config.dim or max(1, dim // 4)
