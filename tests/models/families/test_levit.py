"""LeViT for video: small grids, halved twice by attention; paths in time alone join frames."""

from __future__ import annotations

from typing import Any

import timm
import torch

from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.weights.layouts.image_levit import IMAGE_LEVIT


def small(name: str, **changes: Any) -> VideoModel:
    """For short clips of small frames, with weights large enough for differences to show."""
    torch.manual_seed(0)
    model = create_model(name, 5, frames=4, height=64, width=64, **changes)
    torch.nn.init.normal_(model.get_submodule(model.classifier_name).weight)  # type: ignore[arg-type]
    return model.eval()


@torch.no_grad()
def test_attention_halves_the_grid_from_stage_to_stage() -> None:
    grids = small("levit_tiny").forward_intermediates(
        torch.randn(1, 3, 4, 64, 64), ["stem", "stage1", "stage2", "stage3"]
    )
    assert [grid.shape[2:] for grid in grids] == [(8, 8, 128), (8, 8, 128), (4, 4, 256), (2, 2, 384)]


def test_the_base_has_the_structure_of_its_image_network() -> None:
    with torch.device("meta"):
        state = timm.create_model("levit_384").state_dict()
        base = create_model("levit_base", 7).settings()
    _, changes = IMAGE_LEVIT.architecture(state)
    assert {key: base[key] for key in changes}.items() == changes.items()
