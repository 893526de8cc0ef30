"""MobileViT for video: convolutions and Transformers in turn, both within a frame and through time."""

from __future__ import annotations

from typing import Any

import pytest
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
def test_a_grid_of_odd_sides_works() -> None:
    assert small("mobilevit_tiny")(torch.randn(1, 3, 3, 71, 57)).isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("attention", ["joint", "window3d", "spatial"])
def test_its_transformers_take_other_attention(attention: str) -> None:
    stages = [{"block": "mobilevit", "depth": 1, "attention": attention, "inner_dim": 32}]
    assert small("mobilevit_tiny", stages=stages)(torch.randn(1, 3, 4, 64, 64)).shape == (1, 5)
