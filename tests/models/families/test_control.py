"""Every named hybrid sees the order of frames, and its control, the same without paths between frames, does not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hybridvideo.models import FAMILIES
from tests.models.small import small

NAMED = sorted(name for name in FAMILIES if name != "hybrid")
CLIP = torch.randn(1, 3, 4, 64, 64, generator=torch.Generator().manual_seed(0))
# Tubelets and strides of two frames, of which the control takes the first, see the same images in either order.
PAIRS = CLIP[:, :, [0, 0, 1, 1]]


def without_correlation(name: str) -> dict[str, Any]:
    frames = {"input": {"mode": "rgb"}}
    return {"conv": frames} if name.startswith("towers") else frames


@torch.no_grad()
def change(name: str, clip: Tensor, time: bool) -> float:
    """How much the logits change if the frames run backwards, in their standard deviations.

    Frames alone are the input, and no weight is zero, as after training.
    """
    model = small(name, **without_correlation(name), time=time).eval()
    for parameter in model.parameters():
        parameter += 0.05 * torch.randn_like(parameter)
    there, back = model(clip), model(clip.flip(2))
    return float((there - back).abs().max() / there.std())


@pytest.mark.parametrize("name", NAMED)
def test_the_order_of_frames_matters(name: str) -> None:
    assert change(name, CLIP, time=True) > 2e-5


@pytest.mark.parametrize("name", NAMED)
def test_the_order_of_frames_does_not_matter_to_the_control(name: str) -> None:
    assert change(name, PAIRS, time=False) < 5e-6
