"""Local space-time self-similarity: how well each position of a frame matches a neighbourhood in frames nearby.

It shows motion that no single frame shows, and no difference of frames: noise that moves against noise. The volume has
a channel for each lag and offset, (2 * radius + 1)**2 offsets for each lag, and is zero where the other frame lies
outside the clip. Cost and memory are linear in positions; no tensor compares all positions with each other.

    B batch   T H W grid   C channels   N = B * T frames   L lags   K = 2 * radius + 1   D = L * K * K channels of it

Sources: cost volumes of optical flow (Teed and Deng 2020, RAFT); Kwon et al. 2020, MotionSqueeze; Kwon et al. 2021,
SELFY.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.parts.depthwise import DepthwiseConv3d, on_grid
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.place import Place

# Queries in a row that meet their neighbourhoods in one product. Wider tiles compute more products to no purpose,
# narrower ones copy more keys.
TILE = 16
PRODUCTS = 2**23  # of pixels, before they are averaged, that are held at a time: a third faster than all at once
LEAST_CONTRAST = 0.1  # standard deviation below which a part of a frame counts as flat; frames have about 1


def offsets_of(radius: int, lags: Sequence[int]) -> int:
    """Channels of a correlation volume."""
    return len(lags) * (2 * radius + 1) ** 2


def check_lags(lags: Sequence[int], where: str) -> None:
    """Raise UserError for a lag of zero frames, which compares a frame with itself."""
    if 0 in lags:
        raise UserError(f"{where}.lags is {list(lags)}; give frames ahead (1, 2, ...) or back (-1, -2, ...), not 0")


def between_frames(x: Tensor, lags: Sequence[int], compare: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Compare every frame of (B, T, H, W, ...) with the one each lag ahead, zeros where there is none.

    `compare` maps two such tensors to one (B, T, H, W, channels); the results are concatenated.
    """
    volumes = [compare(x, shifted(x, lag)) for lag in lags]
    return torch.cat(volumes, -1) if len(volumes) > 1 else volumes[0]


def shifted(x: Tensor, lag: int) -> Tensor:
    """Frame t of the result is frame t + lag of (B, T, ...), or zeros."""
    T = x.shape[1]
    ahead, back = min(T, max(0, lag)), min(T, max(0, -lag))
    return F.pad(x[:, ahead : T - back], (0, 0) * (x.ndim - 2) + (back, ahead))


# --- of features ------------------------------------------------------------------------------------------------------


def feature_volume(x_BTHWC: Tensor, radius: int, lags: Sequence[int]) -> Tensor:
    """Scalar products of each position's channels with those around it in other frames, (B, T, H, W, D)."""
    return between_frames(x_BTHWC, lags, lambda q, k: neighbourhood_products(q, k, radius))


def neighbourhood_products(q_BTHWC: Tensor, k_BTHWC: Tensor, radius: int) -> Tensor:
    """Products of each query with the K x K keys around its place, zero outside the frame: (B, T, H, W, K * K).

    A tile of queries in one row meets the keys of a row that any of them needs, in one matrix product; the K keys of
    each query are a band of that matrix.
    """
    W, reach = q_BTHWC.shape[3], 2 * radius
    tile = min(W, TILE)
    fill = -W % tile
    q = F.pad(q_BTHWC, (0, 0, 0, fill)).unflatten(3, (-1, tile))  # B T H tiles tile C
    k = F.pad(k_BTHWC, (0, 0, radius, radius + fill, radius, radius))
    k = k.unfold(3, tile + reach, tile)  # B T H+reach tiles C tile+reach
    rows = [band(q @ k[:, :, row : row + q.shape[2]], reach + 1) for row in range(reach + 1)]
    return torch.cat(rows, -1).flatten(3, 4)[:, :, :, :W]


def band(products: Tensor, width: int) -> Tensor:
    """Elements [i, i] to [i, i + width - 1] of each row i of matrices of n rows and n + width - 1 columns."""
    rows = products.shape[-2]
    return F.pad(products.flatten(-2), (0, rows)).unflatten(-1, (rows, -1))[..., :width]


