"""A still clip, and one frame, get the logits of timm's BoTNet; a ResNet's weights fill all but the attention."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.layouts.image_botnet import IMAGE_BOTNET
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised


def equal(ours: Tensor, theirs: Tensor) -> bool:
    tolerance = 1e-5 if ours.dtype == torch.float32 else 1e-9
    return torch.allclose(ours, theirs, atol=tolerance * float(theirs.abs().max().clamp(min=1)), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", ["botnet26t_256", "botnet50ts_256"])
@pytest.mark.parametrize("joint", [False, True])
def test_a_still_clip_and_one_frame_get_timms_logits(name: str, joint: bool) -> None:
    net = randomised(timm.create_model(name, num_classes=7, img_size=64))
    state = net.state_dict()
    _, changes = IMAGE_BOTNET.architecture(state)
    if joint:
        for stage in changes["stages"]:
            spatial = stage["attention"] == "spatial"
            stage.update({"attention": "joint", "temporal": "none"} if spatial else {})
    model = create_model("botnet_base", 7, **{**changes, "frames": 3}).eval()
    load_weights(model, state)
    frame = torch.randn(1, 3, 1, 64, 64, dtype=torch.float64)
    wanted, model = net.double()(frame[:, :, 0]), model.double()  # in single precision, large logits round differently
    assert wanted.std() > 0.01 and (model.input_shape[2:] == (64, 64))
    assert equal(model(frame), wanted) and equal(model(frame.expand(-1, -1, 3, -1, -1)), wanted)


def test_networks_with_channel_attention_are_not_taken_for_it() -> None:
    with torch.device("meta"):
        state = timm.create_model("eca_botnext26ts_256").state_dict()
    assert not IMAGE_BOTNET.fits(state)


def after_a_resnet(*kinds: str) -> VideoModel:
    """A ResNet-26 whose last two bottlenecks are of these kinds."""
    shared: dict[str, Any] = {"block": "bottleneck", "depth": 1, "dim": 2048, "heads": 4, "activation": "relu"}
    stages = [{**shared, "attention": kind, "stride": 1 if i else 2} for i, kind in enumerate(kinds)]
    stem = {"name": "timm/resnet26", "stride": 16}
    return create_model("botnet_base", 7, frames=2, height=64, width=64, stem=stem, stages=stages).eval()


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return randomised(timm.create_model("resnet26", num_classes=7))


@torch.no_grad()
def test_without_attention_it_is_the_resnet(resnet: nn.Module) -> None:
    model, frame = after_a_resnet("none", "none"), torch.randn(1, 3, 1, 64, 64)
    load_weights(model, resnet.state_dict(), head="drop")
    features: Any = resnet
    assert equal(model.forward_features(frame)[:, 0].permute(0, 3, 1, 2), features.forward_features(frame[:, :, 0]))


@torch.no_grad()
def test_all_but_the_attention_loads_from_a_resnet_and_features_before_it_are_the_resnets(resnet: nn.Module) -> None:
    model, frame = after_a_resnet("none", "joint"), torch.randn(1, 3, 1, 64, 64)
    report = load_weights(model, resnet.state_dict(), head="drop")
    fresh = {name for name in report.fresh if not name.startswith("head.") and "num_batches" not in name}
    assert fresh and all(name.startswith("stages.1.blocks.0.middle.attention.") for name in fresh)
    maps: Any = resnet
    _, _, stem = maps.forward_intermediates(frame[:, :, 0], indices=[1, 2, 3], intermediates_only=True)
    assert equal(model.forward_intermediates(frame, ["stem"])[0][:, 0].permute(0, 3, 1, 2), stem)
    first = maps.layer4[0](stem)
    assert equal(model.forward_intermediates(frame, ["stage1"])[0][:, 0].permute(0, 3, 1, 2), first)


def test_bottlenecks_of_other_widths_start_fresh(resnet: nn.Module) -> None:
    stage = {"block": "bottleneck", "depth": 2, "dim": 64, "stride": 2, "activation": "relu"}
    stem = {"name": "timm/resnet26", "stride": 16}
    model = create_model("botnet_base", 7, frames=2, height=64, width=64, stem=stem, stages=[stage])
    report = load_weights(model, resnet.state_dict(), head="drop")
    assert "stages.0.blocks.0.conv1.weight" in report.fresh
