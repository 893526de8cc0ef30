"""What a training run is: its plan, which is settings only, and its state, which is everything it remembers."""

from __future__ import annotations

from dataclasses import dataclass, field

from hybridvideo.config.training import OptimConfig, TrainConfig
from hybridvideo.engine.training.phases import Phase


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    `loop.epochs` and `loop.batch_size` are those of the phases. `bad`, `max_bad`: as in `DataConfig`.
    """

    phases: tuple[Phase, ...]
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: TrainConfig = field(default_factory=TrainConfig)
    seed: int = 0
    bad: str = "retry"
    max_bad: float = 0.05


@dataclass
class State:
    """Where a run is. Written to `state.json` of a checkpoint; fields that an older run lacks have their defaults."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    step: int = 0
    """Steps that are done, skipped ones included."""
    clips_seen: int = 0
    """What counted in all steps that were taken."""
    skipped: int = 0
    """Steps that were skipped."""
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    """Of this epoch, over `weight_sum` clips."""
    weight_sum: float = 0.0
    scalar_sums: dict[str, float] = field(default_factory=dict)
    """Of the objective's other sums in this epoch, over the same clips."""
    seconds: float = 0.0
    """Of training, without validation."""
    epoch_seconds: float = 0.0
    epoch_skipped: int = 0
    best: float = -1.0
    """Best value of the objective's deciding figure; see `best_step`."""
    best_step: int = -1
    """Steps that were done when it was reached; below 0: no value yet."""
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Training video -> status and reason, of those that could not be read completely."""

    @property
    def mean_loss(self) -> float | None:
        """Mean loss of the epoch so far; None if nothing counted."""
        return self.loss_sum / self.weight_sum if self.weight_sum else None

    def close_epoch(self) -> None:
        """Go to the start of the next epoch."""
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum, self.weight_sum, self.scalar_sums = 0.0, 0.0, {}
        self.epoch_seconds, self.epoch_skipped = 0.0, 0
