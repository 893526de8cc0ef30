"""Every setting, one small dataclass per component; no component sees another's.

A run file is `TrainRun` as YAML, complete, without inheritance. `hybridvideo train --config F --section.key value`
is read as plain data (`parsing`); an unknown key is refused with the nearest name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from hybridvideo.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]  # of a forward pass; the lower ones by autocast
Tracker = Literal[
    "all", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
]  # of Accelerate


@dataclass(frozen=True)
class ClipConfig:
    """Which frames make a clip: `frames` of them, `interval` seconds or `stride` frames apart (one of the two)."""

    frames: int = 16
    """Frames in a clip."""
    interval: float | None = None
    """Seconds between frames; frames are chosen by time."""
    stride: int | None = None
    """Frames between frames: time between them is stride / fps of the video."""
    train_start: Literal["random", "centre", "first"] = "random"
    """Where a training clip starts."""
    pad: Literal["last", "loop"] = "last"
    """A video shorter than the clip repeats its last frame, or starts again."""

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise UserError(f"clip.frames is {self.frames}; give 1 or more")
        if self.interval is not None and self.stride is not None:
            raise UserError("clip.interval and clip.stride are both set; give one of them")
        if self.interval is not None and not self.interval > 0:
            raise UserError(f"clip.interval is {self.interval}; give seconds above 0")
        if self.stride is not None and self.stride < 1:
            raise UserError(f"clip.stride is {self.stride}; give 1 or more frames")


@dataclass(frozen=True)
class FrameConfig:
    """The size of a model's frames, and how a video's frame is brought to it."""

    height: int = 224
    """Rows of a model's frame ..."""
    width: int = 224
    """... and columns."""
    fit: Literal["crop", "stretch"] = "crop"
    """crop: scale the short side, cut (height, width) out. stretch: scale the whole frame to (height, width)."""
    short_side: int | None = None
    """Short side before the crop in evaluation; default: the smaller of height and width."""
    scaling: Literal["decoder", "rgb"] = "decoder"
    """decoder: FFmpeg scales before it converts to RGB, and training clips go without the deblocking of H.264 frames
    that nothing refers to; faster, and about one grey level off. rgb: torchvision scales exact RGB frames, which is
    what models want that see differences of frames."""

    def __post_init__(self) -> None:
        if self.height < 8 or self.width < 8:
            raise UserError(f"frame size {self.height}x{self.width} is too small; give 8 or more")
        if self.short_side is not None and self.short_side < min(self.height, self.width):
            raise UserError(f"frame.short_side {self.short_side} is under the crop {self.height}x{self.width}")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes to training clips, the same for all frames of a clip; on uint8."""

    crop: Literal["resized", "jitter", "none"] = "resized"
    """resized: Inception-style. jitter: random short side, then random crop. none: as in evaluation."""
    area: tuple[float, float] = (0.35, 1.0)
    """resized: share of the frame's area."""
    aspect: tuple[float, float] = (0.75, 1.3333)
    """resized: width over height of the crop, relative to the output's."""
    jitter: tuple[float, float] = (1.143, 1.428)
    """jitter: short side as a multiple of the crop's (256 to 320 for 224)."""
    repeats: int = 1
    """Clips from each video of a batch, from one pass over the file (repeated augmentation); each counts as a clip."""
    flip: float = 0.5
    """Probability of a horizontal flip; 0 where a class has a direction."""
    contrast: tuple[float, ...] = (1.0,)
    """The normalised clip is multiplied by one of these; for differences that is their gain."""
    mixup: float = 0.0
    """MixUp alpha; 0 turns it off."""
    cutmix: float = 0.0
    """CutMix alpha; 0 turns it off."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"augment.repeats is {self.repeats}; give 1 or more clips of each video")


@dataclass(frozen=True)
class Normalisation:
    """Per-channel statistics that belong to the weights, for RGB in [0, 1]: (x - mean) / std."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not all(spread > 0 for spread in self.std):
            raise UserError(f"the std of a normalisation is {self.std}; give numbers above 0")


