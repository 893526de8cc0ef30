"""Precision by part: convolutions in fp16, whose numbers are finer, attention in bf16, whose scores cannot overflow.

It changes nothing outside autocast. The rest of a network, such as MLPs, keeps the precision of the run, in which such
a part returns its result. Train with `fp16`, whose loss is scaled so that small gradients of fp16 do not vanish.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.models.parts.attention import GroupedAttention
from hybridvideo.models.parts.bottleneck import RelativeAttention
from hybridvideo.models.parts.levit import LevitAttention
from hybridvideo.models.parts.linear import autocast_dtype

CONVOLUTION, ATTENTION = torch.float16, torch.bfloat16


def set_precisions(model: nn.Module) -> None:
    """Let each convolution and each attention of a model compute in its own precision under autocast."""
    for module in model.modules():
        kind: Any = type(module)
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            module.__class__ = computing_in(kind, CONVOLUTION)
        elif isinstance(module, GroupedAttention | LevitAttention | RelativeAttention):
            module.__class__ = computing_in(kind, ATTENTION)


@cache
def computing_in(kind: Any, dtype: torch.dtype) -> Any:
    """Return the same class with another precision: parameters, names and hooks of its modules stay as they are."""

    def forward(self: nn.Module, x: Tensor, *others: Any, **named: Any) -> Any:
        run = autocast_dtype(x)
        if run is None or run == dtype:
            return kind.forward(self, x, *others, **named)
        with torch.autocast(x.device.type, dtype):
            out: Tensor = kind.forward(self, x.to(dtype), *others, **named)
        return out.to(run)

    def reduce(self: nn.Module) -> tuple[Any, ...]:
        return module_of, (kind, dtype), self.__getstate__()

    return type(kind.__name__, (kind,), {"forward": forward, "__reduce__": reduce})


def module_of(kind: Any, dtype: torch.dtype) -> Any:
    """Return such a module without its contents, for pickle, which cannot find the class by its name."""
    wanted = computing_in(kind, dtype)
    return wanted.__new__(wanted)