class Correlation(nn.Module):
    """Correlation as a mixer of grid positions: (B, T, H, W, C) -> the same shape; zero for a clip of one frame.

    Narrow features of unit length are compared, and the volume is encoded: each position's channels, a 3x3 average
    that is learned, GELU. No layer but the first has a bias, so that where nothing is compared nothing is added.
    """

    def __init__(self, dim: int, radius: int, lags: Sequence[int]) -> None:
        super().__init__()
        self.radius, self.lags = radius, tuple(lags)
        narrow, hidden = max(16, dim // 8), max(32, dim // 2)
        self.features = Linear(dim, narrow)
        self.encode = Linear(offsets_of(radius, lags), hidden, bias=False)
        self.average = DepthwiseConv3d(hidden, (1, 3, 3), bias=False)
        self.proj = Linear(hidden, dim, bias=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        narrow = F.normalize(self.features(x_BTHWC), dim=-1)
        volume = feature_volume(narrow, self.radius, self.lags)
        out: Tensor = self.proj(F.gelu(on_grid(self.average, self.encode(volume))))
        return out


def correlation(place: Place) -> list[nn.Module]:
    """The mixer of a correlation block."""
    check_lags(place.stage.lags, "stage")
    return [Correlation(place.dim, place.stage.radius, place.stage.lags)]


# --- of frames --------------------------------------------------------------------------------------------------------


def frame_volume(
    x_BCTHW: Tensor,
    radius: int,
    lags: Sequence[int],
    box: int,
    scale: int = 1,
    normalise: bool = True,
    stride: int = 1,
) -> Tensor:
    """Correlation of frames: products of grey values, averaged over a box around each position.

    Args:
        x_BCTHW: clip.
        radius: largest offset, in positions.
        lags: frames ahead (or, if negative, back).
        box: side of the box, an odd number of positions.
        scale: frames are averaged over scale x scale pixels first, which makes a position that large.
        normalise: compare deviations from the mean of the box, in its standard deviations.
        stride: positions from one that is returned to the next.

    Returns:
        (B, D, T, ceil(H / s), ceil(W / s)), s = scale * stride, channels last in memory.
    """
    grey_NHW = x_BCTHW.float().mean(1).flatten(0, 1)
    if scale > 1:
        grey_NHW = F.avg_pool2d(grey_NHW[:, None], scale, ceil_mode=True)[:, 0]
    if normalise:
        grey_NHW = normalised(grey_NHW, box)
    grey_BTHW = grey_NHW.unflatten(0, (x_BCTHW.shape[0], -1))
    compare = lambda q, k: box_products(q, k, radius, box, stride)  # noqa: E731
    volume_BTHWD = between_frames(grey_BTHW, lags, compare)
    return volume_BTHWD.permute(0, 4, 1, 2, 3)


def normalised(grey_NHW: Tensor, box: int) -> Tensor:
    """Frames less their local mean, divided by their local standard deviation."""
    moments = box_mean(torch.stack([grey_NHW, grey_NHW.square()], -1), box)
    inside = box_mean(torch.ones_like(grey_NHW[:1, ..., None]), box)[..., 0]  # under 1 at the border
    mean, square = (moments / inside[..., None]).unbind(-1)
    spread = (square - mean.square()).clamp_min(0) + LEAST_CONTRAST**2
    return (grey_NHW - mean) * spread.rsqrt()


def box_products(q_BTHW: Tensor, k_BTHW: Tensor, radius: int, box: int, stride: int) -> Tensor:
    """Products of pixels with the K x K around their places in the other frame, box-averaged, (B, T, H', W', K * K)."""
    K = 2 * radius + 1
    q_NHW, k_NHW = q_BTHW.flatten(0, 1), F.pad(k_BTHW.flatten(0, 1), (radius,) * 4)
    few = max(1, PRODUCTS // max(1, q_NHW[:1].numel() * K * K))
    means = []
    for q, k in zip(q_NHW.split(few), k_NHW.split(few), strict=True):
        products = q[..., None, None] * k.unfold(1, K, 1).unfold(2, K, 1)
        means.append(box_mean(products.flatten(3), box, stride))
    return torch.cat(means).unflatten(0, q_BTHW.shape[:2])


def box_mean(x_NHWC: Tensor, box: int, stride: int = 1) -> Tensor:
    """Mean over a box around each position, or each `stride`-th, zeros outside: along columns, then rows.

    As convolutions, which on channels-last memory are faster than pooling or running sums.
    """
    C = x_NHWC.shape[-1]
    column_C11b = x_NHWC.new_full((C, 1, box, 1), 1 / box)
    x = F.conv2d(x_NHWC.permute(0, 3, 1, 2), column_C11b, stride=(stride, 1), padding=(box // 2, 0), groups=C)
    x = F.conv2d(x, column_C11b.mT, stride=(1, stride), padding=(0, box // 2), groups=C)
    return x.permute(0, 2, 3, 1)


class MotionStream(nn.Module):
    """Maps of motion through small convolutions, to the stride and the channels of a stem: frame by frame.

    With BatchNorm: what tells a figure from the ground is the size of a map, which norms of each position lose.
    `start_at_zero`: the last layer starts at zero, so that the features of a pretrained stem are as they were.
    """

    def __init__(self, channels: int, out: int, stride: int, start_at_zero: bool) -> None:
        super().__init__()
        steps = max(0, stride.bit_length() - 1)
        widths = [min(out, 32 * 2 ** (step // 2)) for step in range(steps + 1)]
        layers: list[nn.Module] = []
        for step, (before, after) in enumerate(pairwise([channels, *widths])):
            layers.append(nn.Conv2d(before, after, 3, stride=2 if step else 1, padding=1, bias=False))
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Conv2d(widths[-1], out, 1, bias=False)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        if start_at_zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out: Tensor = self.last(self.layers(x_NCHW))
        return out
