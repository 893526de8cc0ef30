"""A named variant of a network: its settings and its published figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from hybridvideo.config.data import ClipConfig, Normalisation
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.models.checks import check_lengths, check_settings, check_size
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import changed

Config = TypeVar("Config")

IMAGENET = Normalisation()
KINETICS = Normalisation((0.45, 0.45, 0.45), (0.225, 0.225, 0.225))  # PySlowFast and all that grew out of it


@dataclass(frozen=True)
class Published:
    """A figure on Kinetics-400, its protocol, and the source of its weights."""

    top1: float
    """Per cent of the validation set."""
    clip: ClipConfig
    views: EvalConfig
    pretrained: str
    """Data that the weights were trained on before: "ImageNet-1k", "ImageNet-21k", "none" ..."""
    weights: str
    """Their source: `torchvision:NAME` or `hf:REPO` if `load_weights` can download them, else the repository."""
    paper: str
    short_side: int | None = None
    """Short side before the crop, if it differs from the crop's."""
    normalisation: Normalisation = field(default_factory=Normalisation)

    def protocol(self) -> str:
        """Describe views and frames, such as "4 x 3 views, 32 frames, stride 2"."""
        step = f"stride {self.clip.stride}" if self.clip.stride else f"every {self.clip.interval:.3g} s"
        return f"{self.views.clips} x {self.views.crops} views, {self.clip.frames} frames, {step}"


@dataclass(frozen=True)
class Variant(Generic[Config]):
    """The builder of a named variant: `variant(num_classes, **changes)`, changes of the config's fields."""

    network: Callable[[Config, int], VideoModel]
    config: Config
    published: Published | None = None
    sized: Callable[[Config], Config] | None = None
    """The config with small networks in place of a library's, to measure the size of all else before building."""

    def __call__(self, num_classes: int, **changes: Any) -> VideoModel:
        check_lengths(changes)
        config = changed(self.config, changes) if changes else self.config
        check_settings(config)
        small = self.sized(config) if self.sized is not None else config
        check_size(lambda: self.network(small, num_classes))
        model = self.network(config, num_classes)
        if self.published is not None:
            model.normalisation = self.published.normalisation
        return model
