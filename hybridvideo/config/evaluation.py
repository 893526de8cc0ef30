"""Settings of evaluation: the views of a video."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Literal

from hybridvideo.errors import UserError


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
            raise UserError(f"eval.clips is {self.clips} and eval.batch_size {self.batch_size}; give 1 or more")
        if self.crops not in (1, 3):
            raise UserError(f"eval.crops is {self.crops}; give 1 or 3")


@dataclass(frozen=True)
class Views:
    """Views of a video; the default of each setting is the one the model came with."""

    clips: int | None = None
    """Clips of a video, evenly spread in time."""
    crops: Literal[1, 3] | None = None
    """Crops of each clip: the centre, or three along the longer side."""
    batch_size: int | None = None
    """Views in one forward pass."""
    average: Literal["softmax", "logits"] | None = None
    """What is averaged over the views of a video."""

    def over(self, default: EvalConfig) -> EvalConfig:
        """Return the default with these settings on top."""
        return replace(default, **{name: value for name, value in asdict(self).items() if value is not None})
