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

from hybridvideo.errors import UserError
from hybridvideo.tasks.support import launch
from hybridvideo.tasks.support.launch import follow_launcher
from tests.engine.training.runs import lines, settings, weights


def write_config(path: Path, motion: Path, **changes: object) -> Path:
    import yaml

    from hybridvideo.parsing import plain

    steady = {"model": {"changes": {"drop_path": 0.0, "head": {"dropout": 0.0}}}, "train": {"batch_size": 10}}
    path.write_text(yaml.safe_dump(plain(settings(motion, **{**steady, **changes}))))
    return path


def command(*arguments: object, processes: int = 1) -> list[str]:
    """As a user gives it."""
    several = ["--processes", str(processes)] if processes > 1 else []
    return [sys.executable, "-m", "hybridvideo", *map(str, arguments), *several]


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
        assert f"{processes} process{'es' * (processes > 1)} on cpu" in done.stderr
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
    assert "Traceback" not in errors and "continue with --resume" in errors
    before = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    more = ["--train.epochs", before["epoch"] + 2]
    done = subprocess.run(
        command("train", "--config", config, "--out", out, "--resume", *more), env=ENVIRONMENT,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    after = json.loads((out / "checkpoints" / "last" / "state.json").read_text())
    assert after["epoch"] == before["epoch"] + 2 and after["clips_seen"] == 24 * after["epoch"]


@pytest.mark.parametrize(
    ("processes", "launched", "gpus", "device", "message"),
    [
        (0, None, 0, "auto", "processes is 0; give 1 or more"),
        (3, "2", 0, "auto", "--processes is 3, but a launcher started 2 already; leave --processes out"),
        (3, None, 2, "auto", "--processes is 3, but the GPUs here are 2; give 2, or --device cpu"),
        (1000, None, 0, "auto", "--processes is 1000, but the CPU cores here are 4; give at most 8"),
    ],
)
def test_a_number_of_processes_that_cannot_be_is_refused(
    processes: int, launched: str | None, gpus: int, device: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stub_launching(monkeypatch, launched, gpus)
    with pytest.raises(UserError, match=message):
        follow_launcher(processes, device)
    assert not started


@pytest.mark.parametrize(
    ("processes", "launched", "gpus", "device"),
    [(2, None, 0, "auto"), (2, None, 2, "auto"), (2, None, 1, "cpu"), (2, None, 4, "cuda")],
)
def test_processes_are_started_once(
    processes: int, launched: str | None, gpus: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = stub_launching(monkeypatch, launched, gpus)
    with pytest.raises(SystemExit) as left:
        follow_launcher(processes, device)
    assert left.value.code == 75 and started == [processes]
    monkeypatch.setenv("WORLD_SIZE", str(processes))  # as in each of them
    follow_launcher(processes, device)
    assert started == [processes]


def test_the_others_have_the_grace_to_save_when_one_process_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.distributed.launcher.api import LaunchConfig

    configs: list[LaunchConfig] = []
    monkeypatch.setenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1")  # so that it is put back after the test
    monkeypatch.delenv("TORCH_ELASTIC_SHUTDOWN_TIMEOUT")
    started = "torch.distributed.launcher.api.elastic_launch"
    monkeypatch.setattr(started, lambda config, program: configs.append(config) or (lambda *command: None))
    assert launch.run_processes(2, ["train"]) == 0
    [config] = configs
    assert getattr(config, "shutdown_timeout", launch.GRACE) == launch.GRACE  # torch 2.11 has no such setting


def stub_launching(monkeypatch: pytest.MonkeyPatch, world: str | None, gpus: int) -> list[int]:
    """No process is started and none watched; the list gets the numbers asked for."""
    started: list[int] = []
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if world is None:
        monkeypatch.delenv("WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setattr(launch, "end_with_launcher", lambda: None)
    monkeypatch.setattr(launch, "count_gpus", lambda: gpus)
    monkeypatch.setattr(launch, "cpu_cores", lambda: 4)
    monkeypatch.setattr(launch, "run_processes", lambda count, command: started.append(count) or 75)
    return started


def test_accelerates_launcher_on_a_cpu_is_answered_with_the_way_to_more_processes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stub_launching(monkeypatch, None, gpus=0)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    follow_launcher()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "give --processes N" in said


def wait_for(path: Path, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.05)
