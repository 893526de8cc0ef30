"""Maps of motion: where a figure is that only its motion shows, and which way it goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hybridvideo.models.parts.correlation import frame_volume
from hybridvideo.models.parts.motion_maps import motion_maps

FIGURE = (slice(12, 28), slice(10, 26))


def moving_figure(ground: tuple[int, int], figure: tuple[int, int], grain: int = 1, side: int = 40) -> Tensor:
    """Noise in two frames, (1, 3, 2, side, side), that moves otherwise inside FIGURE."""
    noise = torch.randn(2, side, side, generator=torch.Generator().manual_seed(0))
    frames = []
    for t in range(2):
        here, there = (noise[i].roll((t * v[0], t * v[1]), (0, 1)) for i, v in enumerate((ground, figure)))
        here[FIGURE] = there[FIGURE]
        frames.append(here.repeat_interleave(grain, 0).repeat_interleave(grain, 1))
    return torch.stack(frames).expand(1, 3, 2, side * grain, side * grain)


@pytest.mark.parametrize("ground, figure", [((1, 0), (-1, 0)), ((-2, 1), (0, 2)), ((3, -3), (2, -3))])
def test_agreement_outlines_a_figure_whichever_ways_it_and_the_ground_move(
    ground: tuple[int, int], figure: tuple[int, int]
) -> None:
    maps = motion_maps(moving_figure(ground, figure), 3, (1,), 5, (1,))[0, :, 0]
    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[15:25, 13:23] = True
    outside = torch.ones(40, 40, dtype=torch.bool)
    outside[7:33, 5:31] = False
    outside[:5], outside[-5:], outside[:, :5], outside[:, -5:] = False, False, False, False
    assert maps[0][inside].mean() + 1 < maps[0][outside].mean()
    assert maps[0][inside].quantile(0.9) < maps[0][outside].quantile(0.1)
    for where, (down, right) in ((inside, figure), (outside, ground)):
        assert abs(maps[1][where].median() - down) < 0.3 and abs(maps[2][where].median() - right) < 0.3


def test_a_larger_scale_sees_coarse_noise_that_moves_fast() -> None:
    maps = motion_maps(moving_figure((2, 0), (-2, 1), grain=2), 3, (1,), 5, (1, 2))[0, :, 0]
    assert maps.shape == (8, 80, 80)
    coarse = maps[4:]
    assert coarse[0, 32:48, 28:44].mean() + 1 < coarse[0, 12:20].mean()
    assert abs(coarse[1, 32:48, 28:44].median() + 2) < 0.3


@pytest.mark.parametrize("scale, step", [(1, 2), (1, 3), (2, 2)])
def test_with_a_stride_fewer_positions_are_computed_and_those_are_the_same(scale: int, step: int) -> None:
    x = torch.randn(2, 3, 3, 26, 21, generator=torch.Generator().manual_seed(0))
    every = frame_volume(x, 2, (1, -1), 5, scale)
    assert torch.allclose(frame_volume(x, 2, (1, -1), 5, scale, stride=step), every[..., ::step, ::step], atol=1e-6)


@pytest.mark.parametrize("stride, scales", [(2, (1,)), (4, (1, 2)), (2, (1, 2, 4)), (1, (2, 4))])
def test_maps_of_every_scale_have_the_size_of_the_finest(stride: int, scales: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 3, 26, 21)
    cell = max(stride, min(scales))
    maps = motion_maps(x, 2, (1, -1), 5, scales, stride=stride)
    assert maps.shape == (2, 8 * len(scales), 3, -(-26 // cell), -(-21 // cell))


def test_one_frame_has_no_motion() -> None:
    assert not motion_maps(torch.randn(1, 3, 1, 12, 9), 2, (1, -1), 5, (1, 2)).any()
