"""`last` and `best` are one thing: whenever a run is killed, it continues from both or from neither."""

from __future__ import annotations

import itertools
import json
import os
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridvideo.engine.training import checkpoint
from hybridvideo.engine.training.checkpoint import Saved, load_run, save_run, settle_run
from hybridvideo.engine.training.run import State
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.models import create_model
from hybridvideo.models.card import ModelCard
from hybridvideo.models.contract import VideoModel
from tests.engine.training.runs import run, same, settings, weights
from tests.kills import dies_after, killed_after, killed_at

CARD = ModelCard("hybrid", ("a", "b"))


def model(value: float) -> VideoModel:
    """A small one whose weights all have one value."""
    built = create_model("hybrid", 2, frames=4, height=16, width=16, stem={"widths": [2, 2]})
    for parameter in built.parameters():
        torch.nn.init.constant_(parameter, value)
    return built


def saved(step: int, best_step: int) -> Saved:
    state = State(step=step, best=float(best_step), best_step=best_step)
    return Saved(model(step), model(-step), state, {"step": step})


def step_of(checkpoints: Path, which: str) -> int:
    """The step whose weights a checkpoint holds."""
    return int(next(value for name, value in weights(checkpoints.parent, which).items() if "weight" in name).max())


def test_a_kill_at_any_step_of_saving_leaves_last_and_best_of_one_moment(tmp_path: Path) -> None:
    ends = set()
    for steps in itertools.count():
        checkpoints = tmp_path / str(steps) / "checkpoints"
        save_run(checkpoints, saved(5, 5), CARD, best=True)
        with killed_after(steps) as kill:
            save_run(checkpoints, saved(10, 10), CARD, best=True)
        with killed_after(steps // 2):
            settle_run(checkpoints)  # the resumption is killed too
        state = settle_run(checkpoints)
        assert state is not None and state.step == state.best_step == state.best
        assert state.step == step_of(checkpoints, "last") == step_of(checkpoints, "best"), steps
        assert {path.name for path in checkpoints.iterdir()} == {"last", "best"}
        ends.add(state.step)
        if not kill.happened:
            break
    assert steps > 25 and ends == {5, 10}


def test_a_kill_in_the_first_save_leaves_no_best_without_a_last(tmp_path: Path) -> None:
    for steps in itertools.count():
        checkpoints = tmp_path / str(steps) / "checkpoints"
        with killed_after(steps) as kill:
            save_run(checkpoints, saved(5, 5), CARD, best=True)
        state = settle_run(checkpoints)
        left = {path.name for path in checkpoints.iterdir()} if checkpoints.exists() else set()
        assert left == (set() if state is None else {"last", "best"}), steps
        if not kill.happened:
            break


def test_a_save_that_is_not_the_best_leaves_best_alone(tmp_path: Path) -> None:
    save_run(tmp_path / "checkpoints", saved(5, 5), CARD, best=True)
    save_run(tmp_path / "checkpoints", saved(10, 5), CARD, best=False)
    state = settle_run(tmp_path / "checkpoints")
    assert state is not None and (state.step, state.best_step) == (10, 5)
    assert (step_of(tmp_path / "checkpoints", "last"), step_of(tmp_path / "checkpoints", "best")) == (10, 5)


def test_a_full_disk_at_any_file_is_reported_and_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = tmp_path / "checkpoints"
    save_run(checkpoints, saved(5, 5), CARD, best=True)
    for name in ("write_checkpoint", "write_tensors", "write_pickle"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, name, full_disk)
            with pytest.raises(EnvironmentFault, match=r"cannot write .*No space left on device; free some space"):
                save_run(checkpoints, saved(10, 10), CARD, best=True)
        state = settle_run(checkpoints)
        assert state is not None and state.step == step_of(checkpoints, "last") == step_of(checkpoints, "best") == 5
        assert {path.name for path in checkpoints.iterdir()} == {"last", "best"}


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_every_file_of_a_checkpoint_can_be_read_by_anyone_who_reads_the_others(tmp_path: Path) -> None:
    save_run(tmp_path, saved(5, 5), CARD, best=True)
    assert len({stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}) == 1


@pytest.mark.parametrize("name", ["state.json", "optimizer.pt", "model.safetensors", "training.safetensors"])
def test_a_damaged_checkpoint_is_one_line(tmp_path: Path, name: str) -> None:
    save_run(tmp_path, saved(5, 5), CARD, best=True)
    for content in (b"", (tmp_path / "last" / name).read_bytes()[:-20]):
        (tmp_path / "last" / name).write_bytes(content)
        with pytest.raises(UserError, match="cannot resume from") as error:
            load_run(tmp_path / "last", model(0), model(0))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "training.safetensors"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    save_run(tmp_path, saved(5, 5), CARD, best=True)
    (tmp_path / "last" / name).unlink()
    os.mkfifo(tmp_path / "last" / name)
    with pytest.raises(UserError, match=f"{name} is damaged .not a regular file"):
        load_run(tmp_path / "last", model(0), model(0))


RICH: dict[str, Any] = {
    "optim": {"ema": 0.9}, "augment": {"mixup": 0.4}, "train": {"accumulate": 2, "checkpoint_every": 1, "epochs": 2},
}  # fmt: skip
STARTS = ("start", "resume")
UNTIMED = ("time", "seconds", "clips_per_second", "wait_share")


def told(folder: Path) -> list[dict[str, Any]]:
    """What a run's metrics say, but for times and for when it was started."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in row.items() if k not in UNTIMED} for row in rows if row["kind"] not in ("start", "resume")
    ]


def test_a_run_killed_in_its_writing_ends_as_the_run_that_was_not(motion: Path, tmp_path: Path) -> None:
    """Each resumption is killed too, further on each time, until one comes to the end."""
    plan = settings(motion, **RICH)
    whole, killed = run(tmp_path / "whole", plan), tmp_path / "killed"
    steps = itertools.count(4, 37)
    while dies_after(next(steps), lambda: run(killed, plan, resume=(killed / "config.yaml").exists())):
        pass
    assert next(steps) > 150
    assert_same_run(whole, killed)


def test_a_run_killed_at_random_moments_ends_as_the_run_that_was_not(motion: Path, tmp_path: Path) -> None:
    plan = settings(motion, **RICH)
    whole, killed = run(tmp_path / "whole", plan), tmp_path / "killed"
    seconds = iter([*np.random.default_rng().uniform(0.1, 1.5, size=8), 60.0])
    while killed_at(next(seconds), lambda: run(killed, plan, resume=(killed / "config.yaml").exists())):
        pass
    assert_same_run(whole, killed)


def assert_same_run(whole: Path, killed: Path) -> None:
    for which in ("last", "best"):
        assert same(weights(whole, which), weights(killed, which)), which
    assert told(whole) == told(killed)
