"""BoTNet for video: attention in the last bottlenecks, of each frame with paths in time, or of all frames."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.parts.bottleneck import Attending, Bottleneck
from hybridvideo.weights.layouts.image_botnet import IMAGE_BOTNET


def small(name: str, **changes: Any) -> VideoModel:
    """For short clips of small frames, with weights large enough for differences to show."""
    torch.manual_seed(0)
    model = create_model(name, 5, frames=4, height=64, width=64, **changes)
    torch.nn.init.normal_(model.get_submodule(model.classifier_name).weight)  # type: ignore[arg-type]
    return model.eval()


@pytest.mark.parametrize("name", ["botnet_base", "botnet_joint_base"])
def test_only_the_last_bottlenecks_attend(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, 7)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    attends = [isinstance(block.middle, Attending) for block in blocks]
    assert attends == [False, True, True, True]


def test_the_base_has_the_structure_of_its_image_network() -> None:
    with torch.device("meta"):
        state = timm.create_model("botnet26t_256").state_dict()
        base = create_model("botnet_base", 7).settings()
    _, changes = IMAGE_BOTNET.architecture(state)
    assert {key: base[key] for key in changes if key != "head"}.items() <= changes.items()


def test_the_control_has_no_table_of_time() -> None:
    with_time, control = (small("botnet_joint_tiny", time=time).state_dict() for time in (True, False))
    assert {name for name in with_time if name.endswith("frames_CR")}
    assert not {name for name in control if name.endswith("frames_CR")}
