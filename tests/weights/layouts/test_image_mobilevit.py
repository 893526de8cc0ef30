"""A still clip, and one frame, get the logits of timm's MobileViT, whichever attention there is between frames."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor

from hybridvideo.models import create_model
from hybridvideo.weights.layouts.image_mobilevit import IMAGE_MOBILEVIT
from hybridvideo.weights.load_weights import load_weights
from tests.models.baselines.test_baselines import randomised


def equal(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5 * float(theirs.abs().max().clamp(min=1)), rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "attention", "side"),
    [
        ("mobilevit_xxs", "divided", 64),
        ("mobilevit_xxs", "joint", 96),  # patches that do not divide the last grid
        ("mobilevit_xs", "spatial", 64),
        ("mobilevit_s", "divided", 64),
    ],
)
def test_a_still_clip_and_one_frame_get_timms_logits(name: str, attention: str, side: int) -> None:
    net = randomised(timm.create_model(name, num_classes=7))
    state = net.state_dict()
    family, changes = IMAGE_MOBILEVIT.architecture(state)
    for stage in changes["stages"]:
        stage["attention"] = attention if stage["block"] == "mobilevit" else stage["attention"]
    model = create_model(family, 7, **{**changes, "frames": 3, "height": side, "width": side}).eval()
    load_weights(model, state)
    frame = torch.randn(1, 3, 1, side, side)
    wanted = net(frame[:, :, 0])
    assert wanted.std() > 0.01
    assert equal(model(frame), wanted) and equal(model(frame.expand(-1, -1, 3, -1, -1)), wanted)


def test_the_base_is_what_is_inferred_from_its_image_network() -> None:
    with torch.device("meta"):
        state = timm.create_model("mobilevit_s").state_dict()
        base = create_model("mobilevit_base", 7)
    _, changes = IMAGE_MOBILEVIT.architecture(state)
    assert {key: base.settings()[key] for key in changes}.items() == changes.items()
