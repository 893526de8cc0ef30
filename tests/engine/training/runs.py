"""A small training run, in this process, for tests."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from hybridvideo.config.training import TrainRun
from hybridvideo.parsing import merged, parsed
from hybridvideo.tasks.train import run_training

TINY_MODEL = {
    "name": "hybrid",
    "changes": {
        "stem": {"widths": [4, 8]},
        "stages": [{"block": "window3d", "depth": 1, "heads": 2, "window": [2, 4, 4], "position": "conv"}],
        "head": {"dropout": 0.2},
        "drop_path": 0.2,
    },
}


def settings(motion: Path, **changes: Any) -> TrainRun:
    """Two epochs of five steps on 24 clips of 4 frames of 16x16."""
    base = {
        "data": {"train": str(motion / "train"), "val": str(motion / "val"), "workers": 0},
        "clip": {"frames": 4, "interval": 0.1},
        "frame": {"height": 16, "width": 16},
        "augment": {"flip": 0.0},
        "model": TINY_MODEL,
        "optim": {"lr": 1e-3, "warmup_epochs": 0.5},
        "train": {"epochs": 2, "batch_size": 5, "log_every": 1, "trackers": []},
        "eval": {"clips": 2},
    }
    return parsed(TrainRun, merged(base, changes))


def still(**changes: Any) -> dict[str, Any]:
    """Those changes, and nothing that is drawn in another way where batches or processes are others."""
    return merged({"model": {"changes": {"drop_path": 0.0, "head": {"dropout": 0.0}}}}, changes)


def run(folder: Path, run: TrainRun, resume: bool = False) -> Path:
    """`hybridvideo train` into `folder`."""
    assert run_training(run, str(folder), resume, "test") == 0
    return folder


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of a kind in a run's metrics.jsonl, each of which must be what JSON allows."""

    def refused(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    rows = [json.loads(line, parse_constant=refused) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["kind"] == kind]


def weights(folder: Path, which: str = "last") -> dict[str, Tensor]:
    """The weights of a run's checkpoint."""
    return load_file(folder / "checkpoints" / which / "model.safetensors")


def same(a: dict[str, Tensor], b: dict[str, Tensor], names: Sequence[str] | None = None) -> bool:
    """Whether all tensors are equal to the last bit."""
    return set(a) == set(b) and all(bool((a[name] == b[name]).all()) for name in names or a)
