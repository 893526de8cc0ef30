"""What follows the steps of an epoch: validation, the line of the log, and a save."""

from __future__ import annotations

import math
import time
from typing import Any

import torch

from hybridvideo.data.device import device_batches
from hybridvideo.engine.exchange import gather
from hybridvideo.engine.training.assembly import Run, save
from hybridvideo.engine.training.log import epoch_text
from hybridvideo.engine.training.objective import Figures, Objective
from hybridvideo.engine.training.run import State
from hybridvideo.engine.training.unreadable import Validated
from hybridvideo.errors import TooMuchBadData, UserError


class Pace:
    """The pace of this session's batches, including everything between them."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.before, self.start = total, done, time.perf_counter()

    def left(self, done: int) -> float:
        """Return the seconds to the end of the run, after `done` of its batches."""
        return (time.perf_counter() - self.start) / max(1, done - self.before) * (self.total - done)


def end_epoch(run: Run, pace: Pace) -> None:
    """Validate, log and save."""
    state = run.state
    run.ledger.settle(state)
    run.bad.share()
    run.warn_of_padding(at_end=True)
    try:
        figures = validated(run)
    except TooMuchBadData as error:
        save(run)  # before the epoch is closed: on resuming it is validated
        raise TooMuchBadData(f"{error}{run.resumable}") from error
    line = {**epoch_line(state), **figures}
    lr = run.timetable.rate(state.step)
    state.close_epoch()
    run.log.write(line)
    run.log.bad(state.bad)
    run.epochs.append(line)
    save(run, is_best(run.objective, figures, state))
    left = pace.left(run.timetable.batches_until(state.epoch))
    phrases = run.objective.summary(figures, state.best if state.best_step >= 0 else None) if run.val else []
    run.log.say(epoch_text(line, run.timetable.epochs, phrases, lr, left))


def validated(run: Run) -> Figures:
    """Return the figures of the validation list; none without one."""
    if run.val is None:
        return {}
    accelerator, model = run.trainee.accelerator, run.trainee.evaluated.eval()
    batches = Validated(accelerator, run.val, device_batches(run.val.batches(0), accelerator.device), run.plan.max_bad)
    with torch.no_grad(), accelerator.autocast():
        figures = run.objective.validate(
            run.val.entry(model).eval(), iter(batches), lambda value: gather(accelerator, value)
        )
    if run.objective.best is not None and run.objective.best.name not in figures:
        raise UserError(
            f"the objective's best is {run.objective.best.name!r}, which its validation does not return; it returns "
            f"{', '.join(figures) or 'nothing'}"
        )
    return {**figures, **batches.counts()}


def is_best(objective: Objective, figures: Figures, state: State) -> bool:
    """Return whether these figures are the best so far, and record them in the state if so."""
    value = figures.get(objective.best.name) if objective.best is not None else None
    if objective.best is None or value is None or not math.isfinite(value):
        return False
    if state.best_step >= 0 and not objective.best.beats(value, state.best):
        return False
    state.best, state.best_step = float(value), state.step
    return True


def epoch_line(state: State) -> dict[str, Any]:
    """Return the figures of training. `seconds` and `clips_seen` cover the complete run, the rest the epoch."""
    means = {f"train_{name}": value / state.weight_sum for name, value in state.scalar_sums.items() if state.weight_sum}
    return {
        "kind": "epoch",
        "epoch": state.epoch,
        "step": state.step,
        "train_loss": state.mean_loss,
        **means,
        "seconds": state.seconds,
        "clips_seen": state.clips_seen,
        "clips_per_second": state.weight_sum / max(1e-9, state.epoch_seconds),
        "skipped_steps": state.epoch_skipped,
        "bad_clips": len(state.bad),
    }
