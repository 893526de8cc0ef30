"""torchvision's and pytorchvideo's checkpoints: which model they are of, and their names both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import video as torchvision_video

from hybridvideo.models import create_model
from hybridvideo.models.baselines.pytorchvideo import models_of
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.layouts.layout import Layout
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import RESNETS, build, randomised

TORCHVISION = ["r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v1_b", "mvit_v2_s"]
PYTORCHVIDEO = [*RESNETS, "slowfast_r50", "slowfast_r101", "x3d_m", "x3d_l", "mvit_base_16x4", "mvit_base_32x3"]


def theirs(name: str, classes: int = 400) -> nn.Module:
    """The library's own network, as it publishes it; on the meta device but for MViT's, which cannot be there."""
    if name in TORCHVISION:
        with torch.device("meta"):
            net: nn.Module = getattr(torchvision_video, name)(num_classes=classes)
        return net
    if name.startswith("mvit"):
        from pytorchvideo.models.hub import vision_transformers

        return getattr(vision_transformers, name)(head_num_classes=classes)
    with torch.device("meta"):
        return pytorchvideos(name, classes)


def pytorchvideos(name: str, classes: int) -> nn.Module:
    """A 3-D CNN of it."""
    if name in RESNETS:
        path, settings = RESNETS[name]
        return build(path, **settings, model_num_class=classes)
    if name.startswith("x3d"):
        depth = 5.0 if name == "x3d_l" else 2.2
        return build("x3d.create_x3d", model_num_class=classes, depth_factor=depth)
    deep, fusion = (50, 7) if name == "slowfast_r50" else (101, 5)
    settings = {"model_depth": deep, "slowfast_fusion_conv_kernel_size": (fusion, 1, 1)}
    return build("slowfast.create_slowfast", model_num_class=classes, **settings)


def fitting(state: dict[str, Tensor]) -> list[Layout]:
    return [layout for layout in LAYOUTS if layout.fits(state)]


@pytest.mark.parametrize("name", [*TORCHVISION, *PYTORCHVIDEO])
def test_a_checkpoint_is_recognised_and_fits_its_model_both_ways(name: str) -> None:
    state = theirs(name).state_dict()
    layouts = fitting(state)
    assert layouts and all(layout.architecture(state) == (name, {}) for layout in layouts)
    with torch.device("meta"):
        model = create_model(name)
    (layout,) = (layout for layout in layouts if layout.family == type(model).__name__)
    ours = layout.to_ours(state)
    assert shapes(ours) == shapes(model.state_dict())
    assert shapes(layout.to_theirs(ours)) == shapes(state)


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def test_tables_of_positions_come_back_as_they_were() -> None:
    settings = {"spatial_size": 64, "temporal_size": 8, "depth": 1}
    state = randomised(build("vision_transformers.create_multiscale_vision_transformers", **settings)).state_dict()
    (layout,) = fitting(state)
    back = layout.to_theirs(layout.to_ours(state))
    assert all(torch.equal(back[key], value) for key, value in state.items())


def test_an_mvit_of_another_size_is_said_to_be_of_that_size() -> None:
    from pytorchvideo.models.hub.vision_transformers import mvit_base_16x4

    state = mvit_base_16x4(spatial_size=96, temporal_size=8).state_dict()
    changes = {"frames": 8, "height": 96, "width": 96}
    assert fitting(state)[0].architecture(state) == ("mvit_base_16x4", changes)


@pytest.mark.parametrize("name", ["mvit_v1_b", "mvit_v2_s", "mvit_base_16x4"])
def test_tables_of_an_mvit_are_resized_to_the_models_size(name: str) -> None:
    few: dict[str, Any] = {"depths": (1, 1), "channels": 16}
    large, small = (create_model(name, 5, **few, num_frames=t, image_size=s) for t, s in ((8, 96), (4, 64)))
    randomised(large)
    (layout,) = (layout for layout in LAYOUTS if layout.family == type(large).__name__)
    load_weights(small, layout.to_theirs(large.state_dict()))
    x = torch.randn(1, 3, 4, 64, 64)
    with torch.no_grad():
        assert torch.allclose(small.eval()(x), large.eval()(x), atol=1e-4)


def test_a_hub_file_with_its_wrapping_loads(tmp_path: Path) -> None:
    net = randomised(models_of("x3d").create_x3d(input_clip_length=4, input_crop_size=160, width_factor=1.0))
    model = create_model("x3d_xs", width_factor=1.0)
    torch.save({"model_state": net.state_dict()}, tmp_path / "X3D_XS.pyth")
    report = load_weights(model, tmp_path / "X3D_XS.pyth")
    assert len(report.matched) == len(net.state_dict()) and "pytorchvideo" in report.layout
