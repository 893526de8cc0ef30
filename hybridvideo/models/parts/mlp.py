"""The two-layer perceptron of every transformer block here, lean in memory.

R rows   C channels   M hidden channels
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.linear import Linear, lowered
from hybridvideo.models.parts.norms import ACTIVATIONS
from hybridvideo.models.parts.shortcuts import is_bare, may_bypass

# Without gradients, a CPU computes more hidden numbers than these in portions: beyond 32 MiB malloc maps fresh pages
# for every tensor, and touching those costs more than the arithmetic (50,176 rows of 96: 47 ms, all at once 116 ms).
PORTION = 2**23


class Mlp(nn.Module):
    """linear -> activation -> dropout -> linear -> dropout over the last axis.

    Backward keeps the GELU's input alone; other activations are torch's.
    """

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0, activation: str = "gelu") -> None:
        super().__init__()
        self.activation = activation
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
        if self.activation != "gelu":
            other: Tensor = self.drop(self.fc2(self.drop(ACTIVATIONS[self.activation](hidden))))
            return other
        drops = self.training and self.drop.p > 0
        if torch.compiler.is_compiling() or drops:
            out: Tensor = self.drop(self.fc2(self.drop(F.gelu(hidden))))
        elif torch.is_grad_enabled():
            out = of_gelu(self.fc2, hidden) if may_bypass(self.fc2) else without_keeping(self.fc2, hidden)
        else:
            out = self.fc2(torch.ops.aten.gelu_(hidden) if is_bare(self.fc1) else F.gelu(hidden))
        return out


def rows_of(x: Tensor) -> int:
    """Vectors of the last axis."""
    return x.shape[:-1].numel()


def of_gelu(layer: nn.Module, hidden: Tensor) -> Tensor:
    """`layer(gelu(hidden))` by the layer's weights, for a layer that may be bypassed."""
    assert isinstance(layer, Linear)
    hidden = lowered(hidden)
    bias = None if layer.bias is None else layer.bias.to(hidden.dtype)
    out: Tensor = LinearOfGelu.apply(hidden, layer.weight.to(hidden.dtype), bias)
    return out


class LinearOfGelu(torch.autograd.Function):
    """linear(gelu(hidden)) that recomputes the GELU in backward instead of keeping it: a quarter of a block's memory.

    The recomputed GELU is freed before the gradient of its input, as large, is made.
    """

    @staticmethod
    def forward(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad
        grad_RC = grad.flatten(0, -2)
        grad_weight = grad_RC.t() @ F.gelu(hidden).flatten(0, -2) if of_weight else None
        grad_hidden = gelu_gradient(grad @ weight, hidden) if of_hidden else None
        return grad_hidden, grad_weight, grad_RC.sum(0) if of_bias else None


def gelu_gradient(grad: Tensor, hidden: Tensor) -> Tensor:
    """The gradient of the GELU's input, in the memory of `grad`, which nobody else holds."""
    if torch.is_grad_enabled():  # with create_graph
        return torch.ops.aten.gelu_backward(grad, hidden)
    return torch.ops.aten.gelu_backward.grad_input(grad, hidden, grad_input=grad)


class Gelu(torch.autograd.Function):
    """GELU whose output need not be kept: it can be recomputed from the saved input (see `recompute`)."""

    @staticmethod
    def forward(hidden: Tensor) -> Tensor:
        return F.gelu(hidden)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.unpacked = None

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (hidden,) = ctx.saved_tensors if ctx.unpacked is None else (ctx.unpacked,)
        ctx.unpacked = None
        return torch.ops.aten.gelu_backward(grad, hidden)


def without_keeping(layer: nn.Module, hidden: Tensor) -> Tensor:
    """`layer(gelu(hidden))` for any module, also without keeping the GELU's output.

    `layer` is called as the module it is. What autograd saves in that call passes through `pack`, which replaces the
    GELU's output, or a view of it, by a recipe.
    """
    activated: Tensor = Gelu.apply(hidden)
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
