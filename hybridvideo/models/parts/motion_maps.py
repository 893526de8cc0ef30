"""What a correlation volume says of the motion at each position: four maps for each lag and scale.

    agreement     how well the motion here agrees with that of the whole frame: near 2 where the background moves (or
                  the camera), near 0 on what moves in another way, whichever ways the two are
    down, right   the expected offset, in positions
    match         the best correlation over the offsets: low where motions meet

A volume has a channel for each offset, and a network has to learn for each pair of offsets that a position of the one
differs from a position of the other. In the agreement, a figure that is only motion is a silhouette. All four are zero
where there is nothing to compare, as in a clip of one frame.

    B batch   T H W grid   L lags   K = 2 * radius + 1   D = K * K offsets
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hybridvideo.models.parts.correlation import frame_volume

MAPS = 4  # for each lag and scale
TEMPERATURE = 0.05  # of the softmax over offsets: chance correlations in a box of 7x7 are about 0.14
LEAST_CERTAINTY = 1e-3  # added to the sum of squares by which agreement is divided


def motion_maps(
    x_BCTHW: Tensor, radius: int, lags: Sequence[int], box: int, scales: Sequence[int], normalise: bool = True
) -> Tensor:
    """Return the maps of a clip, (B, 4 * lags * scales, T, ceil(H / s), ceil(W / s)), s the smallest scale.

    Args: as for `frame_volume`, for each of `scales`; maps of larger ones are repeated.
    """
    finest = min(scales)
    parts = []
    for scale in scales:
        volume = frame_volume(x_BCTHW, radius, lags, box, scale, normalise)
        parts.append(
            repeated(torch.cat([maps_of(lag, radius) for lag in volume.chunk(len(lags), 1)], 1), scale, finest)
        )
    H, W = (-(-side // finest) for side in x_BCTHW.shape[3:])
    return torch.cat([part[..., :H, :W] for part in parts], 1)


def maps_of(volume_BDTHW: Tensor, radius: int) -> Tensor:
    """Return the four maps of the volume of one lag, (B, 4, T, H, W)."""
    D = volume_BDTHW.shape[1]
    share = torch.softmax(volume_BDTHW / TEMPERATURE, 1) - 1 / D
    frame = share.mean((3, 4), keepdim=True)
    certainty = frame.square().sum(1, keepdim=True) + LEAST_CERTAINTY
    agreement = (share * frame).sum(1, keepdim=True) / certainty
    match = volume_BDTHW.amax(1, keepdim=True)
    steps = torch.arange(-radius, radius + 1, device=share.device, dtype=share.dtype)
    rows_B1KKTHW = share.unflatten(1, (1, len(steps), len(steps)))
    down = (rows_B1KKTHW.sum(3) * steps.view(-1, 1, 1, 1)).sum(2)
    right = (rows_B1KKTHW.sum(2) * steps.view(-1, 1, 1, 1)).sum(2)
    return torch.cat([2 * agreement, down, right, match], 1)


def repeated(maps_BCTHW: Tensor, scale: int, finest: int) -> Tensor:
    """Maps at the resolution of the finest scale, or a little larger."""
    times = scale // finest
    return maps_BCTHW if times == 1 else maps_BCTHW.repeat_interleave(times, 3).repeat_interleave(times, 4)
