"""The training loop, written out: epochs of steps, each followed by validation and a checkpoint.

A run that is stopped and resumed is the run that was not. The batch is global: any number of processes sees the same
batches and takes the same steps.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from timm.utils import ModelEmaV3

from hybridvideo.data.device import device_batches
from hybridvideo.data.loader import EpochOrder, train_loader
from hybridvideo.engine.exchange import gather, gather_numbers
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.progress import Advance, progress
from hybridvideo.engine.training.checkpoint import LoopState, Saved, load_run, save_run
from hybridvideo.engine.training.frozen import FrozenDataset, frozen_loader
from hybridvideo.engine.training.log import RunLog, epoch_text, number
from hybridvideo.engine.training.optim import learning_rate, make_optimizer
from hybridvideo.engine.training.padding import PaddedClips
from hybridvideo.engine.training.run import Buffers, Data, Parts, Plan, manifest_of
from hybridvideo.engine.training.step import Batch, Step, Window, take_step, with_facts
from hybridvideo.engine.training.unreadable import BadVideos
from hybridvideo.engine.training.validate import validate
from hybridvideo.errors import HybridVideoError, Preempted, TooMuchBadData, UserError
from hybridvideo.models.contract import AfterFrozen, VideoModel


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
    pace = Pace(total, done)
    with StopRequest() as stop, contextlib.closing(parts), progress("training", total, shown, done) as advance:
        while state.epoch < plan.loop.epochs:
            for _ in steps_of_epoch(parts, state, plan, folder, advance):
                every = plan.loop.checkpoint_every
                stopping = stop.anywhere(accelerator)
                if stopping or (every and state.step % every == 0):
                    save(parts, state, plan, folder)
                if stopping:
                    where = f"epoch {state.epoch + 1}, after step {state.step}"
                    raise Preempted(f"stopped in {where}; saved, --resume goes on")
            end_epoch(parts, state, plan, folder, pace)
    if state.skipped:
        parts.log.say(f"{state.skipped} of {state.step} steps were left out; metrics.jsonl says which and why")
    parts.log.write({"kind": "end", "step": state.step, "seconds": state.seconds, "clips_seen": state.clips_seen,
                     "skipped_steps": state.skipped})  # fmt: skip
    return state


def assemble(
    accelerator: Accelerator, model: VideoModel, data: Data, val: Data | None, plan: Plan, folder: Path, resume: bool
) -> tuple[Parts, LoopState]:
    """Model, optimizer, loaders and state, fresh or resumed."""
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
    if state.batch > order.batches:
        raise UserError(
            f"cannot resume from {last}: it is after batch {state.batch} of an epoch of {order.batches}; restore it"
        )
    val_parts = loader_of(val, accelerator, plan, shuffle=False) if val is not None else None
    parts = Parts(
        accelerator, model, trainee, prepared, average, Buffers(model), order, loader, val_parts,
        BadVideos(accelerator, manifest_of(data).rows, state.bad, plan.bad, plan.max_bad), PaddedClips(),
        RunLog(folder, accelerator, state.step, state.epoch),
    )  # fmt: skip
    return parts, state


def loader_of(data: Data, accelerator: Accelerator, plan: Plan, shuffle: bool) -> tuple[EpochOrder, Any]:
    """The order of a list for this process, and batches in it."""
    order = EpochOrder(
        len(data), plan.seed, batch_size=videos_per_batch(data, plan.loop.batch_size), shuffle=shuffle,
        rank=accelerator.process_index, world=accelerator.num_processes,
    )  # fmt: skip
    if isinstance(data, FrozenDataset):
        return order, frozen_loader(data, order)
    return order, train_loader(data, order, workers=plan.workers, deadline=plan.deadline)


def videos_per_batch(data: Data, clips: int) -> int:
    """Videos whose repeated clips make a batch. UserError where they do not."""
    repeats = 1 if isinstance(data, FrozenDataset) else data.transform.augment.repeats
    if clips % repeats:
        raise UserError(f"train.batch_size {clips} is no multiple of augment.repeats {repeats}; give one that is")
    return clips // repeats


# --- one epoch --------------------------------------------------------------------------------------------------------


def steps_of_epoch(parts: Parts, state: LoopState, plan: Plan, folder: Path, advance: Advance) -> Iterator[None]:
    """Runs the rest of the epoch; control comes back after each optimizer step."""
    loop = plan.loop
    parts.order.set_epoch(state.epoch, state.batch)
    parts.trainee.train()
    stream = Timed(device_batches(with_facts(parts.loader), parts.accelerator.device))
    start = time.perf_counter()
    while batches := list(itertools.islice(stream, loop.accumulate)):
        window = looked_over(parts, state, plan, folder, batches)
        lr = rate(parts, state, plan)
        step = take_step(parts, state, plan, window, lr)
        count_step(parts, state, plan, window, step)
        now = time.perf_counter()
        elapsed, start, wait = now - start, now, stream.waited()
        state.seconds, state.epoch_seconds = state.seconds + elapsed, state.epoch_seconds + elapsed
        advance(len(batches), f"epoch {state.epoch + 1}/{loop.epochs} loss {number(mean_loss(state))}")
        if step.finite and state.step % loop.log_every == 0:
            parts.log.write({"kind": "step", "step": state.step, "epoch": state.epoch,
                             "loss": step.loss / window.counted, "lr": lr, "grad_norm": step.norm,
                             "clips_per_second": window.counted / max(elapsed, 1e-9),
                             "wait_share": wait / max(elapsed, 1e-9)})  # fmt: skip
        del batches, window  # their memory is free before the next are read
        yield


def looked_over(parts: Parts, state: LoopState, plan: Plan, folder: Path, batches: list[Batch]) -> Window:
    """The batches of a step, once all processes know of each other's. TooMuchBadData where too many are unreadable."""
    for batch in batches:
        parts.bad.note(batch)
        parts.padded.note(batch)
    warn_of_padding(parts, state)
    rows = gather_numbers(parts.accelerator, [parts.bad.new, *(sum(batch["counts"]) for batch in batches)])
    if parts.bad.too_many(sum(row[0] for row in rows)):
        parts.bad.share()
        if parts.bad.too_many():  # a video that is listed twice was not counted twice
            stop_for_bad(parts, state, plan, folder)
    return Window(batches, state.batch, [list(clips) for clips in zip(*(row[1:] for row in rows), strict=True)])


