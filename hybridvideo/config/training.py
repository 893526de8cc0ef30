"""Settings of a training run. A run file is a complete `TrainRun` in YAML; there is no inheritance."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hybridvideo.config.data import AugmentConfig, ClipConfig, DataConfig, FrameConfig
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.config.jobs import Compute, Precision, check_share
from hybridvideo.config.model import ModelConfig
from hybridvideo.errors import UserError

Tracker = Literal[
    "all", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]  # of Accelerate


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    lr: float = 1e-3
    """Peak learning rate at the given batch size."""
    stem_lr_scale: float = 1.0
    """Learning rate of the stem as a share of `lr`."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices and kernels; norms, biases and parameters that the model exempts have none."""
    no_decay: list[str] = field(default_factory=list)
    """Shell patterns of further parameters without weight decay, such as "*.gate.*": names as in the model."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's averages of the gradient and of its square."""
    warmup_epochs: float = 1.0
    """Epochs, or a fraction of one, over which the learning rate rises linearly from 0."""
    final_lr: float = 0.01
    """Final learning rate as a share of `lr`."""
    clip_norm: float | None = 1.0
    """Gradients are clipped to this norm; null turns clipping off."""
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes."""
    ema: float = 0.0
    """Decay of the moving average of the weights, which is then what is evaluated and saved; 0 turns it off."""

    def __post_init__(self) -> None:
        for name in ("lr", "stem_lr_scale", "weight_decay", "warmup_epochs"):
            if getattr(self, name) < 0:
                raise UserError(f"optim.{name} is {getattr(self, name)}; give 0 or more")
        for name in ("final_lr", "label_smoothing"):
            check_share(f"optim.{name}", getattr(self, name))
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optim.betas is {self.betas}; give two numbers from 0 to below 1")
        if not 0 <= self.ema < 1:
            raise UserError(f"optim.ema is {self.ema}; give a decay from 0 to below 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise UserError(f"optim.clip_norm is {self.clip_norm}; give a norm above 0, or null for no clipping")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epochs: int = 10
    """Passes over the training list. If all `phases` give their epochs, those count."""
    batch_size: int = 16
    """Clips in one forward pass, summed over all processes."""
    accumulate: int = 1
    """Forward passes per optimizer step."""
    precision: Precision = Compute.precision
    """fp16 needs a GPU; bf16 also trains on a CPU."""
    checkpoint_every: int = 0
    """Also save `last` every N optimizer steps; 0: only after each epoch."""
    keep: Literal["last", "best"] = "last"
    """The checkpoint that evaluate, predict and extract use when they are given the run folder."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    trackers: list[Tracker] = field(default_factory=lambda: ["tensorboard"])
    """Accelerate trackers: tensorboard, wandb, mlflow ..."""
    max_skipped_steps: int = 10
    """Consecutive steps with a non-finite loss or gradient that are tolerated; one more stops the run."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}; give 1 or more")
        for name in ("checkpoint_every", "max_skipped_steps"):
            if getattr(self, name) < 0:
                raise UserError(f"train.{name} is {getattr(self, name)}; give 0 or more")


@dataclass(frozen=True)
class PhaseClip:
    """Changes of a phase to `clip`."""

    frames: int | None = None
    """Frames in a clip."""
    interval: float | None = None
    """Seconds between frames."""
    stride: int | None = None
    """Step from one frame to the next, in frames of the video."""

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise UserError(f"clip.frames of a phase is {self.frames}; give 1 or more")
        if self.interval is not None and not self.interval > 0:
            raise UserError(f"clip.interval of a phase is {self.interval}; give seconds above 0")
        if self.stride is not None and self.stride < 1:
            raise UserError(f"clip.stride of a phase is {self.stride}; give 1 or more frames")
        if self.interval is not None and self.stride is not None:
            raise UserError("clip.interval and clip.stride of a phase are both set; give one of them")


@dataclass(frozen=True)
class PhaseFrame:
    """Changes of a phase to `frame`."""

    height: int | None = None
    """Height of training frames, in pixels."""
    width: int | None = None
    """Width of training frames, in pixels."""

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            value = getattr(self, name)
            if value is not None and value < 8:
                raise UserError(f"frame.{name} of a phase is {value}; give 8 or more")


@dataclass(frozen=True)
class PhaseConfig:
    """What one phase of a run changes; everything else is as in the rest of the settings.

    Validation always uses the run's own `clip` and `frame`, so that its figures can be compared between phases.
    """

    epochs: int | None = None
    """Epochs of this phase. Only the last phase may leave it out: it then lasts until `train.epochs`."""
    clip: PhaseClip = field(default_factory=PhaseClip)
    """Length and spacing of training clips."""
    frame: PhaseFrame = field(default_factory=PhaseFrame)
    """Size of training frames."""
    batch_size: int | None = None
    """Clips in one forward pass, summed over all processes."""
    groups: dict[str, float] | None = None
    """Layer groups that train, each with its learning rate as a share of the schedule's: {head: 1.0, stem: 0.1}.
    `others` is all that are not named; without it they are frozen. Default: everything trains, at the rates of
    `optim`."""
    lr: float | None = None
    """Peak of a new schedule (warm-up and cosine), which lasts until the next phase with an `lr`. Default: the
    schedule that began earlier continues."""
    drop: float | tuple[float, float] = 1.0
    """Factor on the rates of dropout and stochastic depth, and on the noise of `choice` blocks; two numbers: at the
    first step of the phase and at the last."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} of a phase is {value}; give 1 or more")
        if self.lr is not None and self.lr < 0:
            raise UserError(f"lr of a phase is {self.lr}; give 0 or more")
        for group, share in (self.groups or {}).items():
            if share < 0:
                raise UserError(f"groups.{group} of a phase is {share}; give a share of the learning rate, 0 or more")
        if self.groups is not None and not any(self.groups.values()):
            raise UserError("no group of a phase trains; give at least one a share of the learning rate above 0")
        drops = self.drop if isinstance(self.drop, tuple) else (self.drop,)
        if not all(0 <= drop <= 1 for drop in drops):
            raise UserError(f"drop of a phase is {self.drop}; give factors from 0 to 1")


@dataclass(frozen=True)
class TrainRun:
    """A complete training run."""

    data: DataConfig = field(default_factory=DataConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    frame: FrameConfig = field(default_factory=FrameConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    phases: list[PhaseConfig] = field(default_factory=list)
    """Parts of the run that differ in clips, frames, layers that train or learning rate. Default: one, as set above."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    seed: int = 0
    """Everything random follows from the seed, the epoch and the sample's index."""
    device: str = Compute.device
    """auto, cpu, mps, cuda or cuda:NUMBER; auto takes a GPU if there is one."""

    def __post_init__(self) -> None:
        lengths = [phase.epochs for phase in self.phases]
        if None in lengths[:-1]:
            raise UserError(f"phases[{lengths.index(None)}].epochs is missing; only the last phase may leave it out")
        if lengths and lengths[-1] is None and self.train.epochs <= (done := sum(filter(None, lengths))):
            raise UserError(
                f"the phases before the last take {done} epochs and train.epochs is {self.train.epochs}; give more, "
                f"or set phases[{len(lengths) - 1}].epochs"
            )

    @property
    def epochs(self) -> int:
        """The epochs of the run: `train.epochs`, or those of the phases."""
        lengths = [phase.epochs for phase in self.phases]
        return sum(filter(None, lengths)) if lengths and lengths[-1] is not None else self.train.epochs
