"""Whether models see motion that no frame shows: noise that moves against noise (`hybridvideo.data.synthetic.noise`).

    python tools/see_motion.py hybrid_tiny can_tiny
    python tools/see_motion.py "*_tiny" --no-control
    python tools/see_motion.py hybrid_base --side 96 --grain 2 --clips 6400

Each model is trained from scratch to name the shape in clips that are rendered on the spot, and so is its control, the
same network without any path between frames. The table has the accuracy on clips of another split.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.data.synthetic.noise import SHAPES, render_noise
from hybridvideo.engine.training.classification import clip_losses
from hybridvideo.models import create_model, list_models
from hybridvideo.models.contract import VideoModel, count_gmacs, count_parameters


@dataclass(frozen=True)
class Trial:
    """The clips and the training: enough to tell a model that sees from one that does not, in half a minute."""

    clips: int = 1280
    frames: int = 2
    side: int = 32
    grain: int = 1
    batch: int = 16
    lr: float = 2e-3
    seed: int = 0
    tested: int = 240


def batch_of(trial: Trial, split: str, start: int, count: int) -> tuple[Tensor, Tensor]:
    """Return `count` clips (B, C, T, H, W), normalised, from number `start` on, and their classes."""
    numbers = range(start, start + count)
    names = list(SHAPES)
    clips = [
        render_noise(
            names[number % len(names)],
            seed=trial.seed,
            split=split,
            number=number,
            frames=trial.frames,
            side=trial.side,
            grain=trial.grain,
        )
        for number in numbers
    ]
    x_BTHWC = torch.from_numpy(np.stack(clips)).float()
    classes = torch.tensor([number % len(names) for number in numbers])
    return ((x_BTHWC - 128) / 58).permute(0, 4, 1, 2, 3), classes  # 58: the standard deviation of most data sets


def train(model: VideoModel, trial: Trial) -> None:
    """Train with AdamW, the learning rate rising for a tenth of the clips and falling to zero along a cosine."""
    steps = max(1, trial.clips // trial.batch)
    optimiser = torch.optim.AdamW(model.parameters(), trial.lr, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, trial.lr, steps, pct_start=0.1, div_factor=100)
    model.train()
    for step in range(steps):
        x, classes = batch_of(trial, "train", step * trial.batch, trial.batch)
        loss = clip_losses(model(x), F.one_hot(classes, len(SHAPES)).float()).mean()
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
    model = create_model(name, len(SHAPES), frames=trial.frames, height=trial.side, width=trial.side, **changes)
    start = time.perf_counter()
    train(model, trial)
    seconds = time.perf_counter() - start
    return {
        "accuracy": f"{accuracy(model, trial):.3f}",
        "chance": f"{1 / len(SHAPES):.3f}",
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
    for name, default in vars(Trial()).items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
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
