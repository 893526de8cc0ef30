"""Buffers that a forward pass in training changes, put back if the step is skipped."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Buffers:
    """The part of a checkpoint that a training forward pass changes: BatchNorm's statistics and counters."""

    def __init__(self, model: nn.Module) -> None:
        saved = model.state_dict().keys()
        self.now = [buffer for name, buffer in model.named_buffers() if name in saved]
        self.kept = [buffer.clone() for buffer in self.now]
        self.finite = [each for each in self.now if each.is_floating_point() and bool(each.isfinite().all())]

    def keep(self) -> None:
        """Remember them as they are."""
        if self.now:
            torch._foreach_copy_(self.kept, self.now)

    def no_longer_finite(self) -> list[Tensor]:
        """Return one scalar: NaN if a buffer is no longer finite as it was at first, else 0. Empty without buffers."""
        return [torch.stack(torch._foreach_norm(self.finite, math.inf)).max() * 0] if self.finite else []

    def restore(self, skip: Tensor) -> None:
        """Put them back if `skip`, on the device, is 1 rather than 0."""
        for now, kept in zip(self.now, self.kept, strict=True):
            torch.where(skip.bool(), kept, now, out=now)
