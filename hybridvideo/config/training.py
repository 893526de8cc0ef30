"""Settings of a training run. A run file is `TrainRun` as YAML, complete, without inheritance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hybridvideo.config.data import AugmentConfig, ClipConfig, DataConfig, FrameConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.config.jobs import Compute, Precision
from hybridvideo.config.model import ModelConfig
from hybridvideo.errors import UserError

Tracker = Literal[
    "all", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]  # of Accelerate


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, linear warm-up and cosine decay."""

    lr: float = 1e-3
    """Peak learning rate at the given batch size."""
    stem_lr_scale: float = 1.0
    """Learning rate of the stem, as a share of `lr`."""
    weight_decay: float = 0.05
    """Decoupled, of matrices and kernels; norms, biases and what the model names do not decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    warmup_epochs: float = 1.0
    """Epochs, or part of one, in which the rate grows linearly from 0."""
    final_lr: float = 0.01
    """Last learning rate as a share of `lr`."""
    clip_norm: float | None = 1.0
    """Largest gradient norm; null turns clipping off."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is evaluated and saved; 0 turns it off."""


@dataclass(frozen=True)
class TrainConfig:
    """The loop."""

    epochs: int = 10
    """Passes over the training list."""
    batch_size: int = 16
    """Clips in one forward pass, summed over all processes."""
    accumulate: int = 1
    """Forward passes per optimizer step."""
    precision: Precision = Compute.precision
    """fp16 needs a GPU; bf16 trains on a CPU too."""
    checkpoint_every: int = 0
    """Also save `last` every so many optimizer steps; 0: after each epoch only."""
    keep: Literal["last", "best"] = "last"
    """Which checkpoint the run folder stands for in evaluate, predict and extract."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    trackers: list[Tracker] = field(default_factory=lambda: ["tensorboard"])
    """Accelerate trackers: tensorboard, wandb, mlflow ..."""
    max_skipped_steps: int = 10
    """Consecutive steps with a non-finite loss or gradient before the run stops."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}; give 1 or more")


@dataclass(frozen=True)
class TrainRun:
    """A whole training run."""

    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    frame: FrameConfig = field(default_factory=FrameConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    """Everything random follows from the seed, the epoch and the sample's index."""
    device: str = Compute.device
    """auto, cpu, mps, cuda or cuda:NUMBER; auto takes a GPU if there is one."""
