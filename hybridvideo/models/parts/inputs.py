"""The stem's view of a clip: its frames, their temporal differences, or both.

Many videos of one scene differ only in what moves; a difference image shows the motion and little of the scene.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridvideo.config.model import InputConfig
from hybridvideo.errors import UserError


class ClipInput(nn.Module):
    """Clip (B, 3, T, H, W) -> one clip per stream; differences have T - 1 images, as do the frames paired with them."""

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, x_BCTHW: Tensor) -> list[Tensor]:
        if self.config.mode == "rgb":
            return [x_BCTHW]
        difference = self.difference(x_BCTHW)
        if self.config.mode == "difference":
            return [difference]
        frames = x_BCTHW[:, :, :-1] if x_BCTHW.shape[2] > 1 else x_BCTHW
        if self.config.mode == "both":
            return [torch.cat([frames, difference], 1)]
        return [frames, difference]

    def difference(self, x_BCTHW: Tensor) -> Tensor:
        """clip(gain * (x[t + 1] - x[t]), -limit, limit); zeros for a clip of one frame."""
        if x_BCTHW.shape[2] == 1:
            return torch.zeros_like(x_BCTHW)
        step = (x_BCTHW[:, :, 1:] - x_BCTHW[:, :, :-1]) * self.config.gain
        return step.clamp_(-self.config.limit, self.config.limit)


def widen_first_convolution(stem: nn.Module) -> None:
    """Give a stem's first convolution six channels: its kernels twice, halved to keep the scale."""
    first = next((layer for layer in stem.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise UserError("input.mode both needs a stem whose first layer is a convolution of 3 channels; use two_stream")
    first.weight = nn.Parameter(torch.cat([first.weight, first.weight], 1).detach() / 2)
    first.in_channels = 6
