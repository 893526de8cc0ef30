"""One step: forward and backward through the batches of its window, then the weights, without waiting for the device.

How much counts is known, for the complete window and all processes, before the first forward pass: each clip weighs
the same, whatever batch or process it is in. Whether loss and gradient are finite is decided on the device: if not,
weights, optimizer, buffers and moving average stay as they were. The host reads the outcome later (ledger.py).
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hybridvideo.data.sampling import hash_seed
from hybridvideo.engine.training.average import MovingAverage
from hybridvideo.engine.training.buffers import Buffers
from hybridvideo.engine.training.objective import Batch, Loss, Objective, Place
from hybridvideo.engine.training.statistics import counted_statistics


@dataclass(frozen=True)
class Window:
    """The batches of one step. `first`: the number of the first one in its epoch."""

    epoch: int
    first: int
    batches: list[Batch]
    weights: list[list[int]]
    """Of each batch: what counts, by process."""
    clips: list[list[int]]
    """Of each batch: clips that could be read, by process."""

    @property
    def weight(self) -> int:
        """How much counts, over all batches and processes."""
        return sum(map(sum, self.weights))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a step, on the device. `numbers`: loss, gradient norm, 1 if it was skipped else 0, scalars.

    Loss and scalars are sums over what counts in all processes. The loss is NaN if BatchNorm's statistics became
    infinite, which it need not show itself.
    """

    numbers: Tensor
    names: tuple[str, ...]


@dataclass
class Trainee:
    """What is trained. `wrapped` is what is called: `model`, or the part of it that a feed feeds, in Accelerate's
    wrapping."""

    accelerator: Accelerator
    model: nn.Module
    wrapped: nn.Module
    optimizer: torch.optim.Optimizer
    buffers: Buffers
    average: MovingAverage | None

    @property
    def evaluated(self) -> nn.Module:
        """The model whose weights count."""
        return self.average.module if self.average is not None else self.model


def take_step(
    trainee: Trainee, objective: Objective, window: Window, *, number: int, seed: int, clip_norm: float | None
) -> Outcome | None:
    """Forward and backward through the batches in which something counts, then a step of the optimizer.

    Args:
        number: of the step, from 1.
        clip_norm: largest norm of the gradient.

    Returns:
        What came of it; None if nothing counted, and nothing was done.
    """
    accelerator = trainee.accelerator
    counting = [i for i, weights in enumerate(window.weights) if any(weights)]
    if not counting:
        return None
    trainee.buffers.keep()
    losses = []
    for i in counting:
        place = Place(seed, window.epoch, window.first + i, accelerator.process_index, window.clips[i])
        torch.manual_seed(hash_seed(seed, place.epoch, place.batch, place.rank))  # of dropout and its kin
        with (
            contextlib.nullcontext() if i == counting[-1] else accelerator.no_sync(trainee.wrapped),
            counted_statistics(trainee.model, window.batches[i]["counts"], place.clips, place.rank),
        ):
            with accelerator.autocast():
                loss = objective.loss(trainee.wrapped, window.batches[i], place)
            # A clip's part in the gradient is one over what counts; gradients are averaged over processes.
            accelerator.backward(loss.sum * (accelerator.num_processes / window.weight))
        losses.append(loss)
    names = tuple(losses[0].scalars)
    sums = summed(accelerator, losses, names, trainee.buffers)
    norm, skip = update(trainee, sums[0], clip_norm)
    trainee.buffers.restore(skip)
    if trainee.average is not None:
        trainee.average.follow(trainee.model, number, skip)
    return Outcome(torch.cat([sums[:1], torch.stack([norm, skip]), sums[1:]]), names)


def summed(accelerator: Accelerator, losses: list[Loss], names: tuple[str, ...], buffers: Buffers) -> Tensor:
    """Return sums of loss and scalars over batches and processes; NaN for the loss if a buffer is no longer finite."""
    per_batch = [torch.stack([loss.sum.detach(), *(loss.scalars[name].detach() for name in names)]) for loss in losses]
    sums = torch.stack(per_batch).float().sum(0)
    for fault in buffers.no_longer_finite():
        sums = sums + fault
    if accelerator.num_processes > 1:
        torch.distributed.all_reduce(sums)
    return sums


def update(trainee: Trainee, loss: Tensor, clip_norm: float | None) -> tuple[Tensor, Tensor]:
    """A step of the optimizer if loss and gradient are finite.

    Returns:
        Norm of the gradient before it was clipped, and 1 if the step was skipped, else 0; both on the device.
    """
    optimizer, scaler = trainee.optimizer, trainee.accelerator.scaler
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [p for p in trainee.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
    skip = (~(loss.isfinite() & norm.isfinite())).float()
    # What a fused optimizer looks at, as GradScaler gives it: it steps, counters included, only if that is 0.
    optimizer.grad_scale, optimizer.found_inf = None, skip  # type: ignore[attr-defined]
    optimizer.step()
    optimizer.zero_grad()
    if scaler is not None:
        scaler.update()
    return norm.float(), skip
