"""Frames in order: what attention through time sees, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters

FORMS = ["serial_temporal_tiny", "serial_temporal_vectors_tiny"]
SMALL = {"height": 32, "width": 32, "input": {"mode": "rgb"}}


def small(name: str, **changes: Any) -> VideoModel:
    """With a classifier and positions large enough for differences to show; it sees single frames alone."""
    torch.manual_seed(0)
    model = create_model(name, 3, **{**SMALL, **changes}).eval()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith(("classifier.weight", "time_CT", "bias_table")):
            nn.init.normal_(parameter)
    return model


@torch.no_grad()
@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("relative", ["none", "table", "mlp"])
def test_the_order_of_frames_matters_unless_position_is_off(name: str, relative: str) -> None:
    stage = {"block": "temporal", "depth": 2, "relative": relative, "pool": "space" if "vectors" in name else "none"}
    x = torch.randn(2, 3, 8, 32, 32)
    shuffled = x[:, :, [3, 0, 7, 5, 1, 2, 6, 4]]
    with_position, without = (small(name, stages=[stage], position=kind) for kind in ("absolute", "none"))
    for model in (with_position, without):
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("relative.fc2.weight"):
                nn.init.normal_(parameter)
    assert not torch.allclose(with_position(x), with_position(shuffled), atol=1e-2)
    assert torch.allclose(without(x), without(shuffled), atol=1e-5) == (relative == "none")


def attention_gmacs(name: str, frames: int, size: int) -> float:
    """GMACs that grow faster than the frames: attention's, since all else is done frame by frame."""
    model = create_model(name, 3, input={"mode": "rgb"})
    return count_gmacs(model, (3, 2 * frames, size, size)) - 2 * count_gmacs(model, (3, frames, size, size))


@pytest.mark.parametrize(("name", "positions"), [("serial_temporal_tiny", 16), ("serial_temporal_vectors_tiny", 1)])
def test_attention_costs_the_square_of_the_frames_for_each_position(name: str, positions: int) -> None:
    model = create_model(name, 3)
    dim, depth, head = model.config.stem.widths[-1], 4, model.num_features * 3 / 1e9
    for frames in (4, 8):  # q k^T and its product with v are 2 T^2 C each block: (2T)^2 - 2 T^2 = 2 T^2
        expected = positions * depth * 2 * 2 * frames**2 * dim / 1e9
        assert attention_gmacs(name, frames, 32) + head == pytest.approx(expected, rel=1e-6)


def test_base_models_cost_what_a_resnet_and_temporal_blocks_do() -> None:
    for name, gmacs in [("serial_temporal_base", 81.1), ("serial_temporal_vectors_base", 66.5)]:
        with torch.device("meta"):
            model = create_model(name, 400)
        assert count_gmacs(model) == pytest.approx(gmacs, abs=0.1) and count_parameters(model) < 50e6


@torch.no_grad()
@pytest.mark.parametrize(("stride", "side"), [(8, 8), (16, 4), (32, 2)])
@pytest.mark.parametrize("depth", [1, 12])
def test_the_stem_may_end_at_each_stride_and_the_transformer_have_any_depth(stride: int, side: int, depth: int) -> None:
    stages = [{"block": "temporal", "depth": depth, "heads": 2}]
    stem = {"name": "timm/resnet18", "stride": stride}
    model = create_model("serial_temporal_base", 3, frames=4, image_size=64, dim=16, stem=stem, stages=stages).eval()
    assert model.forward_features(torch.randn(1, 3, 4, 64, 64)).shape == (1, 4, side, side, 16)
    vectors = create_model("serial_temporal_vectors_base", 3, frames=4, image_size=64, dim=16, stem=stem).eval()
    assert vectors.forward_features(torch.randn(1, 3, 4, 64, 64)).shape == (1, 4, 1, 1, 16)
