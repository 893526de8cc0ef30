"""Run all views of each video through a model, one result per video: the core of scoring and of both bulk jobs.

V views of the videos of a batch   C T H W of a view   K classes or channels
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hybridvideo.config.data import Normalisation
from hybridvideo.config.jobs import Compute, Precision
from hybridvideo.data.device import device_batches, normalise
from hybridvideo.data.views import views_of

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class VideoResult:
    """The result of one video; `outputs_VK` has no rows if nothing could be read."""

    index: int
    label: int
    status: str
    reason: str
    outputs_VK: Tensor
    start: tuple[float, ...]
    end: tuple[float, ...]


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[Any]:
    """Return a context of mixed precision; it does nothing for fp32."""
    return contextlib.nullcontext() if precision == "fp32" else torch.autocast(device.type, DTYPES[precision])


def run_views(
    loader: Iterable[Mapping[str, Any]],
    compute: Callable[[Tensor], Tensor],
    *,
    normalisation: Normalisation,
    device: torch.device,
    batch_size: int,
    precision: Precision = Compute.precision,
) -> Iterator[VideoResult]:
    """Yield one result per video of `view_loader`, in its order.

    `compute` maps normalised views (N, C, T, H, W) to (N, K), and sees at most `batch_size` of them at once.
    """
    for batch in device_batches(loader, device):
        with torch.inference_mode(), autocast(device, precision):
            parts = [compute(normalise(part_NCTHW, normalisation)) for part_NCTHW in stacked(batch, batch_size)]
        outputs_VK = torch.cat(parts).float().cpu() if parts else torch.zeros(0, 0)
        yield from by_video(batch, outputs_VK)


def stacked(batch: Mapping[str, Any], most: int) -> Iterator[Tensor]:
    """Yield the batch's views, at most `most` at once, uint8 (N, C, T, H, W); channels are last in memory."""
    views = views_of(batch)
    while part := list(itertools.islice(views, most)):
        yield torch.stack(part).permute(0, 4, 1, 2, 3)


def by_video(batch: Mapping[str, Any], outputs_VK: Tensor) -> Iterator[VideoResult]:
    """Yield the outputs of a batch, video by video."""
    for i, part_VK in enumerate(outputs_VK.split(batch["counts"].tolist()) if len(outputs_VK) else []):
        yield result(batch, i, part_VK)
    if not len(outputs_VK):  # no video of the batch could be read
        for i in range(len(batch["counts"])):
            yield result(batch, i, outputs_VK)


def result(batch: Mapping[str, Any], i: int, outputs_VK: Tensor) -> VideoResult:
    """Return the result of video `i` of a batch."""
    return VideoResult(
        index=int(batch["index"][i]),
        label=int(batch["label"][i]),
        status=batch["status"][i],
        reason=batch["reason"][i],
        outputs_VK=outputs_VK,
        start=batch["start"][i],
        end=batch["end"][i],
    )


def averaged(logits_VK: Tensor, average: Literal["softmax", "logits"]) -> Tensor:
    """Return the probabilities (K,) of a video: the mean of its views' softmax, or the softmax of their mean logits."""
    if average == "softmax":
        return logits_VK.softmax(-1).mean(0)
    return logits_VK.mean(0).softmax(-1)
