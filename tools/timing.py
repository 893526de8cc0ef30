"""What the benchmarks of models share: passes, clocks, the machine's matrix rate, peak memory."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hybridvideo.engine.training.classification import logits_of

PRODUCT = 2048  # rows of the square matrix product that the rate is measured with


def one_pass(call: Callable[[Tensor], Any], x: Tensor, mode: str) -> None:
    """Run a forward pass and, for `training`, a backward pass."""
    training = "training" in mode
    bf16 = torch.autocast(x.device.type, torch.bfloat16) if "bf16" in mode else nullcontext()
    with torch.inference_mode(not training), bf16:
        logits = logits_of(call(x))
    if training:
        torch.nn.functional.cross_entropy(
            logits.float(), torch.zeros(len(x), dtype=torch.long, device=x.device)
        ).backward()


def clock(call: Callable[[], Any], device: torch.device) -> float:
    """Measure the seconds that a call takes: CPU time on one thread, which a busy machine does not lengthen."""
    wait: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    now = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    wait()
    start = now()
    call()
    wait()
    return now() - start


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of a large matrix product, which nothing on this machine exceeds."""
    a = torch.randn(PRODUCT, PRODUCT, device=device, dtype=dtype)
    out = a @ a  # maps its pages
    return 2 * PRODUCT**3 / min(clock(lambda: torch.mm(a, a, out=out), device) for _ in range(5))


def peak_of(call: Callable[[], Any], device: str) -> float:
    """Measure the bytes that a call takes at most, beyond those before it."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - held
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    call()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """Return the bytes of this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def spread(ratios: list[float]) -> str:
    """Format median and quartiles."""
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def processor() -> str:
    """Return the name of the CPU."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
