"""Several processes, and signals, as a user meets them: real commands in real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from hybridvideo.tasks.support.launch import asked_processes
from tests.engine.training.runs import lines, settings, weights


def write_config(path: Path, motion: Path, **changes: object) -> Path:
    import yaml

    from hybridvideo.parsing import plain

    steady = {"model": {"changes": {"drop_path": 0.0, "head": {"dropout": 0.0}}}, "train": {"batch_size": 10}}
    path.write_text(yaml.safe_dump(plain(settings(motion, **{**steady, **changes}))))
    return path


def command(*arguments: object, processes: int = 1) -> list[str]:
    """As in the README; where there is no GPU, Accelerate's launcher alone would start a single process."""
    launch = ["-m", "accelerate.commands.launch", "--num_processes", str(processes)]
    return [sys.executable, *(launch if processes > 1 else []), "-m", "hybridvideo", *map(str, arguments)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_two_processes_train_and_evaluate_as_one(motion: Path, tmp_path: Path) -> None:
    """Of 21 videos two cannot be read; batches of 10, 10 and 1, in steps of two; BatchNorm, mixing, an average."""
    data = tmp_path / "data"
    shutil.copytree(motion, data)
    videos = sorted((data / "train").rglob("*.*"))
    for extra in videos[4::8]:
        extra.unlink()
    for victim in (videos[2], videos[15]):
        victim.write_bytes(b"")
    # the power: see tests/engine/training/test_step.py
    head = {"norm": "batch", "power": 0.5, "dropout": 0.0}
    config = write_config(tmp_path / "c.yaml", data, train={"batch_size": 10, "accumulate": 2},
                          model={"changes": {"drop_path": 0.0, "head": head}},
                          augment={"mixup": 0.8, "cutmix": 1.0}, optim={"ema": 0.5},
                          data={"workers": 1, "max_bad": 0.1})  # fmt: skip
    for processes in (1, 2):
        out = tmp_path / f"p{processes}"
        done = subprocess.run(
            command("train", "--config", config, "--out", out, processes=processes),
            env=ENVIRONMENT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert f"{processes} process(es) on cpu" in done.stderr
    for which in ("last", "best"):
        one, two = (weights(tmp_path / run, which) for run in ("p1", "p2"))
        for name in one:
            assert torch.allclose(one[name], two[name], atol=2e-4), (which, name)
    epochs = [lines(tmp_path / run, "epoch") for run in ("p1", "p2")]
    assert [row["clips_seen"] for row in epochs[0]] == [19, 38]
    for a, b in zip(*epochs, strict=True):
        assert a["clips_seen"] == b["clips_seen"] and a["val_videos"] == b["val_videos"] == 8
        assert a["bad_clips"] == b["bad_clips"] == 2
        assert a["train_loss"] == pytest.approx(b["train_loss"], abs=1e-4)
        assert a["val_loss"] == pytest.approx(b["val_loss"], abs=1e-4)
    for a, b in zip(*(lines(tmp_path / run, "step") for run in ("p1", "p2")), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-2)
    results = [json.loads((tmp_path / run / "evaluation" / "results.json").read_text()) for run in ("p1", "p2")]
    assert results[0]["num_videos"] == results[1]["num_videos"] == 8


def test_ctrl_c_leaves_a_run_that_can_be_resumed(motion: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", motion, train={"epochs": 200}, data={"workers": 1})
    out = tmp_path / "run"
    child = subprocess.Popen(
        command("train", "--config", config, "--out", out), env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    wait_for(out / "checkpoints" / "last" / "state.json")
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 75, errors
    assert "Traceback" not in errors and "--resume goes on" in errors
    before = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    more = ["--train.epochs", before["epoch"] + 2]
    done = subprocess.run(
        command("train", "--config", config, "--out", out, "--resume", *more), env=ENVIRONMENT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    assert after["epoch"] == before["epoch"] + 2 and after["clips_seen"] == 24 * after["epoch"]


def test_the_number_of_processes_is_read_from_the_launcher() -> None:
    for words, number in [
        ("accelerate launch --num_processes 4 -m hybridvideo train", 4),
        ("accelerate launch --num-processes=2 --mixed_precision no -m hybridvideo train", 2),
        ("accelerate launch -m hybridvideo train --num_processes 3", 1),
        ("bash", 1),
        ("accelerate launch --num_processes", 1),
    ]:
        assert asked_processes(words.split()) == number, words


def wait_for(path: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)
