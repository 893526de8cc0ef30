"""Batches on their way to the device: pinned, copied ahead of their use, and normalised there.

B clips of a batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch

from hybridvideo.config.data import Normalisation

B = TypeVar("B", bound=Mapping[str, Any])  # a batch: tensors, lists of pictures, and anything else by name


def normalise(
    clip_BCTHW: torch.Tensor, normalisation: Normalisation, contrast_B: torch.Tensor | None = None
) -> torch.Tensor:
    """uint8 (B, C, T, H, W) -> float32 (x / 255 - mean) / std [* contrast], a new tensor on the clip's device."""
    scale, offset = constants(normalisation, clip_BCTHW.device)
    # on a CPU twice as fast as addcmul on uint8
    normalised = clip_BCTHW.to(torch.float32, copy=True).mul_(scale).add_(offset)
    return normalised if contrast_B is None else normalised.mul_(contrast_B.view(-1, 1, 1, 1, 1))


@lru_cache(maxsize=64)
def constants(normalisation: Normalisation, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and offset (C, 1, 1, 1) of the statistics, copied to each device once."""
    with torch.inference_mode(False):  # they outlive the evaluation that may have asked first, and serve training too
        mean = torch.tensor(normalisation.mean, dtype=torch.float64)
        std = torch.tensor(normalisation.std, dtype=torch.float64)
        scale, offset = ((x.float().view(-1, 1, 1, 1).to(device)) for x in (1.0 / (255.0 * std), -mean / std))
    return scale, offset


def device_batches(loader: Iterable[B], device: torch.device) -> Iterator[B]:
    """The batches with their tensors on `device`; on CUDA the next one is pinned and copied ahead of its use."""
    if device.type == "cuda":
        yield from _copied_ahead(loader, device)
    else:
        for batch in loader:
            yield _on_tensors(lambda tensor: tensor.to(device), batch)


def _copied_ahead(loader: Iterable[B], device: torch.device) -> Iterator[B]:
    """One batch ahead, on a stream of its own, so that copying overlaps with computing."""
    stream = torch.cuda.Stream(device)
    ahead: tuple[B, torch.cuda.Event] | None = None
    for batch in loader:
        with torch.cuda.stream(stream):
            copied = _copied(batch, stream.device), stream.record_event()
        if ahead is not None:
            yield _arrived(*ahead, stream.device)
        ahead = copied
    if ahead is not None:
        yield _arrived(*ahead, stream.device)


def _copied(batch: B, device: torch.device) -> B:
    """Start copying the batch to a GPU. From pageable memory the copy would block, and overlap with nothing."""
    return _on_tensors(lambda tensor: tensor.pin_memory().to(device, non_blocking=True), batch)


def _arrived(batch: B, copied: torch.cuda.Event, device: torch.device) -> B:
    """The batch, once the stream that computes on its device may read it; the current device may be another one."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(computing)  # keeps its memory from being reused while computing still reads it
        return tensor

    return _on_tensors(keep, batch)


def _on_tensors(change: Callable[[torch.Tensor], torch.Tensor], batch: B) -> B:
    """The batch with its tensors changed, and the pictures in its lists; small tensors in lists stay as they are."""

    def changed(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor) and value[0].dtype == torch.uint8:
            return [change(picture) for picture in value]
        return change(value) if isinstance(value, torch.Tensor) else value

    return cast(B, {name: changed(value) for name, value in batch.items()})