def stop_for_bad(parts: Parts, state: LoopState, plan: Plan, folder: Path) -> None:
    """Save and raise TooMuchBadData, in all processes. The state forgets the videos: they may be there on resuming."""
    parts.log.bad(state.bad)
    why = parts.bad.verdict(parts.log.bad_path)
    state.bad.clear()
    save(parts, state, plan, folder)
    raise TooMuchBadData(why)


def warn_of_padding(parts: Parts, state: LoopState, at_end: bool = False) -> None:
    """Say once that clips are longer than their videos, and note it."""
    if text := parts.padded.warning(at_end):
        parts.log.say(text)
        parts.log.write({"kind": "warning", "step": state.step, "text": text})


def rate(parts: Parts, state: LoopState, plan: Plan) -> float:
    """The learning rate of the step to come."""
    steps_per_epoch = math.ceil(parts.order.batches / plan.loop.accumulate)
    warmup_steps = round(plan.optim.warmup_epochs * steps_per_epoch)
    return learning_rate(state.step, plan.loop.epochs * steps_per_epoch, warmup_steps, plan.optim)


def count_step(parts: Parts, state: LoopState, plan: Plan, window: Window, step: Step) -> None:
    """What the state says after a step; HybridVideoError where too many in a row were not finite."""
    state.batch += len(window.batches)
    state.step += 1
    if step.finite:
        state.skipped_in_a_row = 0
        state.clips_seen += window.counted
        state.loss_sum += step.loss
        state.weight_sum += window.counted
        return
    state.skipped += 1
    state.epoch_skipped += 1
    members = [index for batch in window.batches for index in batch["members"] if index >= 0]
    samples = [index for part in gather(parts.accelerator, members) for index in part]
    why = "loss or gradient not finite" if window.counted else "no clip could be read"
    parts.log.write({"kind": "skipped", "step": state.step, "epoch": state.epoch, "why": why, "samples": samples})
    state.skipped_in_a_row += bool(window.counted)
    if state.skipped_in_a_row > plan.loop.max_skipped_steps:
        raise HybridVideoError(
            f"loss or gradient was not finite in {state.skipped_in_a_row} steps in a row (step {state.step}); "
            "lower optim.lr or use --train.precision bf16; the last checkpoint is intact"
        )


