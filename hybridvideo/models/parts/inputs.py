"""The stem's view of a clip: its frames, their temporal differences, their correlation, or several of these.

Many videos of one scene differ only in what moves; a difference image shows the motion and little of the scene. Motion
of noise against noise shows in the correlation alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hybridvideo.config.model import InputConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.correlation import check_lags
from hybridvideo.models.parts.motion_maps import MAPS, map_stride, motion_maps, repeated

OF_DIFFERENCES = ("difference", "both", "two_stream")
OF_CORRELATION = ("correlation", "correlation_stream")


class ClipInput(nn.Module):
    """Clip (B, 3, T, H, W) -> one clip per stream; differences have T - 1 images, as do the frames paired with them."""

    def __init__(self, config: InputConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, x_BCTHW: Tensor, frames_B: Tensor | None = None) -> list[Tensor]:
        """Return the streams; after `frames_B` frames, where given, a clip has nothing to correlate with."""
        mode = self.config.mode
        if mode == "rgb":
            return [x_BCTHW]
        if mode in OF_CORRELATION:
            return self.with_correlation(x_BCTHW, frames_B)
        difference = self.difference(x_BCTHW)
        if mode == "difference":
            return [difference]
        frames = x_BCTHW[:, :, :-1] if x_BCTHW.shape[2] > 1 else x_BCTHW
        if mode == "both":
            return [torch.cat([frames, difference], 1)]
        return [frames, difference]

    def difference(self, x_BCTHW: Tensor) -> Tensor:
        """clip(gain * (x[t + 1] - x[t]), -limit, limit); zeros for a clip of one frame."""
        if x_BCTHW.shape[2] == 1:
            return torch.zeros_like(x_BCTHW)
        step = (x_BCTHW[:, :, 1:] - x_BCTHW[:, :, :-1]) * self.config.gain
        return step.clamp_(-self.config.limit, self.config.limit)

    def with_correlation(self, x_BCTHW: Tensor, frames_B: Tensor | None = None) -> list[Tensor]:
        """The frames with the maps of motion as further channels, or as a second stream."""
        config = self.config
        seen_BCTHW = x_BCTHW
        if frames_B is not None:  # zeros correlate as what lies outside the clip does
            true_BT = torch.arange(x_BCTHW.shape[2], device=x_BCTHW.device) < frames_B[:, None].to(x_BCTHW.device)
            seen_BCTHW = x_BCTHW * true_BT[:, None, :, None, None]
        maps = motion_maps(
            seen_BCTHW, config.radius, config.lags, config.box, config.scales, config.normalise, config.stride
        ).to(x_BCTHW.dtype)
        if config.mode == "correlation_stream":
            return [x_BCTHW, maps]
        finest, (H, W) = map_stride(config.scales, config.stride), x_BCTHW.shape[3:]
        if finest > 1:
            maps = repeated(maps, finest, 1)[..., :H, :W]
        frames_BTHWC = torch.cat([part.permute(0, 2, 3, 4, 1) for part in (x_BCTHW, maps)], -1)
        return [frames_BTHWC.permute(0, 4, 1, 2, 3)]

    def frames(self, frames: int) -> int:
        """Images of a stream for a clip of so many frames."""
        return frames - 1 if self.config.mode in OF_DIFFERENCES and frames > 1 else frames

    @property
    def motion_channels(self) -> int:
        """Maps of motion: what a correlation adds to the frames."""
        return MAPS * len(self.config.lags) * len(self.config.scales)


def check_input(config: InputConfig, frozen: bool) -> None:
    """Raise UserError for settings of the correlation that cannot be built, or with a `frozen` stem not trained."""
    if config.mode not in OF_CORRELATION:
        return
    check_lags(config.lags, "input")
    if not config.scales or min(config.scales) < 1 or any(scale % min(config.scales) for scale in config.scales):
        raise UserError(f"input.scales is {list(config.scales)}; give the smallest and multiples of it, such as [1, 2]")
    if any(max(scale, config.stride) % min(scale, config.stride) for scale in config.scales):
        raise UserError(
            f"input.stride is {config.stride} with scales {list(config.scales)}; give a multiple or a divisor of each"
        )
    if not config.box % 2:
        raise UserError(f"input.box is {config.box}; give an odd number of pixels")
    if frozen:
        raise UserError(f"input.mode {config.mode} needs a stem that is trained; set stem.frozen false, or mode rgb")


# --- stems that see more than three channels --------------------------------------------------------------------------


def first_convolution(stem: nn.Module, mode: str, instead: str) -> nn.Conv2d:
    """Return the convolution of the frames. Raises UserError if the stem does not start with one."""
    first = next((layer for layer in stem.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.in_channels != 3 or first.groups != 1:
        raise UserError(
            f"input.mode {mode} needs a stem whose first layer is a convolution of 3 channels; use {instead}"
        )
    return first


def see_differences(stem: nn.Module) -> None:
    """Give a stem's first convolution six channels: its kernels twice, halved to keep the scale."""
    first = first_convolution(stem, "both", "two_stream")
    first.weight = nn.Parameter(torch.cat([first.weight, first.weight], 1).detach() / 2)
    first.in_channels = 6


def see_correlation(stem: nn.Module, channels: int, start_at_zero: bool) -> None:
    """Give a stem's first convolution so many more channels: of random weights as large as its own, or of zeros."""
    first = first_convolution(stem, "correlation", "correlation_stream")
    weight = first.weight.detach()
    shape = (weight.shape[0], channels, *weight.shape[2:])
    more = weight.new_zeros(shape) if start_at_zero else torch.randn_like(weight.new_empty(shape)) * weight.std()
    first.weight = nn.Parameter(torch.cat([weight, more], 1))
    first.in_channels += channels
