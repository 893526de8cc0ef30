"""The processes of one job: as many as the launcher was asked for, and none of them outlives it.

`accelerate launch --num_processes N` starts a single process, without a word, where there is neither a GPU nor MPI;
that one then starts N, hands them the signals it gets, and ends with the exit code of the one that failed first.

    accelerate launch -> this, where there is no GPU -> N processes that train      one ends: the others are ended
    accelerate launch or torchrun -> N processes that train                         the launcher ends: so do they
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import psutil

from hybridvideo.engine.preemption import stopping_at_once
from hybridvideo.errors import HybridVideoError, Preempted
from hybridvideo.signals import listen, restore, send_when_parent_ends

OPTION = "--num_processes"
GRACE = 60.0  # seconds to finish a step and save, once the launcher is gone


@contextmanager
def launched() -> Iterator[None]:
    """A context for a whole training, imports included: it honours its launcher, and a signal ends it with code 75.

    Raises Preempted where a signal comes before the first step or after the last.
    """
    with stopping_at_once("stopped outside the steps of training; a run that has its folder goes on with --resume"):
        follow_launcher()
        yield


def follow_launcher() -> None:
    """To be called first by a command that several processes may run together.

    What a launcher has started ends with it. Where `accelerate launch` was asked for N processes and started one,
    the N are started here, and SystemExit is raised when they have ended.
    """
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    rank = "WORLD_SIZE" in os.environ
    if launched or rank:
        end_with_launcher()
    if rank or not launched or sees_gpu():
        return
    wanted = 1
    with contextlib.suppress(psutil.Error):  # it is gone, or does not let itself be seen
        wanted = asked_processes(psutil.Process(os.getppid()).cmdline())
    if wanted > 1:
        print(f"accelerate launch starts one process on a CPU; starting {wanted} with torchrun", file=sys.stderr)
        raise SystemExit(run_processes(wanted, ["-m", "hybridvideo", *sys.argv[1:]]))


def sees_gpu() -> bool:
    """Whether torch can use a GPU here."""
    import torch

    return torch.cuda.is_available()


def asked_processes(launcher: list[str]) -> int:
    """The number of processes in a launcher's command line; 1 where it names none."""
    for i, word in enumerate(launcher):
        option, _, value = word.partition("=")
        if option.replace("-", "_") == OPTION.replace("-", "_"):
            number = value or (launcher[i + 1] if i + 1 < len(launcher) else "")
            return int(number) if number.isdecimal() else 1
        if option == "-m" and launcher[i + 1 : i + 2] == ["hybridvideo"]:
            break  # what follows are our own options
    return 1


# --- ending with the launcher -----------------------------------------------------------------------------------------


def end_with_launcher() -> None:
    """Ask this process to stop (SIGTERM: training saves) when its launcher goes; kill it if it then does not."""
    launcher = os.getppid()
    send_when_parent_ends(signal.SIGTERM)
    threading.Thread(target=outlive, args=(launcher,), daemon=True).start()


def outlive(launcher: int) -> None:
    """Wait until the launcher is gone; then see to it that this process goes too."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)  # where the kernel has not done it, or did it before we asked
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


# --- starting them ----------------------------------------------------------------------------------------------------


def run_processes(count: int, command: Sequence[str]) -> int:
    """Run `python COMMAND` as `count` processes that train together, until all end; gives the exit code.

    Raises HybridVideoError where one was killed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        1, 1, count, run_id=str(uuid.uuid4()), rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        monitor_interval=0.1, signals_to_handle="SIGQUIT", shutdown_timeout=round(GRACE),
    )  # fmt: skip
    before = listen(PassOn())
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        codes = {each.exitcode for each in error.failures.values()}
        if failure.exitcode == -signal.SIGTERM and Preempted.exit_code in codes:
            return Preempted.exit_code  # asked once more while it was leaving
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise HybridVideoError(
                f"process {rank} of {count} was ended by {name}, and so were the others; a training goes on from its "
                "last checkpoint with --resume"
            ) from None
        return failure.exitcode
    finally:
        restore(before)
    return 0


class PassOn:
    """A signal handler that asks the processes to stop; a second Ctrl-C ends them."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        processes = psutil.Process().children()
        if not processes:
            raise KeyboardInterrupt
        end = self.asked and number == signal.SIGINT
        self.asked = True
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if end else signal.SIGTERM)
