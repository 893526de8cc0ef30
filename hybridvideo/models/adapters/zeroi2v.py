"""ZeroI2V: an image Transformer that sees motion at no further cost in inference.

Some heads of the attention within frames take the keys and values of the frame before, and as many those of the frame
after. Linear adapters before and after its layers train, and merge into them exactly (`AdaptedLinear.merged`).

Li et al. 2024, *ZeroI2V: Zero-Cost Adaptation of Pre-trained Transformers from Image to Video*.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.config.model import AdapterConfig
from hybridvideo.errors import UserError
from hybridvideo.models.adapters.adapted_branch import inner_width, width_of
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.attention import SpatialAttention, sides
from hybridvideo.models.parts.blocks import Block, Branch
from hybridvideo.models.parts.linear import Linear, in_parts
from hybridvideo.models.parts.mlp import Mlp


class LinearAdapter(nn.Module):
    """x + up(down(x)) without bias; `up` starts at zero."""

    def __init__(self, dim: int, inner: int) -> None:
        super().__init__()
        self.down = Linear(dim, inner, bias=False)
        self.up = Linear(inner, dim, bias=False)
        self.start()

    def start(self) -> None:
        """Begin as identity; called after the initialisation by kind."""
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.up(self.down(x))
        return out

    def matrix(self) -> Tensor:
        """The same as one matrix, in double precision."""
        product = self.up.weight.double() @ self.down.weight.double()
        return product + torch.eye(len(product), dtype=product.dtype, device=product.device)


class AdaptedLinear(nn.Linear):
    """A linear layer with a linear adapter before or after it, under the layer's own names."""

    def __init__(self, layer: nn.Module, inner: int, side: Literal["before", "after"]) -> None:
        assert isinstance(layer, nn.Linear)
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.side = side
        self.adapter = LinearAdapter(layer.in_features if side == "before" else layer.out_features, inner)

    def forward(self, x: Tensor) -> Tensor:
        if self.side == "before":
            return F.linear(self.adapter(x), self.weight, self.bias)
        out: Tensor = self.adapter(F.linear(x, self.weight, self.bias))
        return out

    @torch.no_grad()
    def merged(self) -> Linear:
        """Return one layer that computes the same."""
        layer = Linear(self.in_features, self.out_features, self.bias is not None)
        layer = layer.to(self.weight.device, self.weight.dtype)
        matrix, weight = self.adapter.matrix(), self.weight.double()
        layer.weight.copy_(weight @ matrix if self.side == "before" else matrix @ weight)
        if self.bias is not None:
            layer.bias.copy_(self.bias if self.side == "before" else matrix @ self.bias.double())
        return layer.requires_grad_(False).train(self.training)


class ShiftedHeads(SpatialAttention):
    """Attention within frames, whose first `far` heads see the frame before, and the next `far` the frame after.

    The first and the last frame see themselves in place of those that are missing.
    """

    def __init__(self, attention: SpatialAttention, far: int) -> None:
        nn.Module.__init__(self)
        self.heads, self.qkv, self.proj, self.far = attention.heads, attention.qkv, attention.proj, far
        self.relative = attention.relative
        if 2 * far > self.heads:
            raise UserError(f"adapter.heads is {far}, twice that is more than the {self.heads} heads of a block")

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        B, T = x_BTHWC.shape[:2]
        q, k, v = in_parts(self.qkv, x_BTHWC.flatten(2, 3), 3)
        parts = (part.flatten(0, 1).unflatten(-1, (self.heads, -1)) for part in (q, self.shifted(k), self.shifted(v)))
        q, k, v = (part_GNhd.transpose(1, 2) for part_GNhd in parts)
        bias = None if self.relative is None else self.relative((1, *sides(x_BTHWC)[1:]), q)
        out_GhNd = attend(q, k, v, bias)
        out: Tensor = self.proj(out_GhNd.transpose(1, 2).flatten(2))
        return out.view(B, T, *x_BTHWC.shape[2:])

    def shifted(self, part_BTNC: Tensor) -> Tensor:
        """Keys or values, those of the far heads from the neighbouring frames."""
        width = self.far * part_BTNC.shape[-1] // self.heads
        back, ahead, own = part_BTNC.split([width, width, part_BTNC.shape[-1] - 2 * width], -1)
        back = torch.cat([back[:, :1], back[:, :-1]], 1)
        ahead = torch.cat([ahead[:, 1:], ahead[:, -1:]], 1)
        return torch.cat([back, ahead, own], -1)


def insert_zeroi2v(block: Block, index: int, config: AdapterConfig, time: bool) -> None:
    """Shift heads, and unless they are merged insert linear adapters; without `time` no head is shifted."""
    branch, mlp = block.branches[index], block.mlp
    assert isinstance(branch, Branch) and isinstance(branch.inner, SpatialAttention)
    assert isinstance(mlp, Branch) and isinstance(mlp.inner, Mlp)
    if time:
        branch.inner = ShiftedHeads(branch.inner, config.heads)
    if config.merged:
        return
    inner, attention = inner_width(config, width_of(branch)), branch.inner
    for part, first, last in ((attention, "qkv", "proj"), (mlp.inner, "fc1", "fc2")):
        setattr(part, first, AdaptedLinear(part.get_submodule(first), inner, "before"))
        setattr(part, last, AdaptedLinear(part.get_submodule(last), inner, "after"))
