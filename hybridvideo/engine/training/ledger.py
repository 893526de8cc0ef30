"""Steps whose outcome the host has not read yet. They are read a few at a time, in order: waiting for the device at
every step would leave it idle while the host prepares the next.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator

from hybridvideo.config.training import TrainConfig
from hybridvideo.engine.exchange import gather
from hybridvideo.engine.training.log import Log
from hybridvideo.engine.training.run import State
from hybridvideo.engine.training.step import Outcome
from hybridvideo.errors import HybridVideoError

MOST_UNREAD = 50  # steps; in a run that has diverged, this many are computed for nothing


@dataclass(frozen=True)
class Entry:
    """A step that was begun. `members`: the videos of its clips in this process, by index."""

    step: int
    epoch: int
    weight: int
    lr: float
    members: list[int]
    outcome: Outcome | None
    """None if nothing counted."""


@dataclass
class Ledger:
    """Reads outcomes into state and log.

    Args:
        waited: seconds that were spent waiting for batches since the last call of it.
    """

    accelerator: Accelerator
    config: TrainConfig
    log: Log
    waited: Callable[[], float] = lambda: 0.0
    unread: list[Entry] = field(default_factory=list)
    since: float = field(default_factory=time.perf_counter)

    def start(self, waited: Callable[[], float]) -> None:
        """Start the clock of an epoch."""
        self.waited, self.since = waited, time.perf_counter()

    def add(self, entry: Entry, state: State) -> None:
        """Note a step, and read the outcomes if it is time."""
        self.unread.append(entry)
        if entry.step % self.config.log_every == 0 or len(self.unread) >= MOST_UNREAD:
            self.settle(state)

    def settle(self, state: State) -> None:
        """Read all outcomes. All processes do so after the same steps.

        Raises HybridVideoError if too many steps in a row were skipped.
        """
        entries, self.unread = self.unread, []
        rows = read([entry.outcome for entry in entries])
        now = time.perf_counter()
        elapsed, self.since = now - self.since, now
        state.seconds, state.epoch_seconds = state.seconds + elapsed, state.epoch_seconds + elapsed
        pace = {
            "clips_per_second": sum(entry.weight for entry in entries) / max(elapsed, 1e-9),
            "wait_share": self.waited() / max(elapsed, 1e-9),
        }
        for entry, row in zip(entries, rows, strict=True):
            if entry.outcome is None or row[2]:
                self.skipped(entry, state)
            else:
                self.taken(entry, dict(zip(entry.outcome.names, row[3:], strict=True)), row[0], row[1], state, pace)

    def taken(
        self, entry: Entry, scalars: dict[str, float], loss: float, norm: float, state: State, pace: dict[str, float]
    ) -> None:
        """Count a step that was taken."""
        state.skipped_in_a_row = 0
        state.clips_seen += entry.weight
        state.loss_sum += loss
        state.weight_sum += entry.weight
        for name, value in scalars.items():
            state.scalar_sums[name] = state.scalar_sums.get(name, 0.0) + value
        if entry.step % self.config.log_every == 0:
            means = {name: value / entry.weight for name, value in scalars.items()}
            line = {"kind": "step", "step": entry.step, "epoch": entry.epoch, "loss": loss / entry.weight, **means}
            self.log.write({**line, "lr": entry.lr, "grad_norm": norm, **pace})

    def skipped(self, entry: Entry, state: State) -> None:
        """Count a step that was skipped, and name its videos."""
        state.skipped += 1
        state.epoch_skipped += 1
        members = [index for index in entry.members if index >= 0]
        samples = [index for part in gather(self.accelerator, members) for index in part]
        why = "no clip could be read" if entry.outcome is None else "loss or gradient not finite"
        line = {"kind": "skipped", "step": entry.step, "epoch": entry.epoch, "why": why, "samples": samples}
        self.log.write(line)
        state.skipped_in_a_row += entry.outcome is not None
        if state.skipped_in_a_row > self.config.max_skipped_steps:
            raise HybridVideoError(
                f"loss or gradient was not finite in {state.skipped_in_a_row} steps in a row (step {entry.step}); "
                "lower optim.lr or use --train.precision bf16; the last checkpoint is intact"
            )


def read(outcomes: list[Outcome | None]) -> list[list[float]]:
    """Return the numbers of each step, in one copy from the device; NaN if nothing counted."""
    numbers = [outcome.numbers for outcome in outcomes if outcome is not None]
    values = iter(torch.cat(numbers).tolist() if numbers else [])
    lengths = [0 if outcome is None else len(outcome.numbers) for outcome in outcomes]
    return [[next(values) for _ in range(length)] or [math.nan] * 3 for length in lengths]
