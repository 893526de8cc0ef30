"""When a cheaper computation may replace the one the layers define.

Some parts know a shorter way to the same numbers: two linear layers as one matrix, queries, keys and values as three
products, a last block that computes the class token alone. A shortcut reads the weights of a layer without calling
it, so hooks, adapters, quantised or sharded weights on that layer would be missed. `may_bypass` is the one place that
decides; when it says no, the layers are called as modules.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registry

_LITERAL: ContextVar[bool] = ContextVar("literal", default=False)


@contextmanager
def literally() -> Iterator[None]:
    """A context in which models compute what their papers describe, without shortcuts: for counting operations."""
    token = _LITERAL.set(True)
    try:
        yield
    finally:
        _LITERAL.reset(token)


def shortcuts_allowed() -> bool:
    """False inside `literally()`."""
    return torch.compiler.is_compiling() or not _LITERAL.get()


def may_bypass(*layers: nn.Module) -> bool:
    """Whether nothing would notice if these layers' weights were used without calling the layers.

    False for a layer with hooks or a replaced `forward`; for a class that does not itself set `bypassable = True`, such
    as a LoRA or INT8 layer or a parametrised one; for parameters that are not plain tensors (quantised, sharded); and
    inside `literally()`.
    """
    if not torch.compiler.is_compiling() and (_LITERAL.get() or registry._has_any_global_hook()):
        return False
    return all(is_bare(layer) for layer in layers)


def is_bare(layer: nn.Module) -> bool:
    """Whether a layer is of a bypassable class, without hooks, and with ordinary parameters."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    if any(hooks) or "forward" in layer.__dict__ or "bypassable" not in type(layer).__dict__:
        return False
    if torch.compiler.is_compiling():  # parameters are ordinary, or the compiler has refused them
        return True
    return all(type(parameter) in (Tensor, nn.Parameter) for parameter in layer.parameters(recurse=False))
