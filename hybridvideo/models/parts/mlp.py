"""The two-layer perceptron of every transformer block here, lean in memory.

R rows   C channels   M hidden channels
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.models.parts.linear import Linear

# Without gradients a CPU takes more hidden numbers than these in portions: beyond 32 MiB malloc maps fresh pages for
# every tensor, and touching those costs more than the arithmetic (50,176 rows of 96: 47 ms, all at once 116 ms).
PORTION = 2**23


class Mlp(nn.Module):
    """linear -> GELU -> linear over the last axis. Only the GELU's input is kept for backward."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        rows = max(1, PORTION // self.fc1.out_features)
        if torch.compiler.is_compiling():
            out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        elif torch.is_grad_enabled():
            hidden = self.fc1(x)
            weight, bias = self.fc2.weight.to(hidden.dtype), self.fc2.bias.to(hidden.dtype)
            out = LinearOfGelu.apply(hidden, weight, bias)
        elif x.device.type == "cpu" and x[..., 0].numel() > rows:
            out = torch.cat([self.untrained(part) for part in x.flatten(0, -2).split(rows)]).view(x.shape)
        else:
            out = self.untrained(x)
        return out

    def untrained(self, x: Tensor) -> Tensor:
        """Without gradients: the GELU overwrites its input."""
        out: Tensor = self.fc2(torch.ops.aten.gelu_(self.fc1(x)))
        return out


class LinearOfGelu(torch.autograd.Function):
    """linear(gelu(hidden)) that computes the GELU again backward rather than keep it: a quarter of a block's memory."""

    @staticmethod
    def forward(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.gelu(hidden), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden, weight = ctx.saved_tensors
        grad_RC = grad.flatten(0, -2)
        grad_weight = grad_RC.t() @ F.gelu(hidden).flatten(0, -2)
        grad_hidden = grad @ weight
        if torch.is_grad_enabled():  # with create_graph
            grad_hidden = torch.ops.aten.gelu_backward(grad_hidden, hidden)
        else:
            torch.ops.aten.gelu_backward.grad_input(grad_hidden, hidden, grad_input=grad_hidden)
        return grad_hidden, grad_weight, grad_RC.sum(0)
