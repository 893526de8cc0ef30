"""Positions added to a grid: at any size, of any width, and what they tell apart."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.models import create_model
from hybridvideo.models.parts.positions import ConvPosition, SinusoidalPosition


@pytest.mark.parametrize("dim", [1, 2, 5, 6, 7, 48, 96, 100])
@pytest.mark.parametrize("grid", [(1, 1, 1), (4, 3, 9), (11, 8, 2)])
def test_waves_have_any_width_and_size(dim: int, grid: tuple[int, int, int]) -> None:
    out = SinusoidalPosition(dim)(torch.zeros(2, *grid, dim))
    assert out.shape == (2, *grid, dim) and out.abs().max() <= 1


def test_waves_are_a_place_s_own_and_those_of_a_smaller_grid_too() -> None:
    layer = SinusoidalPosition(32)
    waves = layer(torch.zeros(1, 6, 7, 8, 32))[0]
    distance = torch.cdist(waves.flatten(0, 2), waves.flatten(0, 2)) + 9 * torch.eye(6 * 7 * 8)
    assert distance.min() > 0.1
    assert torch.equal(layer(torch.zeros(1, 3, 7, 2, 32))[0], waves[:3, :, :2])


def test_each_axis_has_its_third_of_the_channels() -> None:
    waves = SinusoidalPosition(48)(torch.zeros(1, 4, 4, 4, 48))[0]
    for axis in range(3):
        varies = waves.var(axis).sum((0, 1)) > 0
        assert varies.tolist() == [axis == channel // 16 for channel in range(48)]


def test_without_time_all_frames_have_the_same_waves() -> None:
    waves = SinusoidalPosition(20, time=False)(torch.zeros(1, 4, 3, 3, 20))[0]
    assert torch.equal(waves[0], waves[3]) and not torch.allclose(waves[:, 0], waves[:, 1])


@torch.no_grad()
def test_conditional_position_works_at_unseen_sizes_and_is_the_same_inside_them() -> None:
    layer = ConvPosition(8)
    large = torch.randn(1, 9, 12, 13, 8)
    small = large[:, 2:7, 3:10, 1:9]
    assert torch.allclose(layer(large)[:, 3:6, 4:9, 2:8], layer(small)[:, 1:-1, 1:-1, 1:-1], atol=1e-5)
    still = layer(torch.ones(1, 4, 5, 6, 8))
    assert not torch.allclose(still[:, :, 0], still[:, :, 2], atol=1e-3)  # the border shows where a position is


@torch.no_grad()
@pytest.mark.parametrize("position", ["none", "absolute", "sinusoidal"])
@pytest.mark.parametrize("relative", ["none", "table", "mlp"])
def test_absolute_and_relative_position_work_together_and_each_shows_order(position: str, relative: str) -> None:
    torch.manual_seed(0)
    stage = {"block": "joint", "depth": 2, "heads": 2, "relative": relative}
    settings = {"frames": 4, "height": 16, "width": 16, "stem": {"widths": [16]}, "stages": [stage]}
    model = create_model("hybrid", 3, position=position, **settings).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("bias_table", "relative.fc2.weight", "time_CT", "classifier.weight")):
            torch.nn.init.normal_(parameter)
    x = torch.randn(1, 3, 4, 16, 16)
    shown = not torch.allclose(model(x), model(x.flip(2)), atol=1e-3)
    assert shown == (relative != "none" or position != "none")
    assert model(torch.randn(1, 3, 7, 24, 16)).isfinite().all()