@dataclass(frozen=True)
class Preprocessing:
    """What must be done to a video before a model sees it; saved beside the weights."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    frame: FrameConfig = field(default_factory=FrameConfig)
    normalisation: Normalisation = field(default_factory=Normalisation)


@dataclass(frozen=True)
class DataConfig:
    """Where the videos of a training run are, and what to do with those that cannot be read."""

    train: str = ""
    """Training list: a folder with one folder per class, a CSV or Parquet with a header, or `path label` lines."""
    val: str = ""
    """Validation list, of any of the same kinds; empty: no validation."""
    root: str | None = None
    """Folder that relative paths start from; default: the folder of the list."""
    labels: list[str] | str | None = None
    """Class names in order: a list, `kinetics400`, or a file of names; default: those of the training list, sorted."""
    order: str | None = None
    """A file of class names (or `kinetics400`) that the lists' numbers follow, where that is another order."""
    workers: int = 2
    """Decoding processes per training process; 0 decodes in the training process."""
    deadline: float = 120.0
    """Seconds that reading one video may take. A decoder that hangs longer or dies, twice, makes it a bad video."""
    quarantine: str | None = None
    """Table of `hybridvideo scan`: what it found unusable is not opened, and counted as bad, until the file changes."""
    bad: Literal["retry", "skip", "fail"] = "retry"
    """A clip that does not decode. retry: another one from what can be read of the same file; if nothing can, as skip.
    skip: weight 0 in the loss, counted and logged. fail: stop, exit code 3. Never another video in its place."""
    max_bad: float = 0.05
    """Share of a list that may be unreadable before the run stops with exit code 3."""
    cache: str | None = None
    """Folder for the outputs of a frozen stem; default: `.frozen` beside the run folders, which runs share and which is
    kept under 50 GiB."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"data.workers is {self.workers}; give 0 or more")
        if not self.deadline > 0:
            raise UserError(f"data.deadline is {self.deadline}; give seconds above 0")
        if not 0 <= self.max_bad <= 1:
            raise UserError(f"data.max_bad is {self.max_bad}; give a share from 0 to 1")


@dataclass(frozen=True)
class InputConfig:
    """What of the clip the stem sees."""

    mode: Literal["rgb", "difference", "both", "two_stream"] = "rgb"
    """rgb: the frames. difference: signed temporal differences. both: the two as six channels. two_stream: each
    through a stem of its own, features concatenated. Differences of T frames are T - 1 images."""
    gain: float = 2.0
    """Differences of the normalised frames are multiplied by this ..."""
    limit: float = 1.0
    """... and clipped to [-limit, limit]."""


@dataclass(frozen=True)
class StemConfig:
    """The per-frame CNN."""

    name: str = "small"
    """small, or timm/NAME, or torchvision/NAME."""
    widths: tuple[int, ...] = (24, 48, 96)
    """small: channels of its stride-2 convolutions."""
    stride: int = 32
    """timm and torchvision: pixels per feature, a power of two."""
    weights: str | None = None
    """timm and torchvision: a state-dict file (safetensors or pth), or `hub` to download; null: random."""
    padding: Literal["own", "same"] = "own"
    """same: TensorFlow's padding, for weights that were trained with it."""
    mean: tuple[float, float, float] | None = None
    """Normalisation of the weights; default: what timm or torchvision say of them."""
    std: tuple[float, float, float] | None = None
    frozen: bool = False
    """No gradient, BatchNorm in evaluation mode; its outputs may be cached."""
    batchnorm: Literal["train", "eval"] = "train"
    """eval: BatchNorm keeps its statistics while the stem is trained."""


@dataclass(frozen=True)
class StageConfig:
    """`depth` blocks of one kind on the grid."""

    block: str = "window3d"
    """Kind of block: a name of hybridvideo.models.blocks.MIXERS."""
    depth: int = 2
    heads: int = 4
    window: tuple[int, int, int] = (8, 7, 7)
    """window3d: frames, rows, columns; every second block is shifted by half a window."""
    mlp_ratio: float = 4.0
    position: Literal["none", "conv"] = "none"
    """conv: a depthwise 3x3x3 convolution of the features, before each block."""
    merge: bool = False
    """Merge 2x2 positions into one of twice the channels before the stage."""