class Timed:
    """An iterator that adds up how long its user waited for it."""

    def __init__(self, items: Iterator[Batch]) -> None:
        self.items, self.wait = items, 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.wait += time.perf_counter() - start

    def waited(self) -> float:
        """Seconds since this was last asked."""
        wait, self.wait = self.wait, 0.0
        return wait


# --- after an epoch ---------------------------------------------------------------------------------------------------


def end_epoch(parts: Parts, state: LoopState, plan: Plan, folder: Path, pace: Pace) -> None:
    """Metrics, validation, checkpoints."""
    parts.bad.share()
    warn_of_padding(parts, state, at_end=True)
    line = epoch_line(state)
    if parts.val is not None:
        try:
            line |= validate(parts, plan)
        except TooMuchBadData:
            save(parts, state, plan, folder)  # before the epoch is closed: on resuming it is validated
            raise
    lr = rate(parts, state, plan)
    state.epoch, state.batch, state.loss_sum, state.weight_sum = state.epoch + 1, 0, 0.0, 0.0
    state.epoch_seconds, state.epoch_skipped = 0.0, 0
    parts.log.write(line)
    parts.log.bad(state.bad)
    top1 = line.get("val_top1")
    best = top1 is not None and top1 > state.best
    if top1 is not None and best:
        state.best, state.best_step = top1, state.step
    save(parts, state, plan, folder, best)
    left = pace.left(state.epoch * parts.order.batches)
    parts.log.say(epoch_text(line, plan.loop.epochs, state.best, lr, left))


def epoch_line(state: LoopState) -> dict[str, Any]:
    """What training says of an epoch. `seconds` and `clips_seen` are those of the whole run, the rest of the epoch."""
    return {
        "kind": "epoch", "epoch": state.epoch, "step": state.step, "train_loss": mean_loss(state),
        "seconds": state.seconds, "clips_seen": state.clips_seen,
        "clips_per_second": state.weight_sum / max(1e-9, state.epoch_seconds),
        "skipped_steps": state.epoch_skipped, "bad_clips": len(state.bad),
    }  # fmt: skip


def mean_loss(state: LoopState) -> float | None:
    """Of the epoch so far; None where no clip counted."""
    return state.loss_sum / state.weight_sum if state.weight_sum else None


class Pace:
    """How long the batches of this session take, with all that comes between them."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.before, self.start = total, done, time.perf_counter()

    def left(self, done: int) -> float:
        """Seconds to the end of the run, after so many of its batches."""
        return (time.perf_counter() - self.start) / max(1, done - self.before) * (self.total - done)


def save(parts: Parts, state: LoopState, plan: Plan, folder: Path, best: bool = False) -> None:
    """Checkpoint `last`, and `best` if these weights are, from the first process; the others wait."""
    parts.bad.share()
    if parts.accelerator.is_main_process:
        scaler = parts.accelerator.scaler
        optimizer = {
            "optimizer": parts.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }
        raw = parts.model if parts.average is not None else None
        save_run(folder / "checkpoints", Saved(parts.evaluated, plan.card, state, optimizer, raw), best)
    parts.accelerator.wait_for_everyone()
