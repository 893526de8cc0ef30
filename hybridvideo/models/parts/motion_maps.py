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
    x_BCTHW: Tensor,
    radius: int,
    lags: Sequence[int],
    box: int,
    scales: Sequence[int],
    normalise: bool = True,
    stride: int = 1,
) -> Tensor:
    """Return the maps of a clip, (B, 4 * lags * scales, T, ceil(H / s), ceil(W / s)), s = `map_stride`.

    Args: as for `frame_volume`, for each of `scales`, but the stride, which is in pixels; coarser maps are repeated.
    """
    finest = map_stride(scales, stride)
    parts = []
    for scale in scales:
        step = max(1, stride // scale)
        volumes = (frame_volume(x_BCTHW, radius, (lag,), box, scale, normalise, step) for lag in lags)
        maps = torch.cat([maps_of(volume, radius) for volume in volumes], 1)  # one volume at a time
        parts.append(repeated(maps, scale * step, finest))
    H, W = (-(-side // finest) for side in x_BCTHW.shape[3:])
    return torch.cat([part[..., :H, :W] for part in parts], 1)


def map_stride(scales: Sequence[int], stride: int) -> int:
    """Pixels from one position of the maps to the next."""
    return max(stride, min(scales))


def maps_of(volume_BDTHW: Tensor, radius: int) -> Tensor:
    """Return the four maps of the volume of one lag, (B, 4, T, H, W)."""
    volume = volume_BDTHW.permute(0, 2, 3, 4, 1)  # as it is in memory
    D = volume.shape[-1]
    share_BTHWD = torch.softmax(volume / TEMPERATURE, -1) - 1 / D
    frame_BTD = share_BTHWD.mean((2, 3))
    agreeing_BTD = 2 * frame_BTD / (frame_BTD.square().sum(-1, keepdim=True) + LEAST_CERTAINTY)
    steps = torch.arange(-radius, radius + 1, device=volume.device, dtype=volume.dtype)
    offsets_D2 = torch.cartesian_prod(steps, steps)
    weight_BTD3 = torch.cat([agreeing_BTD[..., None], offsets_D2.expand(*agreeing_BTD.shape, 2)], -1)
    maps_BTHW3 = (share_BTHWD.flatten(2, 3) @ weight_BTD3).unflatten(2, share_BTHWD.shape[2:4])
    match_BTHW1 = volume.amax(-1, keepdim=True)
    return torch.cat([maps_BTHW3, match_BTHW1], -1).permute(0, 4, 1, 2, 3)


def repeated(maps_BCTHW: Tensor, scale: int, finest: int) -> Tensor:
    """Maps at the resolution of the finest scale, or a little larger."""
    times = scale // finest
    return maps_BCTHW if times == 1 else maps_BCTHW.repeat_interleave(times, 3).repeat_interleave(times, 4)
