"""What `fit` works with: put together fresh or from a checkpoint, and saved into one.

assemble    model, optimizer, feeds and state of a run
recall      restores what was saved besides the weights
save        the counterpart of both
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from torch import nn

from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.training.average import MovingAverage
from hybridvideo.engine.training.buffers import Buffers
from hybridvideo.engine.training.checkpoint import Keeper, Saved
from hybridvideo.engine.training.drops import Drops
from hybridvideo.engine.training.feeds import Feed, Feeds
from hybridvideo.engine.training.ledger import Ledger
from hybridvideo.engine.training.log import Log
from hybridvideo.engine.training.objective import Objective
from hybridvideo.engine.training.optim import LayerRates, load_optimizer, make_optimizer
from hybridvideo.engine.training.padding import PaddedClips
from hybridvideo.engine.training.phases import Timetable
from hybridvideo.engine.training.run import Plan, State
from hybridvideo.engine.training.step import Trainee
from hybridvideo.engine.training.unreadable import BadVideos


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
        """Prepare for an epoch of a phase."""
        if phase != self.phase:
            self.feed.close()
            self.feed, self.phase = self.feeds.training(self.plan.phases[phase]), phase
            self.wrap()
        self.trainee.wrapped.train()
        self.rates.rest(self.trainee.model)
        return phase

    def wrap(self) -> None:
        """Wrap the module that the feed feeds, with the parameters that train in this phase."""
        trainee = self.trainee
        self.rates.enter(self.phase)
        if trainee.wrapped is not trainee.model and trainee.accelerator.num_processes > 1:
            trainee.wrapped = trainee.model
            trainee.accelerator.free_memory()  # an earlier wrapping would keep exchanging the same gradients
        trainee.wrapped = trainee.accelerator.prepare(self.feed.entry(trainee.model))

    def close(self) -> None:
        """End all decoding processes, and leave the model unchanged except for its weights."""
        self.feed.close()
        if self.val is not None:
            self.val.close()
        self.rates.leave()
        self.drops.scale(1.0)

    def warn_of_padding(self, at_end: bool = False) -> None:
        """Warn once of clips that are longer than their videos."""
        if text := self.padded.warning(at_end):
            self.log.say(text)
            self.log.write({"kind": "warning", "step": self.state.step, "text": text})

    @property
    def resumable(self) -> str:
        """The end of a message: how the run continues, if it is saved."""
        return ", and continue with --resume; the run is saved" if self.keeper is not None else ""


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
    """Put together model, optimizer, feeds and state, fresh or resumed."""
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
