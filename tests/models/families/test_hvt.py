"""HVT for video: stacked convolutions, a 1x1 transition, pre-norm attention without pooling between stages."""

from __future__ import annotations

from typing import Any

import torch

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel


def small(name: str, **changes: Any) -> VideoModel:
    """For short clips of small frames, with weights large enough for differences to show."""
    torch.manual_seed(0)
    model = create_model(name, 5, frames=4, height=64, width=64, **changes)
    torch.nn.init.normal_(model.get_submodule(model.classifier_name).weight)  # type: ignore[arg-type]
    return model.eval()


@torch.no_grad()
def test_nothing_is_pooled_between_stages() -> None:
    names = ["stage1", "stage2"]
    assert {grid.shape for grid in small("hvt_tiny").forward_intermediates(torch.randn(1, 3, 4, 64, 64), names)} == {
        (1, 4, 4, 4, 192)
    }


def test_convolutions_are_stacked_and_a_1x1_transition_leads_to_attention() -> None:
    model: Any = small("hvt_tiny")
    convolutions = [layer for layer in model.stem.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert [layer.stride[0] for layer in convolutions] == [2, 1] * 4
    assert tuple(model.project.weight.shape) == (192, 128)
