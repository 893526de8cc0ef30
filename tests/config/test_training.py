"""Settings that could not be trained with are refused as they are read."""

from __future__ import annotations

from typing import Any

import pytest

from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError
from hybridvideo.parsing import parsed


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        *[("optim", name, -1.0) for name in ("lr", "stem_lr_scale", "weight_decay", "warmup_epochs", "final_lr")],
        *[("optim", "label_smoothing", value) for value in (-0.1, 2.0)],
        *[("optim", "betas", value) for value in ([1.0, 0.9], [-1, 0.9], [0.9, 2])],
        *[("optim", "ema", value) for value in (-1.0, 1.0, 1.5)],
        *[("optim", "clip_norm", value) for value in (-1.0, 0.0)],
        *[("train", name, -1) for name in ("checkpoint_every", "max_skipped_steps")],
        *[("augment", name, -1.0) for name in ("flip", "mixup", "cutmix")],
        *[("augment", name, [0.0, 0.0]) for name in ("area", "aspect", "jitter")],
        *[("augment", name, [2.0, 1.0]) for name in ("area", "aspect", "jitter")],
        ("augment", "flip", 2.0),
        ("augment", "area", [0.5, 1.5]),
        ("augment", "jitter", [0.5, 1.5]),
        ("augment", "contrast", []),
    ],
)
def test_a_value_out_of_range_is_refused_by_its_name(section: str, name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"{section}\.{name} is"):
        parsed(TrainRun, {section: {name: value}})


def test_the_ends_of_the_ranges_are_allowed() -> None:
    optim = {"lr": 0.0, "warmup_epochs": 0, "betas": [0, 0], "final_lr": 1, "label_smoothing": 0, "clip_norm": None}
    augment = {"flip": 1, "area": [1, 1], "aspect": [1, 1], "jitter": [1, 1], "contrast": [0.5], "mixup": 0}
    train = {"checkpoint_every": 0, "max_skipped_steps": 0}
    assert parsed(TrainRun, {"optim": optim, "augment": augment, "train": train}).optim.clip_norm is None


def test_a_negative_learning_rate_of_a_phase_is_refused() -> None:
    with pytest.raises(UserError, match=r"lr.* is -1\.0"):
        parsed(TrainRun, {"phases": [{"lr": -1.0}]})
