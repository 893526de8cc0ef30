"""MaxViTs of timm into video: one frame, and a still clip, yield timm's logits in every published form."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from hybridvideo.models.hybrid import Hybrid
from tests.weights.layouts.test_image_coatnet import CLASSES, assert_same, varied, video_network

SMALL = {"embed_dim": (64, 96, 64, 96), "depths": (1, 1, 1, 1), "stem_width": (8, 16)}
WIDE = {**SMALL, "embed_dim": (96, 64, 64, 96)}
FORMS: dict[str, tuple[int, dict[str, Any]]] = {
    "maxvit_tiny_rw_224": (64, SMALL),
    "maxvit_rmlp_nano_rw_256": (256, SMALL),
    "maxvit_rmlp_small_rw_224": (224, WIDE),
    "maxvit_rmlp_base_rw_224": (224, {**WIDE, "head_hidden_size": 32}),
    "maxvit_tiny_tf_224": (96, {**SMALL, "head_hidden_size": 32}),
    "test_maxvit": (64, {}),
}


def image_network(name: str) -> tuple[Any, int]:
    side, changes = FORMS[name]
    return varied(timm.create_model(name, num_classes=CLASSES, img_size=side, **changes)), side


@pytest.mark.parametrize("name", FORMS)
def test_one_frame_and_a_still_clip_yield_timms_logits(name: str) -> None:
    net, side = image_network(name)
    assert_same(net, video_network(net, side), side=side)


@torch.no_grad()
def test_windows_are_deeper_than_a_frame_and_see_motion_at_once() -> None:
    net, side = image_network("test_maxvit")
    model = video_network(net, side)
    assert isinstance(model, Hybrid) and [stage.window[0] for stage in model.config.stages] == [1, 2, 4, 16]
    x = torch.randn(1, 3, 4, side, side)
    assert not torch.allclose(model(x), model(x[:, :, [1, 3, 0, 2]]), atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("frames", [3, 7])
def test_a_still_clip_that_no_window_divides_yields_timms_logits(frames: int) -> None:
    net, side = image_network("test_maxvit")
    frame = torch.randn(1, 3, 1, side, side)
    logits = video_network(net, side)(frame.expand(-1, -1, frames, -1, -1))
    torch.testing.assert_close(logits, net(frame[:, :, 0]), atol=1e-4, rtol=1e-4)
