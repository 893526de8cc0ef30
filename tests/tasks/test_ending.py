"""How a training ends when it is asked to, when its launcher goes, when one of its processes dies: real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hybridvideo import cli
from hybridvideo.engine.preemption import StopRequest, stopping_at_once
from hybridvideo.engine.training.classification import Classification
from hybridvideo.errors import Preempted
from hybridvideo.signals import STOPPING
from tests.engine.training.runs import run, settings
from tests.tasks.support.test_launch import ENVIRONMENT, write_config


class Started:
    """A training that has saved once; what it started is killed at the end of the test."""

    def __init__(self, motion: Path, folder: Path, launch: list[str], processes: int) -> None:
        self.folder = folder
        config = write_config(
            folder.with_suffix(".yaml"), motion, train={"epochs": 500, "checkpoint_every": 1, "batch_size": 10}
        )
        self.log = folder.with_suffix(".log").open("w+")
        self.main = subprocess.Popen(
            [sys.executable, *launch, "-m", "hybridvideo", "train", "--config", str(config), "--out", str(folder),
             "--processes", str(processes)],
            env=ENVIRONMENT, stderr=self.log, stdout=self.log, start_new_session=True,
        )  # fmt: skip
        self.all = [psutil.Process(self.main.pid)]

    def under_way(self) -> None:
        """Wait for the first checkpoint."""
        while not (self.folder / "checkpoints" / "last" / "state.json").exists():
            assert self.main.poll() is None, self.said()
            time.sleep(0.05)
        self.all += self.all[0].children(recursive=True)
        self.ranks = [process for process in self.all if "RANK" in process.environ() and is_train(process)]

    def ended(self, seconds: float = 60) -> bool:
        """Whether all processes end within that time."""
        return not psutil.wait_procs([process for process in self.all if alive(process)], seconds)[1]

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()

    def resumed(self) -> None:
        """Go on for one epoch, in this process."""
        state = json.loads((self.folder / "checkpoints" / "last" / "state.json").read_text())
        plan = ["--train.epochs", str(state["epoch"] + 1), "--train.checkpoint_every", "0"]
        assert cli.main(["train", "--resume", str(self.folder), *plan]) == 0


def is_train(process: psutil.Process) -> bool:
    return process.cmdline()[1:4] == ["-m", "hybridvideo", "train"] or "train" in process.cmdline()[3:6]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def start(motion: Path, tmp_path: Path) -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def begin(*launch: str, processes: int = 1) -> Started:
        started.append(Started(motion, tmp_path / f"run{len(started)}", list(launch), processes))
        started[-1].under_way()
        return started[-1]

    yield begin
    for one in started:
        for process in one.all:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        one.main.wait()
        one.log.close()


ACCELERATE = ("-m", "accelerate.commands.launch", "--num_processes", "1")  # on a CPU it starts no more
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_saves_and_is_exit_code_75(start: Callable[..., Started], number: signal.Signals) -> None:
    run = start()
    run.main.send_signal(number)
    assert run.main.wait(60) == 75, run.said()
    assert "continue with --resume" in run.said() and "Traceback" not in run.said()


def test_processes_that_were_asked_for_save_and_the_exit_code_is_75(start: Callable[..., Started]) -> None:
    run = start(processes=2)
    assert len(run.ranks) == 2
    run.main.send_signal(signal.SIGTERM)
    assert run.main.wait(60) == 75 and run.ended(), run.said()
    assert run.said().count("stopping once") == 1 and "Traceback" not in run.said()
    run.resumed()


@pytest.mark.parametrize(
    ("launch", "processes"), [((), 2), (ACCELERATE, 2), (TORCHRUN, 1)], ids=["ours", "accelerate", "torchrun"]
)
def test_the_processes_end_with_their_launcher_and_save(
    start: Callable[..., Started], launch: tuple[str, ...], processes: int
) -> None:
    run = start(*launch, processes=processes)
    assert len(run.ranks) == 2
    run.main.kill()
    assert run.ended(), run.said()
    assert "stopping once" in run.said()
    run.resumed()


def test_a_signal_before_the_first_step_is_exit_code_75(motion: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", motion)
    child = subprocess.Popen(
        [sys.executable, "-m", "hybridvideo", "train", "--config", str(config), "--out", str(tmp_path / "run")],
        env=ENVIRONMENT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not listens_to(child.pid, signal.SIGTERM):
        assert child.poll() is None
        time.sleep(0.001)
    child.terminate()
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 75, errors
    assert errors == "stopped outside the training steps; if the run folder exists, continue with --resume\n"


def listens_to(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for the signal."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (number - 1) & 1)


def test_a_signal_in_the_last_validation_stops_before_the_evaluation(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Classification.validate

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Classification, "validate", interrupted)
        with pytest.raises(Preempted, match="before the evaluation"):
            run(tmp_path / "run", settings(motion, train={"epochs": 1}))
    assert not (tmp_path / "run" / "evaluation").exists()
    run(tmp_path / "run", settings(motion, train={"epochs": 1}), resume=True)
    assert (tmp_path / "run" / "evaluation" / "results.json").exists()


def test_one_process_that_dies_ends_the_others(start: Callable[..., Started]) -> None:
    run = start(processes=2)
    run.ranks[1].kill()
    assert run.ended() and "of 2 was ended by SIGKILL, and so were the others" in run.said(), run.said()
    assert "gloo" not in run.said()
    run.resumed()


def test_a_second_training_in_the_folder_is_refused(start: Callable[..., Started]) -> None:
    run = start()
    assert cli.main(["train", "--resume", str(run.folder)]) == 2
    run.main.send_signal(signal.SIGINT)
    assert run.main.wait(60) == 75, run.said()


@pytest.mark.parametrize("number", STOPPING)
def test_every_signal_of_a_scheduler_is_a_request(number: signal.Signals) -> None:
    with StopRequest() as stop:
        os.kill(os.getpid(), number)
        assert stop.requested
        if number != signal.SIGINT:
            os.kill(os.getpid(), number)  # a scheduler may say it again
    with pytest.raises(Preempted, match="kept"), stopping_at_once("kept"):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)  # while it leaves


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As `nohup` has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
            os.kill(os.getpid(), signal.SIGUSR1)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGHUP, before)
