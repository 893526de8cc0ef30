"""Our networks against the peers' code, with the same weights and clips: `python tools/bench_model.py`.

For each pair, logits are compared; then forward in fp32 and bf16 and a training step are timed, peer and ours in every
round. It prints the median ratio with its quartiles, the share of a large matrix product's rate in the same round, and
the memory of the first pass in a fresh process. `--growth` prints time, memory and the largest tensor
against the number of frames. On a GPU (`--device cuda`): batch 16 and 1, bf16, and memory of the allocator.
Needs `pip install transformers`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import torch
from model_peers import NAMES, Pair, make_pair
from rich.console import Console
from rich.table import Table
from timing import clock, matrix_rate, one_pass, peak_of, processor, spread
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hybridvideo.models import create_model
from hybridvideo.models.contract import count_gmacs

MOST_DIFFERENCE = 1e-4  # of fp32 logits
LEAST_COSINE = 0.999  # of bf16 logits
GROWTH = ("video_swin_tiny", "timesformer_base", "videomae_base", "uniformer_small")
FRAMES = (8, 16, 32, 64)


def main() -> int:
    """Run everything that was asked for; return 1 if outputs differ or a bar is missed."""
    arguments = read_arguments()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        print(json.dumps(alone(*arguments.alone)))
        return 0
    where = (
        torch.cuda.get_device_name() if arguments.device == "cuda" else f"{processor()}, {arguments.threads} thread(s)"
    )
    print(f"{where}; torch {torch.__version__}; {date.today()}")
    missed = []
    if not arguments.only_growth:
        for name in arguments.pairs:
            missed += bench_pair(name, arguments)
    if arguments.growth or arguments.only_growth:
        growth(arguments)
    print("every bar met" if not missed else "missed: " + "; ".join(missed))
    return bool(missed)


def read_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", default=NAMES, choices=NAMES, metavar="PAIR", help=f"of {NAMES}")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, nargs="+", help="clips at once; default 1, on a GPU 16 and 1")
    parser.add_argument("--compile", action="store_true", help="torch.compile both")
    parser.add_argument("--growth", action="store_true", help="cost against the number of frames, too")
    parser.add_argument("--only-growth", action="store_true")
    parser.add_argument("--alone", nargs=4, help=argparse.SUPPRESS)  # for a fresh process
    return parser.parse_args()


def bench_pair(name: str, arguments: argparse.Namespace) -> list[str]:
    """Print the table of a pair and return the bars that were missed."""
    device = arguments.device
    pair = make_pair(name, device)
    bars = pair.gpu_bars if device == "cuda" else pair.bars
    with torch.device("meta"):
        gmacs = count_gmacs(create_model(pair.ours_name))
    print(f"\n{name}: clips of {' x '.join(map(str, pair.clip))}, {gmacs:.1f} GMACs")
    table = Table(
        "mode", "batch", "peer", "ours", "ratio (quartiles)", "share of matmul", "peer", "ours", "memory ratio"
    )
    missed = []
    for batch in arguments.batch or ([16, 1] if device == "cuda" else [1]):
        x = torch.randn(batch, *pair.clip, device=device)
        compare(pair, x[:1])
        for mode, bar in (
            ("fp32", bars.fp32),
            ("bf16", bars.bf16),
            ("training", bars.training),
            ("training bf16", None),
        ):
            rounds = time_pair(pair, x, mode, arguments)
            ratios = [peer / ours for peer, ours, _ in rounds]
            work = 2e9 * gmacs * batch * (3 if "training" in mode else 1)
            memory = [in_fresh_process(who, name, mode, device)[0] for who in ("peer", "ours")]
            shares = [[work / times[i] / times[2] for times in rounds] for i in (0, 1)]
            table.add_row(
                mode,
                str(batch),
                *(f"{statistics.median(times[i] for times in rounds):.3f} s" for i in (0, 1)),
                spread(ratios),
                " to ".join(f"{statistics.median(share):.2f}" for share in shares),
                *(f"{mb:.0f} MB" for mb in memory),
                f"{memory[1] / memory[0]:.2f}",
            )
            if bar is not None and statistics.median(ratios) < bar:
                missed.append(f"{name} {mode} {statistics.median(ratios):.2f} < {bar}")
            if mode == "training" and bars.memory and memory[1] / memory[0] > bars.memory:
                missed.append(f"{name} memory of a training step {memory[1] / memory[0]:.2f} > {bars.memory}")
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    (again,) = in_fresh_process("ours, activations computed again", name, "training", device)
    print(f"training with grad_checkpointing=True: {again:.0f} MB")
    return missed


def compare(pair: Pair, x: Tensor) -> None:
    """Check that the logits of both agree."""
    for network in (pair.peer, pair.ours):
        network.eval()
    with torch.inference_mode():
        difference = (pair.peer_logits(x) - pair.ours(x)).abs().max().item()
        with torch.autocast(x.device.type, torch.bfloat16):
            both = [pair.peer_logits(x).float(), pair.ours(x).float()]
    cosine = torch.cosine_similarity(*both).min().item()
    print(f"largest difference of logits: fp32 {difference:.1e}; cosine in bf16 {cosine:.5f}")
    assert difference <= MOST_DIFFERENCE and cosine >= LEAST_COSINE, "the outputs do not agree"


def time_pair(pair: Pair, x: Tensor, mode: str, arguments: argparse.Namespace) -> list[tuple[float, float, float]]:
    """Measure seconds of the peer and of ours, and the matrix rate (FLOP/s), in each round."""
    calls: list[Callable[[Tensor], Tensor]] = [pair.peer_logits, pair.ours]
    if arguments.compile:
        calls = [torch.compile(call) for call in calls]
    for network in (pair.peer, pair.ours):
        network.train("training" in mode)
    rounds = []
    for index in range(arguments.rounds + 1):  # the first warms up
        for network in (pair.peer, pair.ours):
            network.zero_grad()  # so that gradients are written, not accumulated
        peer, ours = (clock(partial(one_pass, call, x, mode), x.device) for call in calls)
        rate = matrix_rate(x.device, torch.bfloat16 if "bf16" in mode else torch.float32)
        rounds += [(peer, ours, rate)] if index else []
    for network in (pair.peer, pair.ours):
        network.zero_grad()
    return rounds


def alone(what: str, name: str, mode: str, device: str) -> list[float]:
    """Measure in a process of its own, in which no earlier pass has left memory behind."""
    return growth_of(name, int(mode), device) if what == "growth" else [memory_of_first_pass(what, name, mode, device)]


def in_fresh_process(*arguments: str) -> list[float]:
    """Run `alone` in a new process."""
    command = [sys.executable, __file__, "--alone", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: list[float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def memory_of_first_pass(who: str, name: str, mode: str, device: str) -> float:
    """Measure the peak memory of one pass minus the memory before it, in MB."""
    pair = make_pair(name, device)
    pair.ours.set_grad_checkpointing("computed again" in who)
    for network in (pair.peer, pair.ours):
        network.train("training" in mode)
    x = torch.randn(16 if device == "cuda" else 1, *pair.clip, device=device)
    return peak_of(lambda: one_pass(pair.peer_logits if who == "peer" else pair.ours, x, mode), device) / 1e6


class Largest(TorchDispatchMode):
    """Records the most numbers in any tensor that an operation creates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, Tensor) and not tensor._is_view():
                self.numbers = max(self.numbers, tensor.numel())
        return out


