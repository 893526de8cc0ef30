"""Settings of videos, clips and lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from hybridvideo.config.jobs import Reading, check_share
from hybridvideo.errors import UserError


@dataclass(frozen=True)
class ClipConfig:
    """Frames of a clip: `frames` of them, `interval` seconds or `stride` frames apart (one of the two)."""

    frames: int = 16
    """Frames in a clip."""
    interval: float | None = None
    """Seconds between frames; frames are chosen by time."""
    stride: int | None = None
    """Step from one frame of the clip to the next, in frames of the video: the time between them is stride / fps."""
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
    """The frame size that a model takes, and how a video's frames are brought to it."""

    height: int = 224
    """Frame height in pixels."""
    width: int = 224
    """Frame width in pixels."""
    fit: Literal["crop", "stretch"] = "crop"
    """crop: scale the short side, then crop (height, width). stretch: scale the complete frame to (height, width)."""
    short_side: int | None = None
    """Short side before the crop in evaluation; default: the smaller of height and width."""
    scaling: Literal["decoder", "rgb"] = "decoder"
    """decoder: FFmpeg scales before it converts to RGB, and training clips go without the deblocking of H.264 frames
    that nothing refers to; faster, and about one grey level off. rgb: torchvision scales exact RGB frames;
    models that see differences between frames need it."""

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
    """Clips per video of a batch, from one pass over the file (repeated augmentation); each counts as a clip."""
    flip: float = 0.5
    """Probability of a horizontal flip; use 0 if a class has a direction."""
    contrast: tuple[float, ...] = (1.0,)
    """The normalised clip is multiplied by one of these; for differences that is their gain."""
    mixup: float = 0.0
    """MixUp alpha; 0 turns it off."""
    cutmix: float = 0.0
    """CutMix alpha; 0 turns it off."""

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise UserError(f"augment.repeats is {self.repeats}; give 1 or more clips of each video")
        check_share("augment.flip", self.flip)
        for name in ("area", "aspect", "jitter"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise UserError(f"augment.{name} is {(low, high)}; give two numbers above 0, the smaller one first")
        if self.area[1] > 1:
            raise UserError(f"augment.area is {self.area}; give shares up to 1")
        if self.jitter[0] < 1:
            raise UserError(f"augment.jitter is {self.jitter}; give multiples from 1")
        if not self.contrast:
            raise UserError("augment.contrast is empty; give at least one factor, such as 1.0")
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise UserError(f"augment.{name} is {getattr(self, name)}; give 0 or more")


@dataclass(frozen=True)
class Normalisation:
    """Per-channel statistics that belong to the weights, for RGB in [0, 1]: (x - mean) / std."""

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not all(each > 0 for each in self.std):
            raise UserError(f"the std of a normalisation is {self.std}; give numbers above 0")


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of a video for a model; saved with the weights."""

    clip: ClipConfig = field(default_factory=ClipConfig)
    frame: FrameConfig = field(default_factory=FrameConfig)
    normalisation: Normalisation = field(default_factory=Normalisation)


@dataclass(frozen=True)
class TrainingLists:
    """Lists of a training run."""

    train: str = ""
    """Training list: a folder with one folder per class, a CSV or Parquet with a header, or `path label` lines."""
    val: str = ""
    """Validation list, of any of the same kinds; empty: no validation."""
    root: str | None = None
    """Folder that relative paths start from; default: the folder of the list."""
    labels: list[str] | str | None = None
    """Class names in order: a list, `kinetics400`, or a file of names; default: those of the training list, sorted."""
    order: str | None = None
    """A file of class names (or `kinetics400`) in the order that the lists number them, if it differs from `labels`."""


@dataclass(frozen=True)
class DataConfig(Reading, TrainingLists):
    """The videos of a training run, how they are read, and what happens to those that cannot be read."""

    section: ClassVar[str] = "data."

    bad: Literal["retry", "skip", "fail"] = "retry"
    """What to do with a clip that does not decode. retry: take another clip from the readable part of the same file,
    or skip if there is none. skip: give it weight 0 in the loss, count and log it. fail: stop with exit code 3. No
    other video ever takes its place."""
    max_bad: float = 0.05
    """Share of a list that may be unreadable before the run stops with exit code 3."""
    cache: str | None = None
    """Folder for the outputs of a frozen stem; default: `.frozen` next to the run folders, shared by all runs there and
    kept under 50 GiB."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("data.max_bad", self.max_bad)


@dataclass(frozen=True)
class EvaluationList:
    """The list of videos to evaluate."""

    manifest: str | None = None
    """A labelled list, of any kind that data.train may be; default: the validation list of the run."""
    order: str | None = None
    """A file of class names (or `kinetics400`) in the order that the list numbers them, if it is not the model's."""
    root: str | None = None
    """Folder that relative paths start from; default: the folder of the list."""


@dataclass(frozen=True)
class EvaluateData(Reading, EvaluationList):
    """The list to evaluate, and how its videos are read."""

    section: ClassVar[str] = "data."

    max_bad: float = 1.0
    """Share of the list that may be unreadable; above it the exit code is 3. The results are written all the same."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("data.max_bad", self.max_bad)
