"""The training loop, written out: epochs of steps, each followed by validation and a save.

    fit         a model, for an objective, through the phases of a plan, on feeds
    windows     the batches of each step, once all processes know of each other's
    take_step   in step.py: forward, backward, update

A run that is stopped and resumed ends as the run that was not. Batches are global: any number of processes takes the
same steps on the same batches.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from hybridvideo.data.device import device_batches
from hybridvideo.engine.exchange import gather, gather_numbers
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.training.average import MovingAverage
from hybridvideo.engine.training.buffers import Buffers
from hybridvideo.engine.training.checkpoint import Keeper, Saved
from hybridvideo.engine.training.drops import Drops
from hybridvideo.engine.training.feeds import Feed, Feeds, Timed
from hybridvideo.engine.training.ledger import Entry, Ledger
from hybridvideo.engine.training.log import Log, epoch_text, number
from hybridvideo.engine.training.objective import Batch, Figures, Objective
from hybridvideo.engine.training.optim import LayerRates, load_optimizer, make_optimizer, set_learning_rate
from hybridvideo.engine.training.padding import PaddedClips
from hybridvideo.engine.training.phases import Timetable
from hybridvideo.engine.training.run import Plan, State
from hybridvideo.engine.training.step import Trainee, Window, take_step
from hybridvideo.engine.training.unreadable import BadVideos, Validated
from hybridvideo.errors import Preempted, TooMuchBadData, UserError


@dataclass(frozen=True)
class Fitted:
    """A finished run. `epochs`: the figures of each epoch that was run here, as in metrics.jsonl."""

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
                    save(run)
                    saved = "; saved, --resume goes on" if run.keeper is not None else ""
                    raise Preempted(f"stopped in epoch {state.epoch + 1}, after step {state.step}{saved}")
                lr = timetable.rate(state.step)
                set_learning_rate(run.trainee.optimizer, lr, phase)
                run.drops.scale(timetable.drop(state.step))
                state.batch, state.step = state.batch + len(window.batches), state.step + 1
                outcome = take_step(
                    run.trainee, objective, window, number=state.step, seed=plan.seed, clip_norm=plan.optim.clip_norm
                )
                members = [index for batch in window.batches for index in batch["members"]]
                run.ledger.add(Entry(state.step, state.epoch, window.weight, lr, members, outcome), state)
                advance(
                    len(window.batches), f"epoch {state.epoch + 1}/{timetable.epochs} loss {number(state.mean_loss)}"
                )
                if plan.loop.checkpoint_every and state.step % plan.loop.checkpoint_every == 0:
                    save(run)
            end_epoch(run, pace)
    if state.skipped:
        run.log.say(f"{state.skipped} of {state.step} steps were skipped; metrics.jsonl lists them with the reason")
    totals = {"seconds": state.seconds, "clips_seen": state.clips_seen, "skipped_steps": state.skipped}
    run.log.write({"kind": "end", "step": state.step, **totals})
    return Fitted(run.trainee.evaluated, state, run.epochs)


# --- what a run works with --------------------------------------------------------------------------------------------


@dataclass
class Run:
    """All that `fit` works with."""

    plan: Plan
    objective: Objective
    feeds: Feeds
    keeper: Keeper | None
    log: Log
    stop: StopRequest | None
    state: State
    timetable: Timetable
    rates: LayerRates
    drops: Drops
    trainee: Trainee
    bad: BadVideos
    ledger: Ledger
    feed: Feed
    val: Feed | None
    phase: int
    padded: PaddedClips = field(default_factory=PaddedClips)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, phase: int) -> int:
        """Make ready for an epoch of a phase."""
        if phase != self.phase:
            self.feed.close()
            self.feed, self.phase = self.feeds.training(self.plan.phases[phase]), phase
            self.wrap()
        self.trainee.wrapped.train()
        self.rates.rest(self.trainee.model)
        return phase

    def wrap(self) -> None:
        """Wrap what the feed feeds, with the parameters that train in this phase."""
        trainee = self.trainee
        self.rates.enter(self.phase)
        if trainee.wrapped is not trainee.model and trainee.accelerator.num_processes > 1:
            trainee.wrapped = trainee.model
            trainee.accelerator.free_memory()  # an earlier wrapping would go on exchanging the same gradients
        trainee.wrapped = trainee.accelerator.prepare(self.feed.entry(trainee.model))
        trainee.buffers = Buffers(trainee.model)  # preparing for several processes gives the model new ones

    def close(self) -> None:
        """End all decoding processes, and leave the model as it was but for its weights."""
        self.feed.close()
        if self.val is not None:
            self.val.close()
        self.rates.leave()
        self.drops.scale(1.0)


def default_accelerator(model: nn.Module, plan: Plan) -> Accelerator:
    """One for the model's device."""
    precision = "no" if plan.loop.precision == "fp32" else plan.loop.precision
    cpu = next(model.parameters()).device.type == "cpu"
    try:
        return Accelerator(cpu=cpu, mixed_precision=precision)
    except ValueError:  # Accelerate remembers those of an earlier fit in this process
        AcceleratorState._reset_state(reset_partial_state=PartialState().num_processes == 1)
        return Accelerator(cpu=cpu, mixed_precision=precision)


