"""As many processes as the launcher was asked for.

`accelerate launch --num_processes N` starts a single process, without a word, where there is neither a GPU nor MPI.
"""

from __future__ import annotations

import os
import sys

import psutil
import torch

OPTION = "--num_processes"


def honour_launcher() -> None:
    """Start over as N processes with torchrun where `accelerate launch` was asked for N and started one."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ
    if not launched or torch.cuda.is_available():
        return
    wanted = asked_processes(psutil.Process(os.getppid()).cmdline())
    if wanted > 1:
        print(f"accelerate launch starts one process on a CPU; starting {wanted} with torchrun", file=sys.stderr)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(wanted)]
        os.execv(sys.executable, [sys.executable, *torchrun, "-m", "hybridvideo", *sys.argv[1:]])


def asked_processes(launcher: list[str]) -> int:
    """The number of processes in a launcher's command line; 1 where it names none."""
    for i, word in enumerate(launcher):
        option, _, value = word.partition("=")
        if option.replace("-", "_") == OPTION.replace("-", "_"):
            number = value or (launcher[i + 1] if i + 1 < len(launcher) else "")
            return int(number) if number.isdigit() else 1
        if option == "-m" and launcher[i + 1 : i + 2] == ["hybridvideo"]:
            break  # what follows are our own options
    return 1
