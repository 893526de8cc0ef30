"""A still clip, and one frame, get the logits of timm's LeViT, of any width and depth."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.layouts.image_levit import IMAGE_LEVIT
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised

SMALL: dict[str, Any] = {"embed_dim": (32, 48, 64), "depth": (1, 2, 1), "num_heads": (2, 3, 4), "key_dim": 8}
FORMS: dict[str, dict[str, Any]] = {
    "levit_128s": SMALL,
    "levit_conv_128s": SMALL,
    "levit_192": {**SMALL, "attn_ratio": (1.0, 2.0, 4.0), "mlp_ratio": (3.0, 2.0, 2.0)},
    "levit_384_s8": SMALL,  # another stem and activation
    "levit_256d": {**SMALL, "depth": (1, 8, 1)},  # another activation
    "levit_512": {**SMALL, "embed_dim": (512, 64, 64)},
}


def image_network(name: str, side: int = 64, **settings: Any) -> nn.Module:
    return randomised(timm.create_model(name, num_classes=7, img_size=side, **settings))


def video_network(net: nn.Module, **changes: Any) -> VideoModel:
    """The hybrid that the tensors are of, with them."""
    state = net.state_dict()
    assert IMAGE_LEVIT.fits(state)
    name, inferred = IMAGE_LEVIT.architecture(state)
    model = create_model(name, 7, **{**inferred, "frames": 3, **changes})
    load_weights(model, state)
    return model.eval()


def equal(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1)), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("name", FORMS)
def test_a_still_clip_and_one_frame_get_timms_logits(name: str) -> None:
    net = image_network(name, **FORMS[name])
    model, frame = video_network(net), torch.randn(2, 3, 1, 64, 64)
    wanted = net(frame[:, :, 0])
    assert wanted.std() > 0.01
    assert equal(model(frame), wanted) and equal(model(frame.expand(-1, -1, 3, -1, -1)), wanted)


@torch.no_grad()
def test_a_network_without_a_second_classifier_loads() -> None:
    net = randomised(timm.models.levit.Levit(img_size=64, num_classes=7, act_layer="hard_swish", **SMALL))
    frame = torch.randn(1, 3, 1, 64, 64)
    assert equal(video_network(net)(frame), net(frame[:, :, 0]))


@torch.no_grad()
def test_frames_of_another_size_get_resized_tables() -> None:
    net = image_network("levit_128s", **SMALL)
    model = video_network(net, height=96, width=96)
    table = model.state_dict()["stages.0.blocks.0.block.attention.bias.bias_hHW"]
    small = net.state_dict()["stages.0.blocks.0.attn.attention_biases"].view(2, 4, 4)
    assert table.shape == (2, 6, 6) and torch.allclose(table[:, 0, 0], small[:, 0, 0], atol=1e-5)
    assert torch.allclose(table[:, -1, -1], small[:, -1, -1], atol=1e-5)


def test_a_path_in_time_learns_from_the_first_step() -> None:
    model = video_network(image_network("levit_128s", **SMALL)).train()
    model(torch.randn(2, 3, 3, 64, 64)).square().sum().backward()
    last = model.get_parameter("stages.0.blocks.0.temporal.mixer.after.weight")
    assert not last.any() and last.grad is not None and last.grad.any()
