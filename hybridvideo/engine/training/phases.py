"""A run as a list of phases, and the place of each step in it: pure arithmetic over steps.

    phase      0 (2 epochs of 3 steps)   1 (1 epoch of 5 steps)
    epoch      0        1                2
    step       0 1 2    3 4 5            6 7 8 9 10
    schedule   warm-up and cosine over all of it; a phase that gives `lr` starts a new schedule

A step is one update of the weights, from the `accumulate` batches of its window; the last window of an epoch may be
shorter. Steps that are skipped count as well, so that the position follows from the step alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hybridvideo.config.data import ClipConfig, FrameConfig
from hybridvideo.config.training import OptimConfig, PhaseConfig, TrainRun


@dataclass(frozen=True)
class Phase:
    """A part of a run throughout which everything but the learning rate stays the same."""

    epochs: int
    clip: ClipConfig
    frame: FrameConfig
    batch_size: int
    """Clips per forward pass, summed over processes."""
    groups: dict[str, float] | None = None
    """Layer groups that train, each with its learning rate as a share of the schedule's; None: all, at `optim`'s."""
    lr: float | None = None
    """Peak of a new schedule, which lasts until the next phase with an `lr`; None: the schedule continues."""
    drop: tuple[float, float] = (1.0, 1.0)
    """Factor on the rates of dropout and stochastic depth: at the first step of the phase, at the last."""


@dataclass(frozen=True)
class Position:
    """Where a step is. `batch` is the first of its window, counted within the epoch."""

    phase: int
    epoch: int
    batch: int


@dataclass(frozen=True)
class Timetable:
    """When everything happens.

    Args:
        batches: of an epoch, by phase.
        accumulate: batches per step.
    """

    phases: tuple[Phase, ...]
    batches: tuple[int, ...]
    accumulate: int
    optim: OptimConfig

    @property
    def epochs(self) -> int:
        """The number of epochs of the run."""
        return sum(phase.epochs for phase in self.phases)

    def steps_per_epoch(self, phase: int) -> int:
        """Steps of one epoch of a phase."""
        return -(-self.batches[phase] // self.accumulate)

    def first_epochs(self) -> list[int]:
        """First epoch of each phase, then the number of all epochs."""
        return [0, *itertools.accumulate(phase.epochs for phase in self.phases)]

    def first_steps(self) -> list[int]:
        """First step of each phase, then the number of all steps."""
        lengths = (phase.epochs * self.steps_per_epoch(i) for i, phase in enumerate(self.phases))
        return [0, *itertools.accumulate(lengths)]

    def phase_of(self, epoch: int) -> int:
        """The phase that an epoch belongs to; beyond the end, the last."""
        return next((i for i, end in enumerate(self.first_epochs()[1:]) if epoch < end), len(self.phases) - 1)

    def position(self, step: int) -> Position:
        """Where a step is; beyond the end, the epoch after the last."""
        starts = self.first_steps()
        if step >= starts[-1]:
            return Position(len(self.phases) - 1, self.epochs, 0)
        phase = next(i for i, end in enumerate(starts[1:]) if step < end)
        epoch, window = divmod(step - starts[phase], self.steps_per_epoch(phase))
        return Position(phase, self.first_epochs()[phase] + epoch, window * self.accumulate)

    def batches_until(self, epoch: int, batch: int = 0) -> int:
        """Batches of the run before a batch of an epoch."""
        whole = zip(self.phases, self.batches, self.first_epochs(), strict=False)
        done = sum(min(phase.epochs, max(0, epoch - first)) * batches for phase, batches, first in whole)
        return done + batch

    def rate(self, step: int) -> float:
        """Learning rate of a step, before the share of its layer group."""
        phase = self.position(step).phase
        first = max((i for i in range(phase + 1) if self.phases[i].lr is not None), default=0)
        following = range(phase + 1, len(self.phases))
        end = next((i for i in following if self.phases[i].lr is not None), len(self.phases))
        starts = self.first_steps()
        peak = self.phases[first].lr
        optim = self.optim if peak is None else replace(self.optim, lr=peak)
        warmup = round(optim.warmup_epochs * self.steps_per_epoch(first))
        return learning_rate(step - starts[first], starts[end] - starts[first], warmup, optim)

    def drop(self, step: int) -> float:
        """Factor on the rates of dropout and stochastic depth."""
        phase = self.position(step).phase
        start, end = self.first_steps()[phase : phase + 2]
        first, last = self.phases[phase].drop
        return first + (last - first) * min(1.0, (step - start) / max(1, end - 1 - start))


def learning_rate(step: int, steps: int, warmup_steps: int, config: OptimConfig) -> float:
    """Linear from 0 over the warm-up, then half a cosine down to `final_lr` of the peak at the last step."""
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - 1 - warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return config.lr * (config.final_lr + (1 - config.final_lr) * cosine)


# --- from settings ----------------------------------------------------------------------------------------------------


def phases_of(run: TrainRun) -> tuple[Phase, ...]:
    """The phases of a run's settings; without `phases`, the run is one."""
    lengths = phase_lengths(run.phases, run.train.epochs)
    whole = Phase(run.train.epochs, run.clip, run.frame, run.train.batch_size)
    return tuple(phase_of(whole, config, epochs) for config, epochs in zip(run.phases, lengths, strict=True)) or (
        whole,
    )


def phase_lengths(phases: Sequence[PhaseConfig], epochs: int) -> list[int]:
    """Epochs of each; the last may leave them to `train.epochs`."""
    given = [phase.epochs or 0 for phase in phases]
    return [length or max(0, epochs - sum(given)) for length in given]


def phase_of(whole: Phase, config: PhaseConfig, epochs: int) -> Phase:
    """The whole run's settings with those of one phase on top."""
    clip, frame = config.clip, whole.frame
    spaced = clip if clip.interval or clip.stride else whole.clip
    height, width = config.frame.height or frame.height, config.frame.width or frame.width
    drop = config.drop if isinstance(config.drop, tuple) else (config.drop, config.drop)
    return Phase(
        epochs,
        replace(whole.clip, frames=clip.frames or whole.clip.frames, interval=spaced.interval, stride=spaced.stride),
        replace(frame, height=height, width=width, short_side=short_side(frame, height, width)),
        config.batch_size or whole.batch_size,
        dict(config.groups) if config.groups is not None else None,
        config.lr,
        drop,
    )


def short_side(frame: FrameConfig, height: int, width: int) -> int | None:
    """The short side before the crop, in proportion to the size of the crop."""
    if frame.short_side is None:
        return None
    return round(frame.short_side * min(height, width) / min(frame.height, frame.width))
