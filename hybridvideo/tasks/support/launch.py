"""Several processes of one job: starting them, and making sure that none outlives its launcher.

hybridvideo train --processes N                  this process starts N that train, forwards signals to them,
                                                 and ends with the exit code of the first that failed
accelerate launch or torchrun -> N processes     when the launcher ends, so do they
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

from hybridvideo.config.jobs import Compute
from hybridvideo.engine.preemption import stopping_at_once
from hybridvideo.errors import HybridVideoError, Preempted, UserError
from hybridvideo.report.environment import cpu_cores
from hybridvideo.signals import listen, restore, send_when_parent_ends

PROCESSES_PER_CORE = 2  # at most; each holds a model and decoding processes of its own
GRACE = 60.0  # seconds to finish a step and save, once the launcher is gone
WORLD, ACCELERATE = "WORLD_SIZE", "ACCELERATE_MIXED_PRECISION"  # set for each process by a launcher; by accelerate's


@contextmanager
def launched(processes: int = 1, device: str = Compute.device) -> Iterator[None]:
    """A context for a complete training, imports included: it ends with its launcher, and a signal means exit code 75.

    Raises Preempted if a signal comes before the first step or after the last.
    """
    with stopping_at_once("stopped outside the training steps; if the run folder exists, continue with --resume"):
        follow_launcher(processes, device)
        yield


def follow_launcher(processes: int = 1, device: str = Compute.device) -> None:
    """Start a job's processes, or join those that a launcher started. Call this before anything else.

    Raises SystemExit in the process that started the others, once they have ended; UserError if `processes`
    contradicts the launcher or this machine.
    """
    launched = int(os.environ.get(WORLD, "0"))
    if launched or ACCELERATE in os.environ:
        end_with_launcher()
    check_processes(processes, launched)
    if launched:
        return
    if processes > 1:
        check_gpus(processes, device)
        check_cores(processes)
        raise SystemExit(run_processes(processes, ["-m", "hybridvideo", *sys.argv[1:]]))
    if ACCELERATE in os.environ and not count_gpus():
        print("one process: accelerate launch starts no more on a CPU; give --processes N for N", file=sys.stderr)


def check_processes(processes: int, launched: int) -> None:
    """Raise UserError for a number below 1, or one that differs from the launcher's."""
    if processes < 1:
        raise UserError(f"processes is {processes}; give 1 or more")
    if launched and processes not in (1, launched):
        raise UserError(f"--processes is {processes}, but a launcher started {launched} already; leave --processes out")


def check_gpus(processes: int, device: str) -> None:
    """Raise UserError if some of the processes would have to share a GPU."""
    gpus = count_gpus()
    if device in ("auto", "cuda") and 0 < gpus < processes:
        raise UserError(f"--processes is {processes}, but the GPUs here are {gpus}; give {gpus}, or --device cpu")


def check_cores(processes: int) -> None:
    """Raise UserError for so many processes that they would only wait for each other, or exhaust the memory."""
    most = max(PROCESSES_PER_CORE * cpu_cores(), count_gpus())
    if processes > most:
        raise UserError(f"--processes is {processes}, but the CPU cores here are {cpu_cores()}; give at most {most}")


def count_gpus() -> int:
    """Return the number of GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count()


# --- ending with the launcher -----------------------------------------------------------------------------------------


def end_with_launcher() -> None:
    """Ask this process to stop (SIGTERM: training saves) when its launcher goes; kill it if it does not stop."""
    launcher = os.getppid()
    send_when_parent_ends(signal.SIGTERM)
    threading.Thread(target=outlive, args=(launcher,), daemon=True).start()


def outlive(launcher: int) -> None:
    """Wait until the launcher is gone; then end this process too."""
    while os.getppid() == launcher:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)  # in case the kernel did not, or it happened before we asked
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


# --- starting them ----------------------------------------------------------------------------------------------------


def run_processes(count: int, command: Sequence[str]) -> int:
    """Run `python COMMAND` as `count` processes that work together, until all have ended; return the exit code.

    Raises HybridVideoError if one was killed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(round(GRACE)))  # torch 2.11 ignores it: 30 s there
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        signals_to_handle="SIGQUIT",
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cpu_cores() // count)))
    before = listen(PassOn())
    try:
        elastic_launch(config, sys.executable)(*command)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        codes = {each.exitcode for each in error.failures.values()}
        if failure.exitcode == -signal.SIGTERM and Preempted.exit_code in codes:
            return Preempted.exit_code  # asked again while it was leaving
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise HybridVideoError(
                f"process {rank} of {count} was ended by {name}, and so were the others; training continues from "
                "its last checkpoint with --resume"
            ) from None
        return failure.exitcode
    finally:
        restore(before)
    return 0


class PassOn:
    """A signal handler that asks the processes to stop; a second Ctrl-C kills them."""

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
