"""The training loop, written out: epochs of steps, each followed by validation and a checkpoint.

Everything random in a step follows from (seed, epoch, batch, process), so a run that is stopped and resumed is the
run that was not. The batch is global: any number of processes sees the same batches and takes the same steps.

    B clips of this process's share   C T H W of a clip   K classes
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from hybridvideo.config import AugmentConfig, OptimConfig, TrainConfig
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.loader import EpochOrder, Loader, device_batches, normalise, train_loader
from hybridvideo.data.mixing import Mixing, batch_generator, soft_targets
from hybridvideo.data.sampling import hash_seed
from hybridvideo.engine.checkpoint import LoopState, Saved, load_run, save_run
from hybridvideo.engine.frozen import FrozenDataset, frozen_loader
from hybridvideo.engine.log import RunLog
from hybridvideo.engine.metrics import accuracy
from hybridvideo.engine.optim import learning_rate, make_optimizer, set_learning_rate
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.progress import Advance, progress
from hybridvideo.errors import HybridVideoError, Preempted, TooMuchBadData, UserError
from hybridvideo.models.contract import AfterFrozen, VideoModel
from hybridvideo.weights.checkpoint import ModelCard

Data = ClipDataset | FrozenDataset


@dataclass
class Plan:
    """What a run is made of; settings only."""

    card: ModelCard
    optim: OptimConfig
    loop: TrainConfig
    augment: AugmentConfig
    seed: int
    workers: int
    deadline: float
    bad: str
    max_bad: float


@dataclass
class Parts:
    """What a run works with; `trainee` is what is stepped, wrapped by Accelerate around `model`."""

    accelerator: Accelerator
    model: VideoModel
    trainee: nn.Module
    optimizer: Any
    average: ModelEmaV3 | None
    order: EpochOrder
    loader: Any
    val: tuple[EpochOrder, Any] | None
    log: RunLog

    @property
    def evaluated(self) -> VideoModel:
        """The model whose weights count."""
        return self.average.module if self.average is not None else self.model

    def close(self) -> None:
        """No decoding process outlives the loop."""
        for loader in (self.loader, self.val[1] if self.val is not None else None):
            if isinstance(loader, Loader):
                loader.close()


def train(
    accelerator: Accelerator, model: VideoModel, data: Data, val: Data | None, plan: Plan, folder: Path, resume: bool
) -> LoopState:
    """Train `model` in place and leave checkpoints, metrics and the list of bad videos in `folder`.

    Args:
        data: training clips, or the outputs of a frozen part for them; `val` likewise, or None.
        resume: go on from `folder/checkpoints/last`.

    Raises:
        Preempted: asked to stop; the run is saved and can be resumed.
        TooMuchBadData: more videos could not be read than the plan allows.
    """
    parts, state = assemble(accelerator, model, data, val, plan, folder, resume)
    total = plan.loop.epochs * parts.order.batches
    done = state.epoch * parts.order.batches + state.batch
    shown = accelerator.is_main_process
    with StopRequest() as stop, contextlib.closing(parts), progress("training", total, shown, done) as advance:
        while state.epoch < plan.loop.epochs:
            for _ in steps_of_epoch(parts, state, plan, advance):
                every = plan.loop.checkpoint_every
                stopping = stop.anywhere(accelerator)
                if stopping or (every and state.step % every == 0):
                    save(parts, state, plan, folder)
                if stopping:
                    raise Preempted(f"stopped at epoch {state.epoch}, step {state.step}; saved, --resume goes on")
            end_epoch(parts, state, plan, folder)
    parts.log.write({"kind": "end", "step": state.step, "seconds": state.seconds, "clips_seen": state.clips_seen})
    return state


def assemble(
    accelerator: Accelerator, model: VideoModel, data: Data, val: Data | None, plan: Plan, folder: Path, resume: bool
) -> tuple[Parts, LoopState]:
    """Model, optimizer, loaders and state, fresh or resumed."""
    if accelerator.num_processes > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if accelerator.device.type == "cuda" else model
    model.to(accelerator.device)
    average = None
    if plan.optim.ema:
        average = ModelEmaV3(model, decay=plan.optim.ema, use_warmup=True, foreach=False)
    evaluated: Any = average.module if average is not None else model
    last = folder / "checkpoints" / "last"
    state, saved = load_run(last, evaluated, model if average else None) if resume else (LoopState(), {})
    optimizer = make_optimizer(model, plan.optim)
    trainee = AfterFrozen(model) if isinstance(data, FrozenDataset) else model
    trainee, prepared = accelerator.prepare(trainee, optimizer)
    if saved:
        prepared.load_state_dict(saved["optimizer"])
        if accelerator.scaler is not None and saved.get("scaler"):
            accelerator.scaler.load_state_dict(saved["scaler"])
    order, loader = loader_of(data, accelerator, plan, shuffle=True)
    val_parts = loader_of(val, accelerator, plan, shuffle=False) if val is not None else None
    log = RunLog(folder, accelerator, state.step, state.epoch)
    return Parts(accelerator, model, trainee, prepared, average, order, loader, val_parts, log), state


def loader_of(data: Data, accelerator: Accelerator, plan: Plan, shuffle: bool) -> tuple[EpochOrder, Any]:
    """The order of a list for this process, and batches in it."""
    order = EpochOrder(
        len(data), plan.seed, batch_size=videos_per_batch(data, plan.loop.batch_size), shuffle=shuffle,
        rank=accelerator.process_index, world=accelerator.num_processes,
    )  # fmt: skip
    if isinstance(data, FrozenDataset):
        return order, frozen_loader(data, order)
    cuda = accelerator.device.type == "cuda"
    return order, train_loader(data, order, workers=plan.workers, deadline=plan.deadline, pin_memory=cuda)


def videos_per_batch(data: Data, clips: int) -> int:
    """Videos whose repeated clips make a batch. UserError where they do not."""
    repeats = 1 if isinstance(data, FrozenDataset) else data.transform.augment.repeats
    if clips % repeats:
        raise UserError(f"train.batch_size {clips} is no multiple of augment.repeats {repeats}; give one that is")
    return clips // repeats


# --- one epoch --------------------------------------------------------------------------------------------------------


def steps_of_epoch(parts: Parts, state: LoopState, plan: Plan, advance: Advance) -> Iterator[None]:
    """Runs the rest of the epoch; control comes back after each optimizer step."""
    loop, accelerator = plan.loop, parts.accelerator
    batches = parts.order.batches
    steps_per_epoch = math.ceil(batches / loop.accumulate)
    warmup_steps = round(plan.optim.warmup_epochs * steps_per_epoch)
    parts.order.set_epoch(state.epoch, state.batch)
    parts.trainee.train()
    wait, start = 0.0, time.perf_counter()
    for batch in (stream := Timed(device_batches(parts.loader, accelerator.device))):
        note_bad(parts, state, plan, batch)
        window = min(loop.accumulate, batches - state.batch // loop.accumulate * loop.accumulate)
        last_of_window = (state.batch + 1) % loop.accumulate == 0 or state.batch + 1 == batches
        with contextlib.nullcontext() if last_of_window else accelerator.no_sync(parts.trainee):
            loss_sum, weight_sum = backward(parts, state, plan, batch, window)
        state.batch += 1
        state.clips_seen += int(weight_sum)
        state.loss_sum += loss_sum
        state.weight_sum += weight_sum
        advance(1, f"epoch {state.epoch + 1}/{loop.epochs} loss {state.loss_sum / max(1.0, state.weight_sum):.3f}")
        if not last_of_window:
            continue
        lr = learning_rate(state.step, loop.epochs * steps_per_epoch, warmup_steps, plan.optim)
        norm = optimizer_step(parts, state, plan, lr, loss_sum, batch)
        now = time.perf_counter()
        state.seconds, elapsed = state.seconds + now - start, now - start
        wait, start = stream.wait, now
        stream.wait = 0.0
        if state.step % loop.log_every == 0:
            rate = weight_sum * window / max(elapsed, 1e-9)
            parts.log.write({"kind": "step", "step": state.step, "epoch": state.epoch,
                             "loss": loss_sum / max(1.0, weight_sum), "lr": lr, "grad_norm": norm,
                             "clips_per_second": rate, "wait_share": wait / max(elapsed, 1e-9)})  # fmt: skip
        yield


class Timed:
    """An iterator that adds up how long its user waited for it."""

    def __init__(self, items: Iterator[dict[str, Any]]) -> None:
        self.items, self.wait = items, 0.0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            start = time.perf_counter()
            item = next(self.items, None)
            self.wait += time.perf_counter() - start
            if item is None:
                return
            yield item


def backward(parts: Parts, state: LoopState, plan: Plan, batch: dict[str, Any], window: int) -> tuple[float, float]:
    """Loss and gradients of this process's share; gives the loss summed over all clips, and their number.

    The mean is over the clips of all processes that could be read, so that shares of different size, and clips
    that could not be read, count as they would in one process.
    """
    accelerator = parts.accelerator
    share = (state.epoch, state.batch, accelerator.process_index)
    torch.manual_seed(hash_seed(plan.seed, *share))  # dropout and stochastic depth
    weight_B = batch["ok"].float()
    targets_BK = soft_targets(batch["label"].clamp(min=0), parts.model.num_classes, plan.optim.label_smoothing)
    inputs = model_input(parts.model, batch)
    if plan.augment.mixup or plan.augment.cutmix:
        generator = batch_generator(plan.seed, state.epoch, state.batch)
        inputs, targets_BK = Mixing(plan.augment)(inputs, targets_BK, generator, batch["ok"])
    with accelerator.autocast():
        logits_BK = parts.trainee(inputs)
    losses_B = F.cross_entropy(logits_BK.float(), targets_BK, reduction="none") * weight_B
    sums = torch.stack([losses_B.detach().sum(), weight_B.sum()])
    loss_sum, weight_sum = accelerator.reduce(sums, "sum").tolist() if accelerator.num_processes > 1 else sums.tolist()
    scale = accelerator.num_processes / max(1.0, weight_sum) / window  # gradients are averaged over processes
    accelerator.backward(losses_B.sum() * scale)
    return loss_sum, weight_sum


def model_input(model: VideoModel, batch: dict[str, Any]) -> Tensor:
    """Normalised clips (B, C, T, H, W), or the outputs of the frozen part."""
    if "frozen" in batch:
        return batch["frozen"]
    return normalise(batch["clip"], model.normalisation, batch["contrast"])


def optimizer_step(parts: Parts, state: LoopState, plan: Plan, lr: float, loss_sum: float, batch: Any) -> float:
    """Clip and step; a step whose loss or gradient is not finite is left out and counted. Gives the norm."""
    accelerator, config = parts.accelerator, plan.optim
    limit = config.clip_norm if config.clip_norm is not None else math.inf
    norm = float(accelerator.clip_grad_norm_(parts.trainee.parameters(), limit))
    set_learning_rate(parts.optimizer.optimizer, lr)
    finite = math.isfinite(norm) and math.isfinite(loss_sum)
    if finite or accelerator.scaler is not None:  # the scaler leaves such a step out by itself, and must see it
        parts.optimizer.step()
    parts.optimizer.zero_grad()
    state.step += 1
    if finite:
        state.skipped_in_a_row = 0
        if parts.average is not None:
            parts.average.update(parts.model, step=state.step)
        return norm
    state.skipped_in_a_row += 1
    samples = batch["index"].tolist()
    parts.log.write({"kind": "skipped", "step": state.step, "epoch": state.epoch, "samples": samples})
    if state.skipped_in_a_row > plan.loop.max_skipped_steps:
        raise HybridVideoError(
            f"loss or gradient was not finite in {state.skipped_in_a_row} steps in a row (step {state.step}); "
            "lower optim.lr or use --train.precision bf16; the last checkpoint is intact"
        )
    return norm


def note_bad(parts: Parts, state: LoopState, plan: Plan, batch: dict[str, Any]) -> None:
    """Remember videos that were not read whole; with `data.bad fail`, stop at the first unreadable one."""
    for index, status, reason in zip(batch["index"].tolist(), batch["status"], batch["reason"], strict=True):
        if status in ("ok", "padding"):
            continue
        path = manifest_of(parts.loader.dataset).rows[index].path
        state.bad[path] = [status, reason]
        if plan.bad == "fail" and status != "partial":
            raise TooMuchBadData(f"{path}: {status}: {reason} (data.bad is fail; retry and skip go on without it)")


def manifest_of(data: Data) -> Any:
    """The list a data set was made from."""
    return data.clips.manifest if isinstance(data, FrozenDataset) else data.manifest


# --- after an epoch ---------------------------------------------------------------------------------------------------


def end_epoch(parts: Parts, state: LoopState, plan: Plan, folder: Path) -> None:
    """Metrics, validation, checkpoints, and the check of bad videos."""
    line: dict[str, Any] = {
        "kind": "epoch", "epoch": state.epoch, "step": state.step,
        "train_loss": state.loss_sum / max(1.0, state.weight_sum),
        "seconds": state.seconds, "clips_seen": state.clips_seen,
        "clips_per_second": state.clips_seen / max(1e-9, state.seconds),
    }  # fmt: skip
    state.bad = {path: what for part in gather(parts.accelerator, state.bad) for path, what in part.items()}
    line["bad_clips"] = len(state.bad)
    if parts.val is not None:
        line |= validate(parts, plan)
    state.epoch, state.batch, state.loss_sum, state.weight_sum = state.epoch + 1, 0, 0.0, 0.0
    parts.log.write(line)
    parts.log.bad(state.bad)
    best = line.get("val_top1", -1.0) > state.best
    if best:
        state.best, state.best_step = line["val_top1"], state.step
    save(parts, state, plan, folder, best)
    unreadable = sum(what[0] != "partial" for what in state.bad.values())
    if unreadable > plan.max_bad * parts.order.num_samples:
        raise TooMuchBadData(
            f"{unreadable} of {parts.order.num_samples} training videos cannot be read, more than data.max_bad "
            f"{plan.max_bad} allows; they are listed in {parts.log.bad_path}"
        )


@torch.no_grad()
def validate(parts: Parts, plan: Plan) -> dict[str, Any]:
    """One centre clip of each validation video; videos that cannot be read are counted, not replaced."""
    assert parts.val is not None
    order, loader = parts.val
    order.set_epoch(0)
    model = parts.evaluated.eval()
    forward = model.forward_rest if isinstance(loader.dataset, FrozenDataset) else model
    rows: list[tuple[int, int, bool, list[float]]] = []
    for batch in device_batches(loader, parts.accelerator.device):
        with parts.accelerator.autocast():
            logits_BK = forward(model_input(model, batch)).float().cpu()
        rows += zip(batch["index"].tolist(), batch["label"].tolist(), batch["ok"].tolist(), logits_BK.tolist(),
                    strict=True)  # fmt: skip
    rows = sorted(row for part in gather(parts.accelerator, rows) for row in part if row[0] >= 0)
    read = [row for row in rows if row[2]]
    scores_NK = np.array([row[3] for row in read], np.float64).reshape(-1, parts.model.num_classes)
    labels_N = np.array([row[1] for row in read], np.int64)
    figures = accuracy(scores_NK, labels_N, plan.card.labels)
    loss = float(F.cross_entropy(torch.from_numpy(scores_NK), torch.from_numpy(labels_N))) if read else math.nan
    return {"val_loss": loss, "val_top1": figures.top1, "val_top5": figures.top5,
            "val_mean_class_accuracy": figures.mean_class_accuracy,
            "val_videos": len(read), "val_failed": len(rows) - len(read)}  # fmt: skip


def gather(accelerator: Accelerator, value: Any) -> list[Any]:
    """The value of each process, in order."""
    return gather_object([value]) if accelerator.num_processes > 1 else [value]


def save(parts: Parts, state: LoopState, plan: Plan, folder: Path, best: bool = False) -> None:
    """Checkpoint `last`, and `best` if these weights are, from the first process; the others wait."""
    if parts.accelerator.is_main_process:
        scaler = parts.accelerator.scaler
        optimizer = {
            "optimizer": parts.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        raw = parts.model if parts.average is not None else None
        save_run(folder / "checkpoints", Saved(parts.evaluated, plan.card, state, optimizer, raw), best)
    parts.accelerator.wait_for_everyone()
