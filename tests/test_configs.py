"""The hybrids in configs/hybrids: each builds, trains a step, costs what it says, and mixes what no named one does."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from hybridvideo.config.training import TrainRun
from hybridvideo.models import create_model
from hybridvideo.models.contract import Outputs, VideoModel, count_gmacs, count_parameters
from hybridvideo.models.families import FAMILIES
from hybridvideo.models.hybrid import Hybrid, HybridVariant
from hybridvideo.parsing import parsed

HYBRIDS = sorted((Path(__file__).resolve().parents[1] / "configs" / "hybrids").glob("*.yaml"))
COST = re.compile(
    r"^# Cost: ([\d.]+) GMACs a clip, ([\d.]+) million parameters(?:, of which ([\d.]+) million train)?\."
)
each_hybrid = pytest.mark.parametrize("file", HYBRIDS, ids=lambda file: file.stem)


def run_of(file: Path) -> TrainRun:
    return parsed(TrainRun, yaml.safe_load(file.read_text()), file.name)


def built(run: TrainRun, num_classes: int, **size: int) -> VideoModel:
    """The model of a run, without downloading anything."""
    changes: dict[str, Any] = {**run.model.changes, **size}
    return create_model(run.model.name, num_classes, **{**changes, "stem": {**changes["stem"], "weights": None}})


def same_digits(written: str, value: float) -> bool:
    """Whether a number is rounded to what was written."""
    return f"{value:.{len(written.partition('.')[2])}f}" == written


@each_hybrid
def test_the_header_states_the_command_and_the_true_cost(file: Path) -> None:
    run, text = run_of(file), file.read_text()
    assert f"hybridvideo train --config configs/hybrids/{file.name}" in text and "\n# Trial: " in text
    stated = next(match for line in text.splitlines() if (match := COST.match(line)))
    with torch.device("meta"):
        model = built(run, 400, frames=run.clip.frames, height=run.frame.height, width=run.frame.width)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    true = [count_gmacs(model), count_parameters(model) / 1e6, trained / 1e6]
    assert all(same_digits(*pair) for pair in zip(stated.groups(), true, strict=True) if pair[0]), true
    assert (stated[3] is None) == (trained == count_parameters(model))


@each_hybrid
def test_a_step_changes_what_trains_and_leaves_the_rest(file: Path) -> None:
    torch.manual_seed(0)
    model = built(run_of(file), 3, frames=4, height=64, width=64).train()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    out = model(torch.randn(2, 3, 4, 64, 64))
    logits = out.logits if isinstance(out, Outputs) else out
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
    torch.optim.SGD(trained, lr=0.1).step()
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert changed <= {name for name, value in model.named_parameters() if value.requires_grad}
    assert any(name.startswith("head.") for name in changed) and any(name.startswith("stages.") for name in changed)


def joints(model_config: Any) -> frozenset[str]:
    """The kinds of blocks of a hybrid, the kinds inside them, and what changes its grid."""
    stages = model_config.stages
    words = {word for stage in stages for word in (stage.block, stage.attention, stage.convolution)}
    grid = {"tokens", "pool", "up", "time_stride"}
    defaults = {f.name: f.default for f in fields(stages[0])}
    return frozenset(words | {name for name in grid for stage in stages if getattr(stage, name) != defaults[name]})


def test_five_hybrids_mix_what_no_named_one_does() -> None:
    named = {
        joints(made.config) for made in FAMILIES.values() if isinstance(made, HybridVariant) and made.config.stages
    }
    mixed = [joints(model.config) for run in map(run_of, HYBRIDS) if isinstance(model := built(run, 2), Hybrid)]
    assert len(mixed) == 5 == len(set(mixed)) and not named & set(mixed)
