"""How fast every hybrid runs and what bounds it: `python tools/bench_families.py "*_base"`.

For each model: seconds per clip of a forward pass (one clip of its standard input) and of a training step (two clips:
BatchNorm needs them), in fp32 and bf16, and the share of the machine's matrix rate that its multiply-adds reach.
`--profile` lists the operators with most time, `--memory` measures a training step with activations recomputed, in a
process of its own. `--write` stores clips per second for `hybridvideo models`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from datetime import date
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from timing import clock, matrix_rate, one_pass, peak_of, processor
from torch.profiler import ProfilerActivity, profile

import hybridvideo
from hybridvideo.models import create_model, list_models
from hybridvideo.models.contract import VideoModel, count_gmacs

SPEEDS = Path(hybridvideo.__file__).parent / "tasks" / "model_speeds.json"
MODES = ("fp32", "bf16", "training", "training bf16")
BAR = 0.65  # of the matrix rate
OPERATORS = 8  # listed by --profile
UNBUILT = ("hybrid",)  # all parts are up to the user


def main() -> int:
    """Measure what was asked for."""
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    names = [name for pattern in arguments.models for name in list_models(pattern) if name not in UNBUILT]
    where = f"{processor()}, {arguments.threads} thread(s); torch {torch.__version__}; {date.today()}"
    print(where)
    if arguments.alone:
        print(training_memory(names[0]))
    elif arguments.write:
        write_speeds(names, where, arguments.rounds)
    else:
        bench(names, arguments)
    return 0


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["*_base"], help="names or shell patterns")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--profile", action="store_true", help="list the operators with most time")
    parser.add_argument("--memory", action="store_true", help="of a training step with activations recomputed")
    parser.add_argument("--write", action="store_true", help=f"store clips per second in {SPEEDS.name}")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # in a fresh process
    return parser.parse_args()


def bench(names: list[str], arguments: argparse.Namespace) -> None:
    """Print one row per model and mode."""
    table = Table("model", "GMACs", "mode", "s per clip", "share of matmul", "memory", box=None)
    for name in names:
        model, gmacs = create_model(name), gmacs_of(name)
        for mode in arguments.modes:
            x = clips_for(model, mode)
            seconds, share = speed(model, x, mode, gmacs, arguments.rounds)
            memory = f"{in_fresh_process(name):.2f} GB" if arguments.memory and mode == "training" else ""
            mark = "" if share >= BAR else f" < {BAR}"
            table.add_row(name, f"{gmacs:.1f}", mode, f"{seconds:.3f}", f"{share:.2f}{mark}", memory)
            if arguments.profile:
                print_profile(model, x, name, mode)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def gmacs_of(name: str) -> float:
    """Count on `meta`."""
    with torch.device("meta"):
        return count_gmacs(create_model(name))


def clips_for(model: VideoModel, mode: str) -> torch.Tensor:
    """Return a batch of the model's standard input."""
    return torch.randn(2 if "training" in mode else 1, *model.input_shape)


def speed(model: VideoModel, x: torch.Tensor, mode: str, gmacs: float, rounds: int) -> tuple[float, float]:
    """Return median seconds per clip, and the share of the matrix rate measured next to each pass."""
    model.train("training" in mode)
    work = 2e9 * gmacs * (3 if "training" in mode else 1)
    seconds, shares = [], []
    for index in range(rounds + 1):  # the first warms up
        model.zero_grad()
        took = clock(partial(one_pass, model, x, mode), x.device) / len(x)
        rate = matrix_rate(x.device, torch.bfloat16 if "bf16" in mode else torch.float32)
        if index:
            seconds.append(took)
            shares.append(work / took / rate)
    model.zero_grad()
    return statistics.median(seconds), statistics.median(shares)


def print_profile(model: VideoModel, x: torch.Tensor, name: str, mode: str) -> None:
    """Print the operators with the largest share of the time."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        one_pass(model, x, mode)
    model.zero_grad()
    events = sorted(profiled.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    shown = ", ".join(
        f"{event.key.removeprefix('aten::')} {event.self_cpu_time_total / total:.0%}" for event in events[:OPERATORS]
    )
    print(f"{name}, {mode}: {shown}")


# --- memory -----------------------------------------------------------------------------------------------------------


def training_memory(name: str) -> float:
    """Return the GB per clip that a training step with activations recomputed takes, gradients included."""
    model = create_model(name, grad_checkpointing=True).train()
    x = clips_for(model, "training")
    return peak_of(partial(one_pass, model, x, "training"), "cpu") / len(x) / 1e9


def in_fresh_process(name: str) -> float:
    """Return `training_memory` as measured where no earlier pass has left memory behind."""
    command = [sys.executable, __file__, name, "--alone"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


# --- for `hybridvideo models` -----------------------------------------------------------------------------------------


def write_speeds(names: list[str], where: str, rounds: int) -> None:
    """Store clips per second of each model's forward pass in fp32."""
    known = json.loads(SPEEDS.read_text()) if SPEEDS.exists() else {"clips_per_second": {}}
    for name in names:
        model = create_model(name).eval()
        x = clips_for(model, "fp32")
        one_pass(model, x, "fp32")
        seconds = statistics.median(clock(partial(one_pass, model, x, "fp32"), x.device) for _ in range(rounds))
        known["clips_per_second"][name] = float(f"{1 / seconds:.3g}")
        print(f"{name}: {1 / seconds:.3g} clips per second")
    ordered = {name: known["clips_per_second"][name] for name in list_models() if name in known["clips_per_second"]}
    SPEEDS.write_text(json.dumps({"where": where, "clips_per_second": ordered}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
