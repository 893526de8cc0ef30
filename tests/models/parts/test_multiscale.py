"""Resolutions joined: skips, the pyramid, the routing between its levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.multiscale import resized

DOWN = [{"block": "conv", "depth": 1, "merge": True, "mlp_ratio": 1.0} for _ in range(2)]
UP = [
    {"block": "conv", "depth": 1, "up": up, "dim": dim, "mlp_ratio": 1.0} for up, dim in (("stage1", 24), ("stem", 8))
]
X = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def hybrid(**changes: Any) -> Hybrid:
    torch.manual_seed(0)
    base = {"frames": 3, "height": 32, "width": 32, "stem": {"widths": [8, 16]}}
    model = create_model("hybrid", 3, **{**base, **changes})
    assert isinstance(model, Hybrid)
    torch.nn.init.normal_(model.head.classifier.weight)
    return model.eval()


@torch.no_grad()
def test_a_stage_that_goes_up_has_the_grid_of_the_stage_it_names() -> None:
    model = hybrid(stages=DOWN + UP)
    shapes = [tuple(grid.shape[2:]) for grid in model.forward_intermediates(X, model.stage_names)]
    assert shapes == [(8, 8, 16), (4, 4, 32), (2, 2, 64), (4, 4, 24), (8, 8, 8)]
    assert model(torch.randn(1, 3, 2, 50, 38)).shape == (1, 3)  # odd sides on the way


@pytest.mark.parametrize("cut", [2, 3])
@torch.no_grad()
def test_a_skip_carries_what_the_way_down_lost(cut: int) -> None:
    """Cutting it changes the output; with the stage that it comes around made blind, all that is left comes by it."""
    model = hybrid(stages=DOWN + UP)
    before = model(X)
    skip: Any = model.stages[cut].skip
    skip.weight.zero_()
    assert not torch.allclose(model(X), before, atol=1e-3)


def test_gradients_reach_the_stem_through_a_skip_alone() -> None:
    model = hybrid(stages=DOWN + UP)
    with torch.no_grad():
        model.stages[3].widen.weight.zero_()  # type: ignore[union-attr]
        model.stages[3].widen.bias.zero_()  # type: ignore[union-attr]
    model(X).square().sum().backward()
    stem = next(model.stem.parameters()).grad
    deepest = next(model.stages[1].parameters()).grad
    assert stem is not None and stem.abs().max() > 0 and (deepest is None or not deepest.any())


@pytest.mark.parametrize("scales", ["fpn", "route"])
@torch.no_grad()
def test_every_level_of_the_pyramid_reaches_the_finest_grid(scales: str) -> None:
    model = hybrid(stages=DOWN, scales=scales, scales_dim=12)
    pyramid: Any = model.pyramid
    assert model.forward_features(X).shape == (2, 3, 8, 8, 12) and pyramid.levels == ("stem", "stage1", "stage2")
    before = model(X)
    for level in pyramid.levels:
        kept = pyramid.laterals[level].weight.clone()
        pyramid.laterals[level].weight.zero_()
        assert not torch.allclose(model(X), before, atol=1e-3)
        pyramid.laterals[level].weight.copy_(kept)


@torch.no_grad()
def test_routing_weights_sum_to_one_and_depend_on_the_input() -> None:
    model = hybrid(stages=DOWN, scales="route")
    weights = model.readings(X)["pyramid.weights"]
    assert weights.shape == (2, 1, 1, 1, 3) and torch.allclose(weights.sum(-1), torch.ones(2, 1, 1, 1), atol=1e-6)
    assert (weights[0] - weights[1]).abs().max() > 1e-3 and (weights > 0).all()
    even = hybrid(stages=DOWN, scales="fpn").readings(X)["pyramid.weights"]
    assert torch.allclose(even, torch.full_like(even, 1 / 3))


@torch.no_grad()
def test_a_level_that_the_gate_shuts_out_counts_for_nothing() -> None:
    model = hybrid(stages=DOWN, scales="route")
    pyramid: Any = model.pyramid
    pyramid.scores[1].weight.zero_()
    laterals = [torch.randn(1, 2, side, side, 64) for side in (8, 4, 2)]
    pyramid.scores[1].bias.copy_(torch.tensor([-100.0, -100.0, 0.0]))
    out = pyramid(laterals)
    assert torch.allclose(pyramid([torch.randn_like(laterals[0]), *laterals[1:]]), out, atol=1e-5)
    assert not torch.allclose(pyramid([*laterals[:2], torch.randn_like(laterals[2])]), out, atol=1e-2)


@pytest.mark.parametrize("changes", [{"stages": DOWN + UP}, {"stages": DOWN, "scales": "route"}])
def test_in_the_control_a_frame_reaches_only_its_own_features(changes: dict[str, Any]) -> None:
    strided = [{**changes["stages"][0], "time_stride": 2}, *changes["stages"][1:]]
    for stages in (changes["stages"], strided):
        control = hybrid(**{**changes, "stages": stages}, time=False)
        x = X[:1].clone().requires_grad_()
        control.forward_features(x)[:, 0].square().sum().backward()
        touched = x.grad.abs().sum((0, 1, 3, 4)) > 0  # type: ignore[union-attr]
        assert touched.tolist() == [True, False, False]


def test_enlarging_in_time_repeats_frames_and_in_space_interpolates() -> None:
    x = torch.arange(2.0).view(1, 2, 1, 1, 1) + torch.tensor([0.0, 10.0]).view(1, 1, 1, 2, 1)
    out = resized(x, (4, 1, 4))
    assert out[0, :, 0, 0, 0].tolist() == [0, 0, 1, 1]
    assert out[0, 0, 0, :, 0].tolist() == [0, 2.5, 7.5, 10]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": [*DOWN, {**UP[0], "up": "stage4"}]}, "up is 'stage4'; give an earlier grid: stem, stage1, stage2"),
        ({"stages": [*DOWN, {**UP[0], "merge": True}]}, "use two stages"),
        ({"stages": [{**DOWN[0], "pool": "space", "merge": False, "block": "mlp"}], "scales": "fpn"}, "are pooled"),
        ({"stages": DOWN[:1], "scales": "route"}, "needs 3 resolutions, and stem and stages have 8x8, 4x4; add"),
        ({"stages": DOWN + UP, "scales": "fpn"}, "use one of them"),
    ],
)
def test_what_cannot_be_joined_is_refused_in_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        hybrid(**changes)
    assert "\n" not in str(caught.value)
