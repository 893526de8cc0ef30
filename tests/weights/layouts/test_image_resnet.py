"""ResNets of images inflated: on a still clip they see what the image network sees on its frame."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.layouts import LAYOUTS
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised


def image_maps(net: nn.Module, image_BCHW: Tensor, pool: bool = True) -> Tensor:
    """The last maps (B, C, h, w) of a ResNet of torchvision."""
    parts: Any = net
    x = parts.relu(parts.bn1(parts.conv1(image_BCHW)))
    x = parts.maxpool(x) if pool else x
    return parts.layer4(parts.layer3(parts.layer2(parts.layer1(x))))


def still(image_BCHW: Tensor, frames: int) -> Tensor:
    return image_BCHW[:, :, None].expand(-1, -1, frames, -1, -1)


def inflated(name: str, net: nn.Module, **changes: Any) -> VideoModel:
    model = create_model(name, 7, **changes)
    load_weights(model, net.state_dict())
    return model.eval()


@torch.no_grad()
def test_c2d_names_a_still_clip_as_the_image_network_names_the_image() -> None:
    net, image = randomised(models.resnet50(num_classes=7)), torch.randn(2, 3, 64, 64)
    logits = inflated("c2d_r50", net)(still(image, 8))
    assert torch.allclose(logits, net(image), atol=1e-4 * float(net(image).std()), rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["slow_r50", "i3d_r50"])
def test_inside_a_still_clip_inflated_kernels_see_what_the_image_network_sees(name: str) -> None:
    net, image = randomised(models.resnet50(num_classes=7)), torch.randn(1, 3, 32, 32)
    wanted = image_maps(net, image)
    frames = 24 if name == "slow_r50" else 40  # i3d: pairs of frames are pooled, and more kernels reach over the ends
    grid = inflated(name, net).forward_features(still(image, frames))
    middle = grid[:, grid.shape[1] // 2].permute(0, 3, 1, 2)
    assert torch.allclose(middle, wanted, atol=1e-4 * float(wanted.std()), rtol=1e-4)
    assert not torch.allclose(grid[:, 0].permute(0, 3, 1, 2), wanted, rtol=1e-2)  # at the ends they see the zeros


@torch.no_grad()
def test_inside_a_still_clip_r3d_sees_what_the_image_network_sees_without_its_pool() -> None:
    net, image = randomised(models.resnet18(num_classes=7)), torch.randn(1, 3, 16, 16)
    wanted = image_maps(net, image, pool=False)
    grid = inflated("r3d_18", net).forward_features(still(image, 144))
    middle = grid[:, grid.shape[1] // 2].permute(0, 3, 1, 2)
    assert torch.allclose(middle, wanted, atol=1e-4 * float(wanted.std()), rtol=1e-4)


def test_every_tensor_of_the_image_network_is_used_and_kernels_over_time_are_inflated() -> None:
    net, model = models.resnet50(num_classes=7), create_model("slow_r50", 7)
    report = load_weights(model, net.state_dict())
    assert len(report.matched) == len(net.state_dict()) == len(model.state_dict())
    over_time = "net.blocks.4.res_blocks.0.branch2.conv_a.weight"
    assert over_time in report.inflated and "net.blocks.0.conv.weight" in report.inflated
    assert torch.allclose(model.state_dict()[over_time].sum(2), net.state_dict()["layer4.0.conv1.weight"], atol=1e-6)


def test_imagenets_classifier_is_replaced_when_asked() -> None:
    model = create_model("slow_r50", 7)
    report = load_weights(model, models.resnet50().state_dict(), head="replace")
    assert "net.blocks.5.proj.weight" in report.fresh
    with pytest.raises(UserError, match="1000 classes, the model 7"):
        load_weights(model, models.resnet50().state_dict())


def test_timms_names_are_torchvisions() -> None:
    state = timm.create_model("resnet50", num_classes=7).state_dict()
    assert load_weights(create_model("c2d_r50", 7), state).matched


@pytest.mark.parametrize(
    ("build", "name", "changes"),
    [
        (models.resnet50, "slow_r50", {}),
        (models.resnet101, "slow_r50", {"depth": 101}),
        (models.resnet18, "r3d_18", {}),
        (models.resnet34, "r3d_18", {"depths": (3, 4, 6, 3)}),
    ],
)
def test_the_video_network_of_an_image_network_is_named(build: Any, name: str, changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        state = build().state_dict()
    layouts = [layout for layout in LAYOUTS if layout.fits(state)]
    assert all(layout.architecture(state) == (name, changes) for layout in layouts) and layouts
    with torch.device("meta"):
        model = create_model(name, 1000, **changes)
    (layout,) = (layout for layout in layouts if layout.family == type(model).__name__)
    assert layout.to_ours(state).keys() == model.state_dict().keys()
    assert layout.to_theirs(layout.to_ours(state)).keys() == state.keys()
