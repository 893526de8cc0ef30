"""What a training run is to do (its plan, settings only), and the parts it works with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from hybridvideo.config.data import AugmentConfig
from hybridvideo.config.training import OptimConfig, TrainConfig
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.loader import EpochOrder, Loader
from hybridvideo.engine.training.frozen import FrozenDataset
from hybridvideo.engine.training.log import RunLog
from hybridvideo.engine.training.padding import PaddedClips
from hybridvideo.engine.training.unreadable import BadVideos
from hybridvideo.models.card import ModelCard
from hybridvideo.models.contract import VideoModel

Data = ClipDataset | FrozenDataset


@dataclass
class Plan:
    """What a run is made of; settings only."""

    card: ModelCard
    optim: OptimConfig
    loop: TrainConfig
    augment: AugmentConfig
    seed: int
    workers: int
    deadline: float
    bad: str
    max_bad: float


@dataclass
class Parts:
    """What a run works with; `trainee` is what is stepped, wrapped by Accelerate around `model`."""

    accelerator: Accelerator
    model: VideoModel
    trainee: nn.Module
    optimizer: Any
    average: ModelEmaV3 | None
    buffers: Buffers
    order: EpochOrder
    loader: Any
    val: tuple[EpochOrder, Any] | None
    bad: BadVideos
    padded: PaddedClips
    log: RunLog

    @property
    def evaluated(self) -> VideoModel:
        """The model whose weights count."""
        return self.average.module if self.average is not None else self.model

    def close(self) -> None:
        """No decoding process outlives the loop."""
        for loader in (self.loader, self.val[1] if self.val is not None else None):
            if isinstance(loader, Loader):
                loader.close()


class Buffers:
    """What of a checkpoint a forward pass in training changes, as it was before: BatchNorm's statistics, counters."""

    def __init__(self, model: nn.Module) -> None:
        saved = model.state_dict().keys()
        self.now = [buffer for name, buffer in model.named_buffers() if name in saved]
        self.kept = [buffer.clone() for buffer in self.now]
        self.finite = [each for each in self.now if each.is_floating_point() and bool(each.isfinite().all())]

    def keep(self) -> None:
        """Remember them as they are."""
        if self.now:
            torch._foreach_copy_(self.kept, self.now)

    def spoilt(self) -> list[Tensor]:
        """Of those that were finite when the run began: 0, or NaN where one is not any more; nothing of none."""
        return [torch.stack(torch._foreach_norm(self.finite, math.inf)).max() * 0] if self.finite else []

    def restore(self) -> None:
        """Make them what they were."""
        if self.now:
            torch._foreach_copy_(self.now, self.kept)


def manifest_of(data: Data) -> Any:
    """The list a data set was made from."""
    return data.clips.manifest if isinstance(data, FrozenDataset) else data.manifest
