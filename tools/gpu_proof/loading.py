"""Whether the loader keeps the device fed: a training step with its clips, and with clips that are there already."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpu_proof.finding import Check, Context, Figures, Finding, judged
from gpu_proof.models import autocast
from gpu_proof.timing import synchronise
from gpu_proof.videos import ordinary

WARM_UP = 2  # batches
LEAST_SHARE = 0.9  # of the resident rate, if the loader alone is fast enough
ENOUGH = 1.2  # times the resident rate


def checks() -> list[Check]:
    """The one."""
    question = "a training step fed by the loader is as fast as with clips on the device; else, what limits it"
    return [Check("loading/training step", question, feeding, 70, ("av",))]


def feeding(context: Context) -> Finding:
    """Clips per second: resident, loader alone, and together; and the share of the time that the step waits."""
    import hybridvideo as hv

    frames, side, batch = (4, 32, 2) if context.small else (16, 224, 16)
    steps, workers = (3, 1) if context.small else (20, min(16, os.cpu_count() or 1))
    name = "hybrid_micro" if context.small else "hybrid_small"
    with torch.device(context.device):
        model = hv.create_model(name, 16, num_frames=frames, image_size=side).train()
    videos = sorted(ordinary(context).glob("*.mp4"))
    paths = [videos[i % len(videos)] for i in range(batch * (steps + WARM_UP))]
    clips = hv.dataset(paths, frames=frames, size=side, stride=2, train=True, labelled=False)
    batches = {"batch_size": batch, "workers": workers, "normalise": model, "device": context.device}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=context.cuda)
    with hv.loader(clips, **batches) as loader:  # type: ignore[arg-type]
        alone = rate(loader, batch)
        fed, waited = training_rate(model, optimizer, (item["clip"] for item in loader), batch, context)
    resident = torch.randn(batch, 3, frames, side, side, device=context.device)
    best, _ = training_rate(model, optimizer, (resident for _ in range(steps)), batch, context)
    figures: Figures = {
        "model": name, "clip": [3, frames, side, side], "batch": batch, "workers": workers, "cores": os.cpu_count(),
        "resident clips/s": best, "loader alone clips/s": alone, "fed clips/s": fed, "share waiting": waited,
    }  # fmt: skip
    held_up = alone >= ENOUGH * best and fed < LEAST_SHARE * best
    limit = "the loader" if alone < best else "the step"
    summary = f"{fed:.0f} clips/s fed, {best:.0f} resident, {alone:.0f} from {workers} workers alone; limit: {limit}"
    return judged(not held_up or context.small, f"{summary}; {waited:.0%} of the time waiting", **figures)


def rate(loader: Iterable[Mapping[str, Any]], batch: int) -> float:
    """Clips per second of the loader, when nothing is done with them."""
    start, count = 0.0, 0
    for index, item in enumerate(loader):
        if not bool(item["ok"].all()):
            raise RuntimeError(f"a video could not be read: {item['reason']}")
        if index < WARM_UP:
            start = time.perf_counter()
        else:
            count += batch
    return count / (time.perf_counter() - start)


def training_rate(
    model: nn.Module, optimizer: torch.optim.Optimizer, clips: Iterator[Tensor], batch: int, context: Context
) -> tuple[float, float]:
    """Clips per second of training in bf16, and the share of the time spent waiting for clips."""
    start = waited = 0.0
    count = 0
    labels = torch.zeros(batch, dtype=torch.long, device=context.device)
    while True:
        if count == WARM_UP:
            synchronise(context.device)
            start, waited = time.perf_counter(), 0.0
        asked = time.perf_counter()
        clip = next(clips, None)
        waited += time.perf_counter() - asked
        if clip is None:
            break
        with autocast(context.device, "bf16"):
            loss = F.cross_entropy(model(clip).float(), labels[: len(clip)])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        count += 1
    synchronise(context.device)
    seconds = time.perf_counter() - start
    return batch * (count - WARM_UP) / seconds, waited / seconds
