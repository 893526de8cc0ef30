"""AIM: the frozen spatial attention of an image Transformer reused through time.

Yang et al. 2023, *AIM: Adapting Image Models for Efficient Video Action Recognition*.
"""

from __future__ import annotations

from torch import Tensor

from hybridvideo.config.model import AdapterConfig
from hybridvideo.models.adapters.adapted_branch import AdaptedBranch, Bottleneck, inner_width, width_of
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.attention import GroupedAttention, temporal_heads
from hybridvideo.models.parts.blocks import Block, Branch
from hybridvideo.models.parts.linear import in_parts

MLP_SHARE = 0.5  # factor on the adapter next to the MLP, as published


class AimAttention(AdaptedBranch):
    """x + time(attention of each position through the frames); then x + (1 + space)(attention within frames)."""

    def __init__(self, branch: Branch, inner: int, time: bool) -> None:
        super().__init__(branch)
        dim = width_of(branch)
        self.adapter_time = Bottleneck(dim, inner) if time else None
        self.adapter_space = Bottleneck(dim, inner)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = x_BTHWC
        if self.adapter_time is not None:
            x = x + self.drop_path(self.adapter_time(self.through_time(self.norm(x))))
        mixed = self.inner(self.norm(x))
        return x + self.drop_path(self.scale(self.dropout(mixed + self.adapter_space(mixed))))

    def through_time(self, x_BTHWC: Tensor) -> Tensor:
        """The same queries, keys and values, of one position in all frames."""
        attention = self.inner
        assert isinstance(attention, GroupedAttention)
        q, k, v = temporal_heads(in_parts(attention.qkv, x_BTHWC.flatten(2, 3), 3), attention.heads)
        out: Tensor = attention.proj(attend(q, k, v).transpose(1, 2).reshape(x_BTHWC.shape))
        return out


class AimMlp(AdaptedBranch):
    """x + MLP(norm(x)) + a bottleneck of the same."""

    def __init__(self, branch: Branch, inner: int) -> None:
        super().__init__(branch)
        self.adapter = Bottleneck(width_of(branch), inner)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        mixed = self.scale(self.dropout(self.inner(normed)))
        return x + self.drop_path(mixed + MLP_SHARE * self.adapter(normed))


def insert_aim(block: Block, index: int, config: AdapterConfig, time: bool) -> None:
    """Insert the adapters of a block; without `time` it has no attention through it."""
    attention, mlp = block.branches[index], block.mlp
    assert isinstance(attention, Branch) and isinstance(mlp, Branch)
    inner = inner_width(config, width_of(attention))
    block.branches[index] = AimAttention(attention, inner, time)
    block.mlp = AimMlp(mlp, inner)