@dataclass(frozen=True)
class HeadConfig:
    """From the grid to the classes."""

    pool: tuple[Literal["mean", "max", "min", "std", "frame_max"], ...] = ("mean",)
    """Statistics over time and space, concatenated; frame_max: maximum over each frame, averaged over time."""
    power: float = 1.0
    """Pooled features are raised to this power, their sign kept; 0.5 tames a few large ones."""
    norm: Literal["layer", "batch", "none"] = "layer"
    """Of the pooled features. batch: each channel by its spread over the batch; trains faster from scratch."""
    hidden: int = 0
    """Width of a hidden layer; 0: none."""
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not self.pool:
            raise UserError("head.pool is empty; give one or more of mean, max, min, std, frame_max")
        if not self.power > 0:
            raise UserError(f"head.power is {self.power}; give a number above 0")


@dataclass(frozen=True)
class HybridConfig:
    """A hybrid is data: stem, list of stages, head."""

    frames: int = 16
    """Standard input: frames ..."""
    height: int = 224
    """... rows ..."""
    width: int = 224
    """... and columns; others work too, position tables are then interpolated."""
    input: InputConfig = field(default_factory=InputConfig)
    stem: StemConfig = field(default_factory=StemConfig)
    dim: int | None = None
    """Width of the grid after the stem; null: the stem's own."""
    position: Literal["none", "absolute"] = "none"
    """absolute: learned tables of time and of space are added to the grid."""
    stages: tuple[StageConfig, ...] = ()
    drop_path: float = 0.0
    """Stochastic depth of the last block, growing linearly from 0."""
    head: HeadConfig = field(default_factory=HeadConfig)
    time: bool = True
    """False removes every path between frames: the control that cannot see motion."""


@dataclass(frozen=True)
class ModelConfig:
    """A model by name, with changes to its named variant (`hybridvideo models` lists the names)."""

    name: str = "hybrid_micro"
    """One of `hybridvideo models`."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Changed settings of the variant; for hybrids the fields of HybridConfig, such as `stages` or `drop_path`."""
    weights: str | None = None
    """Start from these weights: a run or checkpoint folder, a file of weights in any layout known here, a folder of
    Hugging Face, `torchvision:NAME` or `hf:OWNER/REPO`."""
    head: Literal["strict", "replace", "drop"] = "strict"
    """With `weights` of another label set: replace starts a new head."""


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
    precision: Precision = "fp32"
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
class EvalConfig:
    """Views of a video: `clips` in time by `crops` in space, scores averaged."""

    clips: int = 4
    """Clips of a video, evenly spread in time."""
    crops: Literal[1, 3] = 1
    """Crops of each clip: the centre, or three along the longer side."""
    batch_size: int = 16
    """Views in one forward pass of one process."""
    average: Literal["softmax", "logits"] = "softmax"
    """What is averaged over the views of a video."""

    def __post_init__(self) -> None:
        if self.clips < 1 or self.batch_size < 1:
            raise UserError(f"eval.clips {self.clips} and eval.batch_size {self.batch_size} must be 1 or more")
        if self.crops not in (1, 3):
            raise UserError(f"eval.crops is {self.crops}; give 1 or 3")


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
    device: str = "auto"
    """auto, cpu, cuda or mps."""


@dataclass(frozen=True)
class EvaluateData:
    """The list that is evaluated."""

    manifest: str | None = None
    """A labelled list, of any kind that data.train may be; default: the validation list of the run."""
    order: str | None = None
    """A file of class names (or `kinetics400`) that the list's numbers follow, where that is another order."""
    root: str | None = None
    """Folder that relative paths start from; default: the folder of the list."""
    workers: int = 2
    """Decoding processes; 0 decodes in the main process."""
    deadline: float = 120.0
    """Seconds that reading one video may take. A decoder that hangs longer or dies, twice, makes it unreadable."""
    quarantine: str | None = None
    """Table of `hybridvideo scan`: what it found unusable is not opened, and counted as failed, until it changes."""
    max_bad: float = 1.0
    """Share of the list that may be unreadable; beyond it the exit code is 3. The results are written all the same."""


@dataclass(frozen=True)
class Views:
    """Views of a video, where they differ from those the model came with."""

    clips: int | None = None
    """Clips of a video, evenly spread in time."""
    crops: Literal[1, 3] | None = None
    """Crops of each clip: the centre, or three along the longer side."""
    batch_size: int | None = None
    """Views in one forward pass."""
    average: Literal["softmax", "logits"] | None = None
    """What is averaged over the views of a video."""

    def over(self, default: EvalConfig) -> EvalConfig:
        """The default with what is set here on top."""
        return replace(default, **{name: value for name, value in asdict(self).items() if value is not None})
