"""Linear attention against softmax's, its cost, and its random features."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs
from hybridvideo.models.parts.attend import attend
from hybridvideo.models.parts.linear_attention import (
    LinearAttention,
    linear_attention,
    orthogonal_features,
    softmax_features,
)


def error_of(features: int) -> float:
    """Mean distance of FAVOR+ from softmax attention, over several draws."""
    torch.manual_seed(0)
    q, k, v = (scale * torch.randn(2, 3, 40, 16) for scale in (0.6, 0.6, 1))
    exact = attend(q, k, v)
    outs = [linear_attention(*softmax_features(q, k, orthogonal_features(features, 16, seed)), v) for seed in range(5)]
    return sum(float((out - exact).abs().mean()) for out in outs) / 5


def test_random_features_approach_softmax_as_they_grow() -> None:
    errors = [error_of(features) for features in (8, 64, 512, 4096)]
    assert all(more < 0.6 * fewer for fewer, more in pairwise(errors)), errors
    assert errors[-1] < 0.05


def test_elu_attention_is_its_definition() -> None:
    layer = LinearAttention(8, 2)
    x = torch.randn(1, 2, 3, 3, 8)
    q, k, v = (part.unflatten(1, (2, 4)) for part in layer.qkv(x.flatten(0, 3)).chunk(3, -1))
    weights_NMh = torch.einsum("nhd,mhd->nmh", torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1)
    weights_NMh = weights_NMh / weights_NMh.sum(1, keepdim=True)
    expected = layer.proj(torch.einsum("nmh,mhd->nhd", weights_NMh, v).flatten(1))
    assert torch.allclose(layer(x).flatten(0, 3), expected, atol=1e-6)


def test_large_queries_and_keys_neither_overflow_nor_vanish() -> None:
    q, k, v = (30 * torch.randn(1, 2, 50, 16, requires_grad=True) for _ in range(3))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        parts = [part.to(dtype) for part in (q, k, v)]
        out = linear_attention(*softmax_features(*parts[:2], orthogonal_features(64, 16, 0)), parts[2])
        assert out.dtype == dtype and out.isfinite().all()
    out.float().sum().backward()


@pytest.mark.parametrize("features", [0, 32])
def test_cost_is_linear_in_positions(features: int) -> None:
    stage = {"block": "linear", "depth": 1, "features": features}
    model = create_model("hybrid", 3, stem={"widths": [8, 16]}, stages=[stage], frames=4, height=32, width=32)
    one, eight = count_gmacs(model, (3, 4, 32, 32)), count_gmacs(model, (3, 32, 32, 32))
    head = 16 * 3 / 1e9
    assert eight - head == pytest.approx(8 * (one - head))


@torch.no_grad()
def test_random_features_are_seeded_saved_and_can_be_drawn_again() -> None:
    layer, twin, other = (LinearAttention(16, 2, 24, seed) for seed in (1, 1, 2))
    assert torch.equal(layer.random_Fd, twin.random_Fd) and not torch.equal(layer.random_Fd, other.random_Fd)
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 2, 3, 3, 16)
    before = layer(x)
    assert torch.equal(other(x), before)
    layer.redraw(7)
    assert not torch.allclose(layer(x), before, atol=1e-4)
    layer.redraw(1)
    assert torch.equal(layer(x), before)


def test_random_features_are_orthogonal_in_groups() -> None:
    directions = torch.nn.functional.normalize(orthogonal_features(24, 8, 0), dim=1).view(3, 8, 8)
    assert torch.allclose(directions @ directions.transpose(1, 2), torch.eye(8).expand(3, 8, 8), atol=1e-5)


@pytest.mark.parametrize("features", [0, 32])
def test_frames_apart_see_themselves_alone(features: int) -> None:
    layer = LinearAttention(8, 2, features, frames_apart=True)
    x = torch.randn(2, 3, 4, 4, 8)
    assert torch.allclose(layer(x)[:, 1:2], layer(x[:, 1:2]), atol=1e-6)
