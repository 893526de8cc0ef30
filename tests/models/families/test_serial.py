"""A CNN, then divided or window attention."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs

TINY, BASE = ["serial_divided_tiny", "serial_window_tiny"], ["serial_divided_base", "serial_window_base"]


def test_joint_attention_on_the_grid_of_stride_8_is_as_dear_as_said() -> None:
    """512 channels, 8x28x28 positions, six blocks: attention alone, without projections and MLPs."""
    stage = {"block": "joint", "depth": 6, "heads": 8, "mlp_ratio": 0}
    settings = {"frames": 8, "height": 224, "width": 224, "stem": {"widths": [8, 8, 8]}, "dim": 512}
    with torch.device("meta"):
        joint, none = (create_model("hybrid", 3, **settings, stages=stages) for stages in ([stage], []))
    positions = 8 * 28 * 28
    assert count_gmacs(joint) - count_gmacs(none) == pytest.approx(
        6 * (2 * positions**2 * 512 + 4 * positions * 512**2) / 1e9
    )


@torch.no_grad()
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", BASE)
def test_the_stem_may_end_at_each_stride(name: str, stride: int) -> None:
    stem = {"name": "timm/resnet18", "stride": stride}
    stages = [{"block": "divided", "depth": 1, "relative": "table"}] if "divided" in name else [{"block": "window3d"}]
    model = create_model(name, 3, frames=4, image_size=64, dim=16, stem=stem, stages=stages).eval()
    for frames, height, width in [(4, 64, 64), (1, 64, 64), (6, 96, 32)]:
        grid = model.forward_features(torch.randn(1, 3, frames, height, width))
        assert grid.shape == (1, frames, height // stride, width // stride, 16)


@torch.no_grad()
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", ["joint", "linear", "sparse", "cross", "auto", "spatial"])
def test_any_attention_fits_by_name(name: str, kind: str) -> None:
    model = create_model(name, 3, frames=4, image_size=32, stages=[{"block": kind, "depth": 1}]).eval()
    assert model(torch.randn(1, 3, 4, 32, 32)).shape == (1, 3)
