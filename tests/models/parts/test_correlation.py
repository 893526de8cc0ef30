"""Correlation: what it finds, at any size, without comparing all with all; as a block and of frames."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.blocks import Block
from hybridvideo.models.parts.correlation import Correlation, MotionStream, feature_volume, frame_volume
from hybridvideo.models.parts.kinds import make_block, without_time
from hybridvideo.models.parts.place import Place
from tests.models.test_growth import Largest


def products_one_by_one(x: Tensor, radius: int, lags: tuple[int, ...]) -> Tensor:
    B, T, H, W, _ = x.shape
    side = range(-radius, radius + 1)
    out = torch.zeros(B, T, H, W, len(lags), len(side), len(side))
    for t, h, w, (i, lag), down, right in itertools.product(range(T), range(H), range(W), enumerate(lags), side, side):
        if 0 <= t + lag < T and 0 <= h + down < H and 0 <= w + right < W:
            other = x[:, t + lag, h + down, w + right]
            out[:, t, h, w, i, down + radius, right + radius] = (x[:, t, h, w] * other).sum(-1)
    return out.flatten(4)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 17)])
def test_the_volume_has_the_product_of_every_pair_in_reach_forward_and_backward(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, 4, requires_grad=True)
    volume, expected = feature_volume(x, 1, (1, -2, 7)), products_one_by_one(x, 1, (1, -2, 7))
    assert torch.allclose(volume, expected, atol=1e-5)
    weight = torch.randn_like(volume)
    ours, theirs = (torch.autograd.grad((out * weight).sum(), x)[0] for out in (volume, expected))
    assert torch.allclose(ours, theirs, atol=1e-5)


def moving_noise(shift: tuple[int, int], frames: int = 3, side: int = 16) -> Tensor:
    """Noise (1, 3, T, H, W) that moves by rows and columns in each frame."""
    torch.manual_seed(0)
    noise = torch.randn(1, 3, side, side)
    return torch.stack([noise.roll((t * shift[0], t * shift[1]), (2, 3)) for t in range(frames)], 2)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-1, 0)])
@pytest.mark.parametrize("lag", [1, -1])
def test_the_volume_of_frames_peaks_at_the_motion(shift: tuple[int, int], lag: int) -> None:
    volume = frame_volume(moving_noise(shift), radius=2, lags=(lag,), box=5)
    inside = volume[0, :, 1, 4:-4, 4:-4]
    offset = (2 + lag * shift[0]) * 5 + 2 + lag * shift[1]
    assert (inside.argmax(0) == offset).all() and inside[offset].min() > 0.5


def test_a_frame_without_neighbour_has_no_volume() -> None:
    volume = frame_volume(moving_noise((1, 1)), radius=1, lags=(1, -2), box=3)[0].unflatten(0, (2, 9))
    assert [bool(part.any()) for part in volume[0].unbind(1)] == [True, True, False]
    assert [bool(part.any()) for part in volume[1].unbind(1)] == [False, False, True]
    assert not frame_volume(moving_noise((1, 1), frames=1), radius=1, lags=(1,), box=3).any()


def test_light_and_contrast_do_not_matter_unless_products_are_plain() -> None:
    x = moving_noise((1, 0)) * 4
    bright = 2 * x + 3
    at = (..., slice(6, -6), slice(6, -6))  # apart from the border, which differs in brightness from what is outside it
    for normalise in (True, False):
        volumes = [frame_volume(clip, 1, (1,), 5, normalise=normalise)[at] for clip in (x, bright)]
        assert torch.allclose(*volumes, atol=1e-2) == normalise


def test_scale_extends_the_reach_and_covers_odd_sides() -> None:
    x = F.interpolate(moving_noise((0, 1), side=12)[0].transpose(0, 1), scale_factor=3).transpose(0, 1)[None]
    volume = frame_volume(x[..., :-1], radius=1, lags=(1,), box=3, scale=3)
    assert volume.shape == (1, 9, 3, 12, 12)
    assert (volume[0, :, 0, 3:-3, 3:-3].argmax(0) == 5).all()  # one position to the right, three pixels


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("size", [(1, 1), (5, 33)])
def test_the_mixer_takes_any_grid_and_adds_nothing_to_a_single_frame(frames: int, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    out = Correlation(16, radius=2, lags=(1, -1))(torch.randn(2, frames, *size, 16))
    assert out.shape == (2, frames, *size, 16) and bool(out.any()) == (frames > 1)


def test_without_time_the_block_is_its_mlp() -> None:
    stage = StageConfig("correlation", radius=1)
    block = make_block(Place(without_time(stage), 0, 8, 8, (4, 4, 4), time=False))
    assert isinstance(block, Block) and not block.branches


def test_a_lag_of_no_frames_is_refused() -> None:
    with pytest.raises(UserError, match=r"lags is \[1, 0\]; give frames ahead .* not 0"):
        make_block(Place(StageConfig("correlation", lags=(1, 0)), 0, 8, 8, (4, 4, 4)))


def test_the_largest_tensor_is_linear_in_frames_and_in_width() -> None:
    def largest(frames: int, width: int) -> int:
        x = torch.randn(1, frames, 4, width, 8, requires_grad=True)
        with Largest() as found:
            Correlation(8, radius=2, lags=(1, -1))(x).sum().backward()
        return found.numbers

    small = largest(8, 32)
    assert largest(32, 32) <= 4.2 * small and largest(8, 128) <= 4.2 * small


def test_the_stream_starts_at_zero_if_asked_to() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 33, 20)
    for at_zero in (True, False):
        stream = MotionStream(9, 24, 8, start_at_zero=at_zero)
        assert stream(x).shape == (2, 24, 5, 3) and bool(stream(x).any()) != at_zero
