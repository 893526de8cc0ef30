"""What parts let be read of a forward pass, through the contract of every model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.readings import places_to_read
from tests.models.small import SMALL_INPUT, small


def model_of(block: str, **settings: Any) -> VideoModel:
    torch.manual_seed(0)
    stage = {"block": block, "depth": 2, **settings}
    return create_model("hybrid", 3, frames=4, height=16, width=16, stem={"widths": [8, 16]}, stages=[stage]).eval()


def clip(frames: int = 4) -> Tensor:
    return torch.randn(2, 3, frames, 16, 16, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_a_gate_is_read_over_time_with_maps_of_both_branches() -> None:
    model = model_of("parallel", gate={"kind": "both", "per": "frame", "channels": "all"})
    read = model.readings(clip(5))
    for block in range(2):
        inner = f"stages.0.blocks.{block}.branches.0.inner"
        assert read[f"{inner}.gate.values"].shape == (2, 5, 1, 1, 1)
        for branch in ("convolution", "attention"):
            assert read[f"{inner}.{branch}_map"].shape == (2, 5, 4, 4)


@torch.no_grad()
def test_a_map_is_the_strength_of_a_branch_at_each_position() -> None:
    model = model_of("parallel")
    outs: list[Tensor] = []
    inner = model.get_submodule("stages.0.blocks.0.branches.0.inner.convolution")
    inner.register_forward_hook(lambda _module, _inputs, out: outs.append(out))
    read = model.readings(clip())
    expected = outs[0].norm(dim=-1) / 4  # sqrt(16 channels)
    assert torch.allclose(read["stages.0.blocks.0.branches.0.inner.convolution_map"], expected, atol=1e-5)


@torch.no_grad()
def test_the_path_of_each_clip_and_the_weights_of_channels_and_positions_are_read() -> None:
    path = model_of("choice").readings(clip())["stages.0.blocks.1.branches.0.inner.path"]
    assert path.shape == (2, 2) and path.sum(1).tolist() == [1, 1]
    assert model_of("can").readings(clip())["stages.0.blocks.0.weights.values"].shape == (2, 1, 1, 1, 16)
    positions = model_of("can", weigh="spatial").readings(clip())["stages.0.blocks.0.weights.values"]
    assert positions.shape == (2, 4, 4, 4, 4)


@torch.no_grad()
def test_reading_changes_nothing_and_leaves_nothing_behind() -> None:
    model = model_of("parallel")
    before = model(clip())
    first = model.readings(clip())
    second = model.readings(clip() + 1)
    assert torch.equal(model(clip()), before)
    assert not any(place.kept for place in places_to_read(model).values())
    name = "stages.0.blocks.0.branches.0.inner.attention_map"
    assert not torch.equal(first[name], second[name])


def test_readings_have_gradients_if_wanted_and_end_after_an_error() -> None:
    model, x = model_of("can"), clip().requires_grad_()
    model.readings(x)["stages.0.blocks.0.weights.values"].sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    with pytest.raises(RuntimeError):
        model.readings(clip().double())
    assert all(place.kept is None for place in places_to_read(model).values())


@torch.no_grad()
def test_a_model_without_such_parts_has_no_readings() -> None:
    assert small("uniformer_small").eval().readings(torch.randn(SMALL_INPUT)) == {}
