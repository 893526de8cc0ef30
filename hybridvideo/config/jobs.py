"""Settings that several jobs share: how videos are read, and what computes. Each default is written here and only here.

Decoding   worker processes and seconds per video: `scan` and `prepare`, which read all of a video
Reading    the same, with a quarantine: training, evaluation and the bulk jobs, which read clips
Compute    device and precision
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from hybridvideo.errors import UserError

Precision = Literal["fp32", "bf16", "fp16"]

WHOLE_VIDEO = 600.0  # seconds allowed for a job that reads every frame of a video, not a few clips


@dataclass(frozen=True)
class Decoding:
    """The processes that decode, and how long each video may take."""

    section: ClassVar[str] = ""  # where the fields are found in a run's settings, for messages

    workers: int = 2
    """Decoding processes per process of the job; 0 decodes in that process, which a bad file can then hang or kill."""
    deadline: float = 120.0
    """Seconds that one video may take. One that takes longer, or kills its decoder, twice, counts as unreadable."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise UserError(f"{self.section}workers is {self.workers}; give 0 or more")
        if not self.deadline > 0:
            raise UserError(f"{self.section}deadline is {self.deadline}; give seconds above 0")


@dataclass(frozen=True)
class Reading(Decoding):
    """How a job reads its videos."""

    quarantine: str | None = None
    """Table of `hybridvideo scan`. Files it found unusable are not opened, and count as unreadable until they
    change."""


@dataclass(frozen=True)
class Compute:
    """Device and precision of a model."""

    device: str = "auto"
    """auto, cpu, mps, cuda or cuda:NUMBER; auto takes a GPU if there is one."""
    precision: Precision = "fp32"
    """Of the forward pass; bf16 and fp16 by autocast."""


@dataclass(frozen=True)
class Job:
    """How a bulk job treats unreadable inputs, other processes, and an existing table."""

    max_bad: float = 1.0
    """Share of the inputs that may be unusable; above it the exit code is 3. The table is written all the same."""
    join: bool = False
    """Share the work with other processes that make the same table, on this machine or others."""
    overwrite: bool = False
    """Start over, even if --out holds the table of another job."""

    def __post_init__(self) -> None:
        check_share("max_bad", self.max_bad)


def check_share(name: str, share: float) -> None:
    """Raise UserError unless a setting is a share from 0 to 1."""
    if not 0 <= share <= 1:
        raise UserError(f"{name} is {share}; give a share from 0 to 1")
