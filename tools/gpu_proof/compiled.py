"""torch.compile: the same logits as without, and the time of both."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import torch

from gpu_proof.finding import Check, Context, Finding, judged
from gpu_proof.models import autocast, exact_products
from gpu_proof.timing import Spread, in_turn, ratios

MOST_ERROR = 1e-4  # of the largest logit, in fp32 without TF32: the compiler orders sums differently
# Few blocks of each kind: compiling takes as long for every one of them.
SUBJECTS: dict[str, dict[str, Any]] = {
    "hybrid_tiny": {},
    "timesformer_base": {"depth": 2},
    "video_swin_tiny": {"depths": (2, 2), "heads": (3, 6)},
}


def checks() -> list[Check]:
    """One for each network."""
    question = "a compiled model gives the same logits, and how long it takes compared with the uncompiled one"
    return [
        Check(f"compile/{name}", question, partial(compiled, name, changes), 90) for name, changes in SUBJECTS.items()
    ]


def compiled(name: str, changes: dict[str, Any], context: Context) -> Finding:
    """Logits in fp32, then both timed in bf16. On a CPU only the graph is taken, without generating code."""
    import hybridvideo as hv

    size = {"num_frames": 4, "image_size": 32} if context.small else {}
    with torch.device(context.device):
        model = hv.create_model(name, 16, **size, **changes).eval()
    backend = "aot_eager" if context.small else "inductor"
    fast = torch.compile(model, backend=backend)
    x_BCTHW = torch.randn(1 if context.small else 4, *model.input_shape, device=context.device)
    with torch.no_grad(), exact_products():
        expected = model(x_BCTHW)
        start = time.monotonic()
        got = fast(x_BCTHW)
        seconds = time.monotonic() - start
        error = ((got - expected).abs().max() / expected.abs().max()).item()
        with autocast(context.device, "bf16"):
            rounds = in_turn({"eager": partial(model, x_BCTHW), "compiled": partial(fast, x_BCTHW)}, context, 2.0)
    speed = ratios(rounds["eager"], rounds["compiled"])
    return judged(
        error <= MOST_ERROR,
        f"error {error:.1e}; {speed.median:.2f} times as fast, {seconds:.0f} s to compile with {backend}",
        error=error,
        backend=backend,
        compile_seconds=seconds,
        times_as_fast=speed.figures(),
        milliseconds={key: 1e3 * Spread.of(each).median for key, each in rounds.items()},
    )
