"""The two-layer perceptron of every transformer block here, lean in memory.

R rows   C channels   M hidden channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.shortcuts import is_bare, may_bypass

# Without gradients, a CPU computes more hidden numbers than these in portions: beyond 32 MiB malloc maps fresh pages
# for every tensor, and touching those costs more than the arithmetic (50,176 rows of 96: 47 ms, all at once 116 ms).
PORTION = 2**23


class Mlp(nn.Module):
    """linear -> GELU -> dropout -> linear -> dropout over the last axis. Backward keeps the GELU's input alone."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)
        self.hidden = hidden
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        rows = max(1, PORTION // self.hidden)
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu" or rows_of(x) <= rows:
            return self.after_first(self.fc1(x))
        return torch.cat([self.after_first(self.fc1(part)) for part in x.flatten(0, -2).split(rows)]).view(x.shape)

    def after_first(self, hidden: Tensor) -> Tensor:
        """What follows `fc1`."""
        drops = self.training and self.drop.p > 0
        if torch.compiler.is_compiling() or drops:
            out: Tensor = self.drop(self.fc2(self.drop(F.gelu(hidden))))
        elif torch.is_grad_enabled():
            out = without_keeping(self.fc2, hidden)
        else:
            out = self.fc2(torch.ops.aten.gelu_(hidden) if is_bare(self.fc1) else F.gelu(hidden))
        return out


def rows_of(x: Tensor) -> int:
    """Vectors of the last axis."""
    return x.shape[:-1].numel()


class Gelu(torch.autograd.Function):
    """GELU whose output need not be kept: it can be recomputed from the saved input (see `recompute`)."""

    @staticmethod
    def forward(hidden: Tensor, in_place: bool) -> Tensor:
        return F.gelu(hidden)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, bool], output: Tensor) -> None:
        hidden, ctx.in_place = inputs
        ctx.save_for_backward(hidden)
        ctx.unpacked = None

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (hidden,) = ctx.saved_tensors if ctx.unpacked is None else (ctx.unpacked,)
        ctx.unpacked = None
        if ctx.in_place and not torch.is_grad_enabled():  # enabled: with create_graph
            return torch.ops.aten.gelu_backward.grad_input(grad, hidden, grad_input=grad), None
        return torch.ops.aten.gelu_backward(grad, hidden), None


def without_keeping(layer: nn.Module, hidden: Tensor) -> Tensor:
    """`layer(gelu(hidden))` that recomputes the GELU in backward instead of keeping it: a quarter of a block's memory.

    `layer` is called as the module it is. What autograd saves in that call passes through `pack`, which replaces the
    GELU's output, or a view of it, by a recipe. A bare linear layer hands back a gradient that nobody else holds, so
    the GELU's gradient may overwrite it; any other module may hand back one that it shares.
    """
    activated: Tensor = Gelu.apply(hidden, isinstance(layer, Linear) and may_bypass(layer))
    storage, node = activated.untyped_storage().data_ptr(), activated.grad_fn
    dtype = activated.dtype

    def pack(saved: Tensor) -> Tensor | Callable[[], Tensor]:
        if node is None or saved.dtype != dtype or saved.untyped_storage().data_ptr() != storage:
            return saved
        size, stride, offset = saved.size(), saved.stride(), saved.storage_offset()
        return lambda: recompute(node).as_strided(size, stride, offset)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        out: Tensor = layer(activated)
    return out


def unpack(saved: Tensor | Callable[[], Tensor]) -> Tensor:
    """What `pack` was given."""
    return saved if isinstance(saved, Tensor) else saved()


def recompute(node: Any) -> Tensor:
    """The output of a `Gelu` from its saved input, which its own backward pass will need next.

    Activation checkpointing lets a saved tensor be read only once, hence the note on the node.
    """
    if node.unpacked is None:
        (node.unpacked,) = node.saved_tensors
    return F.gelu(node.unpacked.detach())
