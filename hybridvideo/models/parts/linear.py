"""The linear layer of every network here, and the shortcuts past it.

Every matrix is an `nn.Linear` that is called as a module, so that hooks, adapters, quantisation and sharding of single
layers work. The shortcuts (`in_parts`, `Composition`) yield the same numbers faster and step aside as soon as
something watches or replaces the layer (`shortcuts.may_bypass`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.cached import Cached
from hybridvideo.models.parts.shortcuts import may_bypass

Affine = tuple[Tensor, Tensor | None]  # weight and bias


class Linear(nn.Linear):
    """`nn.Linear` that, without gradients, keeps its weights in autocast's precision until they change.

    Autocast itself casts them again in every pass: a tenth of a ViT-B's time for one clip in bf16. The copy costs half
    the weights' memory.

    `stacked`: the rows of each of several matrices in one, such as those of queries, keys and values; each is
    initialised by itself. `interleaved`: the number of heads, if the rows are ordered by head first.
    """

    bypassable = True  # see `shortcuts`; a subclass is not

    def __init__(
        self, dim: int, out: int, bias: bool = True, stacked: Sequence[int] = (), interleaved: int = 1
    ) -> None:
        super().__init__(dim, out, bias)
        self.stacked, self.interleaved = tuple(stacked) or (out,), interleaved
        assert sum(self.stacked) == out and not any(rows % interleaved for rows in self.stacked)
        self.cached = Cached[Affine]()

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.operands(x))

    def operands(self, x: Tensor) -> Affine:
        """Weight and bias in the precision in which they meet `x`."""
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or weight.dtype != torch.float32:
            return weight, bias
        kind = autocast_dtype(x)
        if kind is None:
            return weight, bias
        sources = (weight,) if bias is None else (weight, bias)
        return self.cached.get(sources, lambda: (weight.detach().to(kind), cast(bias, kind)), kind)


def cast(bias: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The bias, if there is one, in another precision and without a graph."""
    return None if bias is None else bias.detach().to(dtype)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The precision in which autocast would compute a product with `x`; None when autocast is off."""
    device = x.device.type  # autocast does not know meta; torch 2.11 cannot compile `is_autocast_available`
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    return torch.get_autocast_dtype(device)


def lowered(x: Tensor) -> Tensor:
    """`x` in the precision of linear layers under autocast: cast once, before anything copies or reads it."""
    kind = autocast_dtype(x)
    return x if kind is None else x.to(kind)


def in_parts(layer: nn.Module, x: Tensor, parts: int) -> Sequence[Tensor]:
    """`layer(x).chunk(parts, -1)`, each part contiguous in memory if `layer` may be bypassed."""
    if not may_bypass(layer):
        out: Tensor = layer(x)
        return out.chunk(parts, -1)
    assert isinstance(layer, Linear)
    weight, bias = layer.operands(x)
    biases = [None] * parts if bias is None else bias.chunk(parts)
    return [F.linear(x, *affine) for affine in zip(weight.chunk(parts), biases, strict=True)]


class Composition(nn.Module):
    """Two linear layers in sequence as one matrix, for when a batch has more rows than that matrix takes to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.cached = Cached[tuple[Tensor, Tensor]]()

    def forward(self, inner: Linear, outer: Linear, x: Tensor) -> Tensor:
        """`outer(inner(x))` without the bias of `outer`."""
        sources = (inner.weight, inner.bias, outer.weight)
        trained = torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        if trained or torch.compiler.is_compiling():
            return F.linear(x, *product(inner, outer))
        make = lambda: rounded_product(inner, outer, x)  # noqa: E731
        return F.linear(x, *self.cached.get(sources, make, x.dtype, x.device))


def product(inner: Linear, outer: Linear) -> tuple[Tensor, Tensor]:
    """Weight and bias of the composition but for the bias of `outer`; under autocast in its precision."""
    return outer.weight @ inner.weight, outer.weight @ inner.bias


def rounded_product(inner: Linear, outer: Linear, like: Tensor) -> tuple[Tensor, Tensor]:
    """The same, computed in the precision of the parameters and then rounded to that of `like`."""
    with torch.autocast(like.device.type, enabled=False):
        weight, bias = product(inner, outer)
    return weight.to(like.dtype), bias.to(like.dtype)


def init_xavier(layer: nn.Linear) -> None:
    """Uniform weights after Glorot and Bengio 2010, for each of the matrices that a layer holds.

    As one matrix, the fan-out of queries, keys and values would count all three, and each start too small by sqrt 2.
    """
    stacked, interleaved = (
        (layer.stacked, layer.interleaved) if isinstance(layer, Linear) else ((len(layer.weight),), 1)
    )
    blocks = layer.weight.unflatten(0, (interleaved, -1)).split([rows // interleaved for rows in stacked], 1)
    for rows, block in zip(stacked, blocks, strict=True):
        bound = math.sqrt(6 / (layer.in_features + rows))
        nn.init.uniform_(block, -bound, bound)


def init_linear(layer: nn.Module) -> None:
    """Truncated normal weights (std 0.02) and zero bias, as in the first ViT; other layers are left alone."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
