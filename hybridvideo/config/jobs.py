"""Settings that all jobs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16", "fp16"]  # of a forward pass; the lower ones by autocast


@dataclass(frozen=True)
class Reading:
    """How a job reads its videos."""

    workers: int = 2
    """Decoding processes; 0 decodes in the main process."""
    deadline: float = 120.0
    """Seconds that reading one video may take."""
    quarantine: str | None = None
    """Table of `hybridvideo scan`."""
