"""One optimizer step: the batches of its window, forward and back through each, then the weights.

Everything random in a step follows from (seed, epoch, batch, process). How many clips count is known, of the whole
window and of all processes, before the first forward pass: each clip weighs the same, whatever batch or share it is in.
A step left out, for it is not finite or no clip could be read, leaves everything as it was.

    B clips of this process's share   C T H W of a clip   K classes
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.data.device import normalise
from hybridvideo.data.mixing import Mixing, batch_generator, soft_targets
from hybridvideo.data.sampling import hash_seed
from hybridvideo.engine.exchange import permuted
from hybridvideo.engine.training.checkpoint import LoopState
from hybridvideo.engine.training.optim import set_learning_rate
from hybridvideo.engine.training.run import Parts, Plan
from hybridvideo.engine.training.statistics import counted_statistics
from hybridvideo.models.contract import VideoModel

Batch = dict[str, Any]


@dataclass(frozen=True)
class Window:
    """The batches of one step. `first`: the number of the first one in the epoch."""

    batches: list[Batch]
    first: int
    clips: list[list[int]]
    """Of each batch: how many clips count, by process."""

    @property
    def counted(self) -> int:
        """Clips that count, of all batches and processes."""
        return sum(map(sum, self.clips))


@dataclass(frozen=True)
class Step:
    """What came of a step. `loss`: summed over its clips; `norm`: of the gradient.

    NaN where no clip counted; so is the loss where BatchNorm's statistics became infinite, which it need not show.
    """

    loss: float
    norm: float

    @property
    def finite(self) -> bool:
        """Whether it was taken; else everything is as it was."""
        return math.isfinite(self.loss) and math.isfinite(self.norm)


def with_facts(batches: Iterable[Mapping[str, Any]]) -> Iterator[Batch]:
    """Batches, with what the loop asks of their clips in lists: once they are on a device, it would have to wait."""
    for batch in batches:
        yield {**batch, "counts": batch["ok"].tolist(), "members": batch["index"].tolist()}


def take_step(parts: Parts, state: LoopState, plan: Plan, window: Window, lr: float) -> Step:
    """Forward and back through the batches in which a clip counts, and a step of the optimizer, where all is finite."""
    counting = [i for i, clips in enumerate(window.clips) if any(clips)]
    if not counting:
        return Step(math.nan, math.nan)
    parts.buffers.keep()
    losses = []
    for i in counting:
        last = i == counting[-1]
        with contextlib.nullcontext() if last else parts.accelerator.no_sync(parts.trainee):
            losses.append(backward(parts, state, plan, window, i))
    step = optimizer_step(parts, plan, lr, summed_loss(parts, losses + parts.buffers.spoilt()))
    if not step.finite:
        parts.buffers.restore()
    elif parts.average is not None:
        parts.average.update(parts.model, step=state.step + 1)
    return step


def backward(parts: Parts, state: LoopState, plan: Plan, window: Window, i: int) -> Tensor:
    """Gradients of this process's share of a batch; gives the sum of its losses.

    A clip's part in the gradient is one over all clips of the window: shares of different size, and clips that could
    not be read, count as they would in one batch of one process.
    """
    accelerator, batch = parts.accelerator, window.batches[i]
    torch.manual_seed(hash_seed(plan.seed, state.epoch, window.first + i, accelerator.process_index))  # dropout and kin
    inputs, targets_BK = inputs_and_targets(parts, state, plan, window, i)
    scale = accelerator.num_processes / window.counted  # gradients are averaged over processes
    with counted_statistics(parts.model, batch["counts"], window.clips[i], accelerator.process_index):
        with accelerator.autocast():
            logits_BK = parts.trainee(inputs)
        losses_B = F.cross_entropy(logits_BK.float(), targets_BK, reduction="none") * batch["ok"].float()
        accelerator.backward(losses_B.sum() * scale)
    return losses_B.detach().sum()


def inputs_and_targets(parts: Parts, state: LoopState, plan: Plan, window: Window, i: int) -> tuple[Tensor, Tensor]:
    """What the model is to see and to say, mixed where that is asked for, with clips of any process."""
    batch, clips, rank = window.batches[i], window.clips[i], parts.accelerator.process_index
    inputs, targets_BK = model_input(parts.model, batch), targets_of(parts.model, plan, batch["label"])
    if not (plan.augment.mixup or plan.augment.cutmix):
        return inputs, targets_BK

    def of_all_processes(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        order = torch.randperm(sum(clips), generator=generator).tolist()
        own = [place for place, counts in enumerate(batch["counts"]) if counts]
        others = {name: permuted(batch[name], own, order, clips, rank) for name in ("clip", "contrast", "label")}
        return model_input(parts.model, others), targets_of(parts.model, plan, others["label"])

    generator = batch_generator(plan.seed, state.epoch, window.first + i)
    partners = of_all_processes if len(clips) > 1 else None
    return Mixing(plan.augment)(inputs, targets_BK, generator, torch.tensor(batch["counts"]), partners)


def targets_of(model: VideoModel, plan: Plan, label_B: Tensor) -> Tensor:
    """Shares of classes (B, K); those of a clip without a label do not matter."""
    return soft_targets(label_B.clamp(min=0), model.num_classes, plan.optim.label_smoothing)


def model_input(model: VideoModel, batch: Mapping[str, Any]) -> Tensor:
    """Normalised clips (B, C, T, H, W), or the outputs of the frozen part."""
    if "frozen" in batch:
        frozen: Tensor = batch["frozen"]
        return frozen
    return normalise(batch["clip"], model.normalisation, batch["contrast"])


def summed_loss(parts: Parts, losses: list[Tensor]) -> float:
    """The sum of these over all processes."""
    sums = torch.stack(losses)
    if parts.accelerator.num_processes > 1:
        sums = parts.accelerator.reduce(sums, "sum")
    return float(sum(sums.tolist()))


def optimizer_step(parts: Parts, plan: Plan, lr: float, loss: float) -> Step:
    """Clip and step, unless loss or gradient is not finite: then only the gradient scaler hears of it."""
    accelerator, config = parts.accelerator, plan.optim
    limit = config.clip_norm if config.clip_norm is not None else math.inf
    step = Step(loss, float(accelerator.clip_grad_norm_(parts.trainee.parameters(), limit)))
    if step.finite:
        set_learning_rate(parts.optimizer.optimizer, lr)
        parts.optimizer.step()
    elif accelerator.scaler is not None:
        accelerator.scaler.update()  # it has looked for what is not finite as it unscaled the gradients for clipping
    parts.optimizer.zero_grad()
    return step
