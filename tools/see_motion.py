"""Whether models see motion: noise that moves against noise, or scenes in which objects move one way or another.

    python tools/see_motion.py hybrid_tiny can_tiny
    python tools/see_motion.py "*_tiny" --no-control
    python tools/see_motion.py hybrid_base --side 96 --grain 2 --clips 6400
    python tools/see_motion.py hybrid_tiny --of scenes --frames 8 --side 48

Each model is trained from scratch on clips that are rendered on the spot (`hybridvideo.data.synthetic`), and so is its
control, the same network without any path between frames. The table has the accuracy on clips of another split.

    noise    six shapes; each frame is noise, the shape is in the motion alone
    scenes   the demo's eight motions, each the reverse of another; the scenes of a split are in no other
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.data.synthetic.noise import SHAPES, render_noise
from hybridvideo.data.synthetic.scenes import CLASSES, render_clip
from hybridvideo.engine.training.classification import clip_losses
from hybridvideo.models import create_model, list_models
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters


@dataclass(frozen=True)
class Trial:
    """The clips and the training: enough to tell a model that sees from one that does not, in half a minute."""

    of: str = "noise"
    clips: int = 1280
    frames: int = 2
    side: int = 32
    grain: int = 1
    batch: int = 16
    lr: float = 2e-3
    seed: int = 0
    tested: int = 240


def noise(trial: Trial, label: str, split: str, number: int) -> Tensor:
    """Frames (T, H, W, C) of a shape in noise."""
    frames, side, grain = trial.frames, trial.side, trial.grain
    clip = render_noise(label, seed=trial.seed, split=split, number=number, frames=frames, side=side, grain=grain)
    return torch.from_numpy(clip).float()


def scene(trial: Trial, label: str, split: str, number: int) -> Tensor:
    """Frames (T, H, W, C) of a scene, evenly over the clip and made square."""
    rendered, _, _ = render_clip(label, seed=trial.seed, split=split, number=number)
    at = np.linspace(0, len(rendered) - 1, trial.frames).round().astype(int)
    frames_TCHW = torch.from_numpy(rendered[at]).permute(0, 3, 1, 2).float()
    resized = F.interpolate(frames_TCHW, (trial.side, trial.side), mode="bilinear", antialias=True)
    return resized.permute(0, 2, 3, 1)


Render = Callable[[Trial, str, str, int], Tensor]
KINDS: dict[str, tuple[tuple[str, ...], Render]] = {"noise": (tuple(SHAPES), noise), "scenes": (CLASSES, scene)}


def batch_of(trial: Trial, split: str, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` clips (B, C, T, H, W), normalised, from number `start` on, and their classes."""
    names, render = KINDS[trial.of]
    numbers = range(start, start + count)
    x_BTHWC = torch.stack([render(trial, names[number % len(names)], split, number) for number in numbers])
    classes = torch.tensor([number % len(names) for number in numbers])
    return ((x_BTHWC - 128) / 58).permute(0, 4, 1, 2, 3), classes  # 58: the standard deviation of most data sets


def num_classes(trial: Trial) -> int:
    """Number of classes."""
    return len(KINDS[trial.of][0])


def train(model: VideoModel, trial: Trial) -> None:
    """Train with AdamW, the learning rate rising for a tenth of the clips and falling to zero along a cosine."""
    steps = max(1, trial.clips // trial.batch)
    optimiser = torch.optim.AdamW(model.parameters(), trial.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, trial.lr, steps, pct_start=0.1, div_factor=100)
    model.train()
    for step in range(steps):
        x, classes = batch_of(trial, "train", step * trial.batch, trial.batch)
        loss = clip_losses(model(x), F.one_hot(classes, num_classes(trial)).float()).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()


@torch.no_grad()
def accuracy(model: VideoModel, trial: Trial) -> float:
    """Share of clips of the test split that are named correctly."""
    model.eval()
    right = 0
    for start in range(0, trial.tested, trial.batch):
        x, classes = batch_of(trial, "test", start, min(trial.batch, trial.tested - start))
        right += int((model(x).argmax(1) == classes).sum())
    return right / trial.tested


def see(name: str, trial: Trial, **changes: Any) -> dict[str, Any]:
    """Train one model and return a row of the table."""
    torch.manual_seed(trial.seed)
    model = create_model(name, num_classes(trial), frames=trial.frames, height=trial.side, width=trial.side, **changes)
    start = time.perf_counter()
    train(model, trial)
    seconds = time.perf_counter() - start
    return {
        "accuracy": f"{accuracy(model, trial):.3f}",
        "chance": f"{1 / num_classes(trial):.3f}",
        "clips": trial.clips,
        "seconds": f"{seconds:.0f}",
        "GMACs": f"{count_gmacs(model):.2f}",
        "M parameters": f"{count_parameters(model) / 1e6:.2f}",
    }


def print_row(name: str, row: dict[str, Any]) -> None:
    """Print one line of the table as soon as it is known."""
    print(f"{name:40}" + "".join(f"{value:>14}" for value in row.values()), flush=True)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="names, as in `hybridvideo models`, or patterns of them")
    parser.add_argument("--of", choices=tuple(KINDS), default=Trial.of, help="what the clips show")
    parser.add_argument("--clips", type=int, default=Trial.clips, help="to train on")
    parser.add_argument("--frames", type=int, default=Trial.frames, help="of a clip")
    parser.add_argument("--side", type=int, default=Trial.side, help="rows and columns of a frame")
    parser.add_argument("--grain", type=int, default=Trial.grain, help="of noise: side of a piece in pixels")
    parser.add_argument("--batch", type=int, default=Trial.batch, help="clips of a step")
    parser.add_argument("--lr", type=float, default=Trial.lr, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=Trial.seed, help="of weights and clips")
    parser.add_argument("--tested", type=int, default=Trial.tested, help="clips that the accuracy is of")
    parser.add_argument("--no-control", action="store_true", help="train the models alone")
    arguments = vars(parser.parse_args())
    names, controls = arguments.pop("models"), not arguments.pop("no_control")
    torch.set_num_threads(1)
    columns = ("accuracy", "chance", "clips", "seconds", "GMACs", "M parameters")
    print_row("model", {column: column for column in columns})
    for name in [name for pattern in names for name in list_models(pattern) or [pattern]]:
        print_row(name, see(name, Trial(**arguments)))
        if controls:
            print_row(f"{name}, time: false", see(name, Trial(**arguments), time=False))


if __name__ == "__main__":
    main()
