"""The moving average of the weights."""

from __future__ import annotations

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn


class MovingAverage:
    """timm's average, with its warm-up; the device can call off an update. `module`: the averaged network."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.average = ModelEmaV3(model, decay=decay, use_warmup=True)
        self.module: nn.Module = self.average.module

    @torch.no_grad()
    def follow(self, model: nn.Module, step: int, skip: Tensor) -> None:
        """Move towards the weights after a step.

        Args:
            step: its number, counted from 1.
            skip: on the device, 1 if the step was skipped, else 0: then the average stays.
        """
        share = (1 - self.average.get_decay(step)) * (1 - skip)
        for mean, value in zip(self.module.state_dict().values(), model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, share.to(mean.dtype))
            else:
                mean.copy_(value)  # of a skipped step, these have been put back
