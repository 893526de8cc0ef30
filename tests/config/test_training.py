"""Settings of training that no optimizer could follow are refused before anything is read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hybridvideo.config.training import TrainRun
from hybridvideo.errors import UserError
from hybridvideo.parsing import parsed


@pytest.mark.parametrize(
    ("setting", "value", "text"),
    [
        ("lr", -1.0, "optim.lr is -1.0; give 0 or more"),
        ("stem_lr_scale", -0.1, "optim.stem_lr_scale is -0.1; give 0 or more"),
        ("weight_decay", -1.0, "optim.weight_decay is -1.0; give 0 or more"),
        ("warmup_epochs", -1.0, "optim.warmup_epochs is -1.0; give 0 or more"),
        ("final_lr", -1.0, "optim.final_lr is -1.0; give 0 or more"),
        ("betas", [0.9, 1.0], "optim.betas[1] is 1.0; give a number from 0 to below 1"),
        ("ema", 2.0, "optim.ema is 2.0; give a number from 0 to below 1"),
        ("label_smoothing", 1.5, "optim.label_smoothing is 1.5; give a number from 0 to below 1"),
        ("clip_norm", -1.0, "optim.clip_norm is -1.0; give a number above 0, or null"),
    ],
)
def test_a_setting_of_the_optimizer_out_of_its_range_is_refused(setting: str, value: Any, text: str) -> None:
    with pytest.raises(UserError, match=re.escape(text)):
        parsed(TrainRun, {"optim": {setting: value}})


def test_a_negative_learning_rate_of_a_phase_is_refused() -> None:
    with pytest.raises(UserError, match=r"lr of a phase is -1\.0; give 0 or more"):
        parsed(TrainRun, {"phases": [{"lr": -1.0}]})
