"""The families that join convolution and attention within a block: parallel, choice, CAN, Conformer over time."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.engine.training.classification import loss_terms
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel

TINY = ["parallel_tiny", "choice_tiny", "can_tiny", "can_spatial_tiny", "conformer_time_tiny"]
BASE = [name.replace("tiny", "base") for name in TINY]


def noise(clips: int, seed: int, frames: int = 4, side: int = 16) -> tuple[Tensor, Tensor]:
    """Noise that moves left or right by a pixel a frame: no frame alone shows which."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(2, (clips,), generator=generator)
    wide = torch.randn(clips, 3, side, side + 2 * frames, generator=generator)
    x = torch.empty(clips, 3, frames, side, side)
    for i, right in enumerate(classes.tolist()):
        for t in range(frames):
            first = frames + (t if right else -t)
            x[i, :, t] = wide[i, :, :, first : first + side]
    return x, classes


def train(model: VideoModel, steps: int = 20) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 10) * (1 - step / steps)
        x, classes = noise(16, step)
        terms = loss_terms(model(x), F.one_hot(classes, 2).float())
        optimizer.zero_grad()
        torch.stack([term.mean() for term in terms.values()]).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("name", TINY)
def test_a_model_learns_motion_that_no_frame_shows(name: str) -> None:
    torch.manual_seed(0)
    model = create_model(name, 2, frames=4, height=16, width=16, drop_path=0.0)
    train(model)
    x, classes = noise(64, seed=1000)
    with torch.no_grad():
        right = (model.eval()(x).argmax(1) == classes).float().mean()
    assert right > 0.9
