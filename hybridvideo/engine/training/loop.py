"""The training loop, written out: epochs of steps, each followed by validation and a save.

    fit         a model, for an objective, through the phases of a plan, on feeds
    windows     the batches of each step, once agreed between all processes
    train_on    a step and what is written of it; `take_step` in step.py is forward, backward, update
    end_epoch   in epoch_end.py: validation, the log, a save

A run that is stopped and resumed ends exactly like one that was not. Batches are global: any number of processes
takes the same steps on the same batches.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from accelerate import Accelerator
from torch import nn

from hybridvideo.data.device import device_batches
from hybridvideo.engine.exchange import gather_numbers
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.training.assembly import Run, assemble, default_accelerator, save
from hybridvideo.engine.training.checkpoint import Keeper
from hybridvideo.engine.training.epoch_end import Pace, end_epoch
from hybridvideo.engine.training.feeds import Feeds, Timed
from hybridvideo.engine.training.ledger import Entry
from hybridvideo.engine.training.log import Log, number
from hybridvideo.engine.training.objective import Batch, Objective
from hybridvideo.engine.training.optim import set_learning_rate
from hybridvideo.engine.training.run import Plan, State
from hybridvideo.engine.training.step import Window, take_step
from hybridvideo.errors import Preempted, TooMuchBadData


@dataclass(frozen=True)
class Fitted:
    """A finished run. `epochs`: the figures of each epoch run in this call, as in metrics.jsonl."""

    model: nn.Module
    """The trained weights: the moving average, if there is one."""
    state: State
    epochs: list[dict[str, Any]]


def fit(
    model: nn.Module,
    plan: Plan,
    objective: Objective,
    feeds: Feeds,
    *,
    accelerator: Accelerator | None = None,
    keeper: Keeper | None = None,
    log: Log | None = None,
    stop: StopRequest | None = None,
) -> Fitted:
    """Train `model` in place.

    Args:
        model: `layer_groups()`, if it has it, is what phases name; `no_weight_decay()`, if it has it, names parameters.
        accelerator: default: one process, on the model's device, at the precision of the plan.
        keeper: what to save to and resume from; default: nothing is kept.
        log: what to report to; default: nobody.
        stop: what to ask between steps whether to stop; default: nothing does.

    Raises:
        Preempted: asked to stop; the run is saved and can be resumed.
        TooMuchBadData: more videos could not be read than the plan allows.
        HybridVideoError: too many steps in a row were not finite.
        UserError: the phases do not fit the model or the data, what is kept does not fit the run, or the objective's
            best is not one of its figures.
    """
    accelerator = accelerator or default_accelerator(model, plan)
    run = assemble(accelerator, model, plan, objective, feeds, keeper, log or Log(), stop)
    state, timetable = run.state, run.timetable
    done, total = timetable.batches_until(state.epoch, state.batch), timetable.batches_until(timetable.epochs)
    run.log.begin(state.step, state.epoch)
    pace = Pace(total, done)
    with contextlib.closing(run), run.log.progress(total, done) as advance:
        while state.epoch < timetable.epochs:
            phase = run.enter(timetable.phase_of(state.epoch))
            for window in windows(run):
                if window is None:
                    preempt(run)
                train_on(run, window, phase)
                loss = f"loss {number(state.mean_loss)}"
                advance(len(window.batches), f"epoch {state.epoch + 1}/{timetable.epochs} {loss}")
                if plan.loop.checkpoint_every and state.step % plan.loop.checkpoint_every == 0:
                    save(run)
            end_epoch(run, pace)
    if state.skipped:
        run.log.say(f"{state.skipped} of {state.step} steps were skipped; metrics.jsonl lists them with the reason")
    totals = {"seconds": state.seconds, "clips_seen": state.clips_seen, "skipped_steps": state.skipped}
    run.log.write({"kind": "end", "step": state.step, **totals})
    return Fitted(run.trainee.evaluated, state, run.epochs)


# --- one epoch --------------------------------------------------------------------------------------------------------


def windows(run: Run) -> Iterator[Window | None]:
    """Yield the windows of the rest of the epoch; None as soon as any process was asked to stop."""
    state, accelerator = run.state, run.trainee.accelerator
    stream = Timed(device_batches(run.feed.batches(state.epoch, state.batch), accelerator.device))
    run.ledger.start(stream.waited)
    while batches := list(itertools.islice(stream, run.plan.loop.accumulate)):
        window = agreed(run, batches)
        del batches
        yield window
        del window  # its memory is free before the next batches are read
    if run.stop is not None and run.stop.anywhere(accelerator):
        yield None


def train_on(run: Run, window: Window, phase: int) -> None:
    """One step at the rates of its place in the timetable, and its line in the ledger."""
    state, timetable = run.state, run.timetable
    lr = timetable.rate(state.step)
    set_learning_rate(run.trainee.optimizer, lr, phase)
    run.drops.scale(timetable.drop(state.step))
    state.batch, state.step = state.batch + len(window.batches), state.step + 1
    seed, clip_norm = run.plan.seed, run.plan.optim.clip_norm
    outcome = take_step(run.trainee, run.objective, window, number=state.step, seed=seed, clip_norm=clip_norm)
    members = [index for batch in window.batches for index in batch["members"]]
    run.ledger.add(Entry(state.step, state.epoch, window.weight, lr, members, outcome), state)


def preempt(run: Run) -> NoReturn:
    """Save and raise Preempted, in all processes."""
    save(run)
    saved = "; saved; continue with --resume" if run.keeper is not None else ""
    raise Preempted(f"stopped in epoch {run.state.epoch + 1}, after step {run.state.step}{saved}")


def agreed(run: Run, batches: list[Batch]) -> Window | None:
    """The batches of a step, once agreed between all processes: one exchange, which the device takes no part in.

    None if any process was asked to stop. Raises TooMuchBadData if too many videos are unreadable.
    """
    for batch in batches:
        run.bad.note(batch)
        run.padded.note(batch)
    run.warn_of_padding()
    stopping = run.stop is not None and run.stop.requested
    facts = [number for batch in batches for number in (run.objective.weight(batch), sum(batch["counts"]))]
    rows = gather_numbers(run.trainee.accelerator, [int(stopping), run.bad.new, *facts])
    if run.bad.too_many(sum(row[1] for row in rows)):
        run.bad.share()
        if run.bad.too_many():  # a video that is listed twice was not counted twice
            stop_for_bad(run)
    if any(row[0] for row in rows):
        return None
    columns = [list(column) for column in zip(*(row[2:] for row in rows), strict=True)]
    return Window(run.state.epoch, run.state.batch, batches, columns[::2], columns[1::2])


def stop_for_bad(run: Run) -> None:
    """Save and raise TooMuchBadData, in all processes. The state forgets the videos: resuming tries them again."""
    why = run.bad.verdict(run.log.bad(run.state.bad))
    run.state.bad.clear()
    save(run)
    raise TooMuchBadData(why + run.resumable)
