"""Stems filled with the weights of image networks; what hybrids have besides starts as if it were not there."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised


def hybrid(stem: str, stride: int = 16, **changes: Any) -> Hybrid:
    """A small one, without stages unless some are given."""
    settings = {"frames": 3, "height": 64, "width": 64, "stem": {"name": stem, "stride": stride}, **changes}
    model = create_model("hybrid", 5, **settings)
    assert isinstance(model, Hybrid)
    return model.eval()


def clip() -> Tensor:
    return torch.randn(1, 3, 3, 64, 64)


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "regnetx_002", "convnext_atto", "repvgg_a0"])
def test_a_stem_sees_each_frame_as_timms_network_does(name: str) -> None:
    net, model, x = randomised(timm.create_model(name)), hybrid(f"timm/{name}"), clip()
    report = load_weights(model, net.state_dict(), head="replace")
    maps = cast(Any, net).forward_intermediates(x[0].transpose(0, 1), intermediates_only=True)
    wanted = [found for found in maps if found.shape[-1] == 4][-1].permute(0, 2, 3, 1)
    assert torch.allclose(model.forward_stem(x)[0], wanted, atol=1e-5 * float(wanted.abs().max()))
    assert report.left_out and not report.missing  # what follows the cut, ImageNet's classifier among it


@torch.no_grad()
def test_a_stem_sees_each_frame_as_torchvisions_network_does() -> None:
    net, model, x = randomised(models.resnet18()), hybrid("torchvision/resnet18"), clip()
    load_weights(model, net.state_dict(), head="replace")
    parts: Any = net
    wanted = parts.layer3(
        parts.layer2(parts.layer1(parts.maxpool(parts.relu(parts.bn1(parts.conv1(x[0].movedim(1, 0)))))))
    )
    assert torch.allclose(model.forward_stem(x)[0], wanted.permute(0, 2, 3, 1), atol=1e-5 * float(wanted.abs().max()))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["both", "two_stream"])
def test_both_streams_are_filled_and_a_still_clip_is_seen_by_the_frames_alone(mode: str) -> None:
    net = randomised(timm.create_model("resnet10t"))
    model, frames = hybrid("timm/resnet10t", input={"mode": mode}), hybrid("timm/resnet10t")
    for filled in (model, frames):
        load_weights(filled, net.state_dict(), head="replace")
    still = clip()[:, :, :1].expand(-1, -1, 3, -1, -1)
    halved = still / 2 if mode == "both" else still
    seen, wanted = model.forward_stem(still)[..., : frames.stem.channels], frames.forward_stem(halved)[:, :2]
    assert torch.allclose(seen, wanted, atol=1e-5 * float(wanted.abs().max()))


STAGES = [
    {"block": "divided", "depth": 1, "heads": 4, "dropout": 0.1},
    {"block": "conv", "depth": 1, "temporal": "attention", "heads": 4},
    {"block": "spatial", "depth": 1, "heads": 4, "temporal": "conv"},
    {"block": "temporal", "depth": 1, "heads": 4},
]


@torch.no_grad()
def test_paths_in_time_start_as_identity_and_the_rest_stays_fresh() -> None:
    model = hybrid("timm/resnet10t", dim=32, position="absolute", stages=STAGES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, timm.create_model("resnet10t").state_dict(), head="replace")
    frame = clip()[:, :, :1]
    alone = model.forward_features(frame)
    assert torch.allclose(
        model.forward_features(frame.expand(-1, -1, 3, -1, -1)), alone.expand(-1, 3, -1, -1, -1), atol=1e-5
    )
    moved = torch.cat([frame, torch.randn(1, 3, 2, 64, 64)], 2)
    assert torch.allclose(model.forward_features(moved)[:, :1], alone, atol=1e-5)  # no frame sees another
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in report.fresh)
    assert {"project.weight", "stages.0.blocks.0.mlp.inner.fc1.weight", "head.norm.weight"} <= set(report.fresh)


def test_the_layers_before_a_zero_learn_from_the_second_step_on() -> None:
    model = hybrid("timm/resnet10t", dim=32, stages=STAGES[1:2])
    load_weights(model, timm.create_model("resnet10t").state_dict(), head="replace")
    nn.init.normal_(model.head.classifier.weight)
    first = model.get_parameter("stages.0.blocks.0.temporal.mixer.qkv.weight")
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    seen = []
    for _ in range(2):
        optimiser.zero_grad()
        model(clip()).square().sum().backward()
        seen.append(bool(first.grad is not None and first.grad.abs().max() > 0))
        optimiser.step()
    assert seen == [False, True]


def test_a_file_with_timms_names_fills_the_stem_too(tmp_path: Any) -> None:
    net, model = timm.create_model("resnet10t"), hybrid("timm/resnet10t")
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    report = load_weights(model, tmp_path / "w.safetensors", head="replace")
    assert report.layout == "image network (timm/resnet10t)"
    assert torch.equal(
        model.get_parameter("stem.stems.0.trunk.model.conv1.0.weight"), net.state_dict()["conv1.0.weight"]
    )


DEEPER = [
    ("timm/resnet18", 16, "resnet34", "layer1.2"),
    ("torchvision/resnet18", 16, "resnet34", "layer1.2"),
    ("timm/botnet26t_256", 8, "sebotnet33ts_256", "stages.0.0.attn"),
]


@pytest.mark.parametrize(("stem", "stride", "other", "first"), DEEPER)
def test_weights_of_which_the_stem_has_every_name_but_not_every_block_are_refused(
    stem: str, stride: int, other: str, first: str
) -> None:
    """A shallower network of the same blocks would compute something else with them."""
    model = hybrid(stem, stride)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = models.get_model(other).state_dict() if "torchvision" in stem else timm.create_model(other).state_dict()
    with pytest.raises(UserError, match=rf"tensors among the stem's that {stem} does not have, such as {first}"):
        load_weights(model, state, head="replace")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_head_of_any_form_is_left_out() -> None:
    model = hybrid("torchvision/resnet18")
    state = models.resnet18().state_dict() | {"fc.0.weight": torch.zeros(2, 2), "projector.1.bias": torch.zeros(2)}
    assert {"fc.0.weight", "projector.1.bias", "layer4.0.conv1.weight"} <= set(
        load_weights(model, state, head="replace").left_out
    )


def test_weights_of_another_network_are_an_error_and_leave_the_model_alone() -> None:
    model = hybrid("timm/resnet10t")
    with pytest.raises(UserError, match="in no layout known here"):
        load_weights(model, timm.create_model("regnetx_002").state_dict(), head="replace")
    with pytest.raises(UserError, match="no classifier"):
        load_weights(model, timm.create_model("resnet10t").state_dict())
