"""CoAtNets of timm into video: one frame, and a still clip, yield timm's logits in every published form."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.weights.layouts.image_coatnet import BLOCKS, reshaped
from hybridvideo.weights.layouts.layout import renamed
from hybridvideo.weights.load_foreign import Wanted, load_foreign
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised

CLASSES = 7
SMALL = {"embed_dim": (32, 64, 96, 128), "depths": (1, 1, 1, 2), "stem_width": (8, 16)}
# Names of timm, made small where their form does not depend on width and depth.
FORMS: dict[str, dict[str, Any]] = {
    "coatnet_pico_rw_224": SMALL,
    "test_coatnet": {},
    "coatnet_0_rw_224": {},
    "coatnet_bn_0_rw_224": SMALL,
    "coatnet_2_rw_224": {"embed_dim": (128, 96, 64, 128), "depths": (1, 1, 2, 1)},
    "coatnet_rmlp_2_rw_224": {"embed_dim": (128, 96, 64, 128), "depths": (1, 1, 2, 1)},
    "coatnet_rmlp_nano_rw_224": SMALL,
    "coatnet_rmlp_0_rw_224": SMALL,
    "coatnet_0_224": {**SMALL, "head_hidden_size": 48},
    "coatnet_nano_cc_224": {},
}


def block_state(net: nn.Module, model: nn.Module | None, kind: str, by_head: bool = True) -> dict[str, Tensor]:
    """Tensors of one block of timm's under our names; biases that it lacks are zero."""
    named = {renamed(key, BLOCKS[kind]): value for key, value in net.state_dict().items()}
    state = {name: reshaped(name, value, by_head) for name, value in named.items()}
    if model is None:
        return state
    own = model.state_dict()
    return {name: state[name].view(own[name].shape) if name in state else torch.zeros_like(own[name]) for name in own}


def image_network(name: str, side: int = 64) -> Any:
    return varied(timm.create_model(name, num_classes=CLASSES, img_size=side, **FORMS.get(name, {})))


def varied(net: nn.Module) -> nn.Module:
    """With every parameter and statistic off its initial value, but not the offsets that timm keeps as buffers."""
    randomised(net)
    for module in net.modules():
        if hasattr(module, "init_non_persistent_buffers"):
            module.init_non_persistent_buffers()  # type: ignore[operator]
    return net


def video_network(net: nn.Module, side: int = 64, **changes: Any) -> VideoModel:
    wanted = Wanted(changes=changes, labels=tuple("abcdefg"), frames=4, size=side)
    return load_foreign(net.state_dict(), wanted)[0].eval()


@torch.no_grad()
def assert_same(net: nn.Module, model: VideoModel, frames: int = 4, side: int = 64) -> None:
    torch.manual_seed(1)
    image = torch.randn(2, 3, side, side)
    logits = net(image)
    assert float(logits.std()) > 0.05
    assert torch.allclose(model(image[:, :, None]), logits, atol=1e-5)
    assert torch.allclose(model(image[:, :, None].expand(-1, -1, frames, -1, -1)), logits, atol=1e-5)


@pytest.mark.parametrize("name", FORMS)
def test_one_frame_and_a_still_clip_yield_timms_logits(name: str) -> None:
    net = image_network(name)
    assert_same(net, video_network(net))


def test_a_moving_clip_reaches_the_paths_in_time() -> None:
    model = video_network(image_network("test_coatnet"))
    x = torch.randn(1, 3, 4, 64, 64)
    model(x).square().sum().backward()
    last = [
        parameter.grad
        for name, parameter in model.named_parameters()
        if name.endswith("temporal.mixer.proj.weight") and not parameter.any()
    ]
    assert last and all(grad is not None and grad.any() for grad in last)


def test_weights_of_another_size_and_deeper_kernels_load() -> None:
    net = image_network("test_coatnet", side=96)
    deeper = video_network(net, side=96)
    assert isinstance(deeper, Hybrid)
    settings = deeper.settings()
    for stage in settings["stages"]:
        if stage["block"] == "mbconv":
            stage["kernel"] = (3, 3, 3)
    model = create_model("hybrid", CLASSES, **settings).eval()
    load_weights(model, net.state_dict())
    assert_same(net, model, side=96)
    smaller = create_model("hybrid", CLASSES, **{**settings, "height": 64, "width": 64})
    assert "resized" in str(load_weights(smaller, net.state_dict()))


def test_other_classes_replace_the_classifier_and_nothing_else() -> None:
    net = image_network("test_coatnet")
    settings = video_network(net).settings()
    report = load_weights(create_model("hybrid", 3, **settings), net.state_dict(), head="replace")
    fresh = {name.partition(".temporal.")[1] or name for name in report.fresh if not name.endswith("tracked")}
    assert fresh == {"head.classifier.weight", "head.classifier.bias", ".temporal."} and not report.missing


def test_convolutions_of_convnext_are_not_taken_for_these() -> None:
    net = timm.create_model("coatnext_nano_rw_224", **SMALL)
    with pytest.raises(UserError, match="no layout known"):
        load_foreign(net.state_dict())