def growth(arguments: argparse.Namespace) -> None:
    """Print time, memory and the largest tensor against the frames of a clip, at 112 x 112."""
    table = Table("model", "frames", "forward", "memory", "largest tensor", "exponent of T: time", "memory", "largest")
    for name in GROWTH:
        before: list[float] | None = None
        for frames in FRAMES:
            measured = in_fresh_process("growth", name, str(frames), arguments.device)
            seconds, memory, numbers = measured
            pairs = zip(measured, before, strict=True) if before else ()
            exponents = [f"{math.log2(now / then):.2f}" for now, then in pairs]
            table.add_row(
                name, str(frames), f"{seconds:.3f} s", f"{memory / 1e6:.0f} MB", f"{numbers / 1e6:.2f} M", *exponents
            )
            before = measured
    Console(width=None if sys.stdout.isatty() else 140).print(table)


@torch.no_grad()
def growth_of(name: str, frames: int, device: str) -> list[float]:
    """Measure the median seconds of a forward pass, its memory in bytes, and the numbers of its largest tensor."""
    model = create_model(name, 400, num_frames=frames, image_size=112).to(device).eval()
    x = torch.randn(1, 3, frames, 112, 112, device=device)
    memory = peak_of(lambda: model(x), device)
    with Largest() as largest:
        model(x)
    return [statistics.median(clock(lambda: model(x), x.device) for _ in range(5)), memory, largest.numbers]


if __name__ == "__main__":
    sys.exit(main())
