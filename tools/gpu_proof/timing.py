"""Time and memory of calls on a device: CUDA events and the allocator's peak, or a clock on a CPU."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gpu_proof.finding import Context, Figures

Call = Callable[[], object]
LEAST_ROUNDS, MOST_ROUNDS = 3, 15
SECONDS = 2.0  # of one set of interleaved rounds


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))

    def figures(self) -> Figures:
        """As the JSON holds it."""
        return {"median": self.median, "quartiles": [self.low, self.high]}


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(call: Call, device: torch.device) -> float:
    """How long the device works on a call, the host's part included if the device waits for it."""
    if device.type != "cuda":
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    call()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1e3


def in_turn(calls: Mapping[str, Call], context: Context, seconds: float = SECONDS) -> dict[str, list[float]]:
    """Seconds of each call in each round; every round runs all of them, after one that warms up."""
    for call in calls.values():
        seconds_of(call, context.device)
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    end = time.monotonic() + min(seconds, max(context.left() / 4, 0.0))
    for index in range(MOST_ROUNDS if not context.small else LEAST_ROUNDS):
        if index >= LEAST_ROUNDS and time.monotonic() > end:
            break
        for name, call in calls.items():
            rounds[name].append(seconds_of(call, context.device))
    return rounds


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of the rounds, one by one."""
    return Spread.of([one / other for one, other in zip(above, below, strict=True)])


def free_memory(device: torch.device) -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory(call: Call, device: torch.device) -> float | None:
    """Bytes that a call allocates at most beyond what was there; None on a CPU, which has no such counter."""
    if device.type != "cuda":
        return None
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return float(torch.cuda.max_memory_allocated(device) - held)


def matrix_rate(context: Context, dtype: torch.dtype) -> Spread:
    """FLOP/s of a large matrix product of random numbers: what nothing on this device exceeds."""
    side = 512 if context.small else 8192
    a, b = (torch.randn(side, side, device=context.device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> Tensor:
        return torch.mm(a, b, out=out)

    for _ in range(3):
        seconds_of(product, context.device)
    return Spread.of([2 * side**3 / seconds_of(product, context.device) for _ in range(9)])