def assemble(
    accelerator: Accelerator,
    model: nn.Module,
    plan: Plan,
    objective: Objective,
    feeds: Feeds,
    keeper: Keeper | None,
    log: Log,
    stop: StopRequest | None,
) -> Run:
    """Model, optimizer, feeds and state, fresh or resumed."""
    timetable = Timetable(plan.phases, tuple(map(feeds.batches, plan.phases)), plan.loop.accumulate, plan.optim)
    rates = LayerRates(model, plan.optim, plan.phases)
    model.to(accelerator.device)
    average = MovingAverage(model, plan.optim.ema) if plan.optim.ema else None
    evaluated = average.module if average is not None else model
    loaded = keeper.load(evaluated, model if average is not None else None) if keeper is not None else None
    state, memory = loaded or (State(), {})
    optimizer = make_optimizer(model, plan.optim, rates)
    phase = timetable.phase_of(state.epoch)
    if keeper is not None and loaded:
        if state.batch > timetable.batches[phase]:
            raise keeper.refuse(f"it is after batch {state.batch} of an epoch of {timetable.batches[phase]}")
        try:
            recall(memory, optimizer, accelerator, objective)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise keeper.refuse(f"what the optimizer remembers does not fit: {error}") from error
    feed = feeds.training(plan.phases[phase])
    run = Run(
        plan,
        objective,
        feeds,
        keeper,
        log,
        stop,
        state,
        timetable,
        rates,
        Drops(model),
        Trainee(accelerator, model, model, optimizer, Buffers(model), average),
        BadVideos(accelerator, feed.rows, state.bad, plan.bad, plan.max_bad),
        Ledger(accelerator, plan.loop, log),
        feed,
        feeds.validation(),
        phase,
    )
    run.wrap()
    return run


def recall(
    memory: dict[str, Any], optimizer: torch.optim.Optimizer, accelerator: Accelerator, objective: Objective
) -> None:
    """Restore what was saved besides the weights."""
    load_optimizer(optimizer, memory["optimizer"])
    if accelerator.scaler is not None and memory.get("scaler"):
        accelerator.scaler.load_state_dict(memory["scaler"])
    objective.load_state(memory.get("objective", {}))


# --- one epoch --------------------------------------------------------------------------------------------------------


def windows(run: Run) -> Iterator[Window | None]:
    """The windows of the rest of the epoch; None as soon as any process was asked to stop."""
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


def agreed(run: Run, batches: list[Batch]) -> Window | None:
    """The batches of a step, once all processes know of each other's: one exchange, which the device takes no part in.

    None if any process was asked to stop. Raises TooMuchBadData if too many videos are unreadable.
    """
    for batch in batches:
        run.bad.note(batch)
        run.padded.note(batch)
    warn_of_padding(run)
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
    raise TooMuchBadData(why + resumable(run))


def resumable(run: Run) -> str:
    """How the run continues, if it is saved."""
    return ", and continue with --resume; the run is saved" if run.keeper is not None else ""


def warn_of_padding(run: Run, at_end: bool = False) -> None:
    """Warn once of clips that are longer than their videos."""
    if text := run.padded.warning(at_end):
        run.log.say(text)
        run.log.write({"kind": "warning", "step": run.state.step, "text": text})


# --- after an epoch ---------------------------------------------------------------------------------------------------


class Pace:
    """How long the batches of this session take, with all that comes between them."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.before, self.start = total, done, time.perf_counter()

    def left(self, done: int) -> float:
        """Seconds to the end of the run, after so many of its batches."""
        return (time.perf_counter() - self.start) / max(1, done - self.before) * (self.total - done)


def end_epoch(run: Run, pace: Pace) -> None:
    """Validate, log and save."""
    state = run.state
    run.ledger.settle(state)
    run.bad.share()
    warn_of_padding(run, at_end=True)
    try:
        figures = validated(run)
    except TooMuchBadData as error:
        save(run)  # before the epoch is closed: on resuming it is validated
        raise TooMuchBadData(f"{error}{resumable(run)}") from error
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
    """Figures of the validation list; none without one."""
    if run.val is None:
        return {}
    accelerator, model = run.trainee.accelerator, run.trainee.evaluated.eval()
    batches = Validated(accelerator, run.val, device_batches(run.val.batches(0), accelerator.device), run.plan.max_bad)
    with torch.no_grad(), accelerator.autocast():
        figures = run.objective.validate(
            run.val.entry(model).eval(), iter(batches), lambda value: gather(accelerator, value)
        )
    best = run.objective.best
    if best is not None and best.name not in figures:
        names = ", ".join(figures) or "nothing"
        raise UserError(f"the objective's best is {best.name!r}, which its validation does not return; only {names}")
    return {**figures, **batches.counts()}


def is_best(objective: Objective, figures: Figures, state: State) -> bool:
    """Whether these figures are the best so far, which the state then remembers."""
    value = figures.get(objective.best.name) if objective.best is not None else None
    if objective.best is None or value is None or not math.isfinite(value):
        return False
    if state.best_step >= 0 and not objective.best.beats(value, state.best):
        return False
    state.best, state.best_step = float(value), state.step
    return True


def epoch_line(state: State) -> dict[str, Any]:
    """Figures of training. `seconds` and `clips_seen` are those of the complete run, the rest those of the epoch."""
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


def save(run: Run, best: bool = False) -> None:
    """Save the run, and as its best if it is, from the first process; the others wait."""
    run.ledger.settle(run.state)
    run.bad.share()
    trainee = run.trainee
    if run.keeper is not None and trainee.accelerator.is_main_process:
        scaler = trainee.accelerator.scaler
        memory = {
            "optimizer": trainee.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "objective": run.objective.state(),
        }
        raw = trainee.model if trainee.average is not None else None
        run.keeper.save(Saved(trainee.evaluated, raw, run.state, memory), best)
    trainee.accelerator.wait_for_everyone()
