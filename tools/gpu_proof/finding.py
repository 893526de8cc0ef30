"""A check is a question with a function that answers it; its answer is a `Finding`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

Status = Literal["ok", "failed", "skipped"]
Figure = str | int | float | bool | None | Sequence["Figure"] | Mapping[str, "Figure"]
Figures = dict[str, Figure]
SCRATCH = "scratch"  # folder within that of the proof


@dataclass(frozen=True)
class Finding:
    """An answer: one line for a person, and the figures that it rests on."""

    status: Status
    summary: str
    figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    trace: str = ""
    """The complete traceback of an exception."""


@dataclass(frozen=True)
class Context:
    """What a check works with."""

    device: torch.device
    small: bool
    """Sizes that a CPU finishes in seconds; the figures then prove the check itself, not a GPU."""
    folder: Path
    """For rendered videos and training runs; checks share it, and it goes when they are done."""
    deadline: float
    """`time.monotonic()` at which the check is ended from outside."""

    def left(self) -> float:
        """Seconds until then."""
        return self.deadline - time.monotonic()

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU of CUDA."""
        return self.device.type == "cuda"


@dataclass(frozen=True)
class Check:
    """`name` is ROOM/SUBJECT, which `--only` selects by pattern."""

    name: str
    settles: str
    function: Callable[[Context], Finding]
    seconds: float = 60.0
    """Most it may take; it is ended then, and the next one follows."""
    needs: tuple[str, ...] = ()
    """Packages without which it is skipped."""
    gpu_only: bool = False


def judged(holds: bool, summary: str, **figures: Figure) -> Finding:
    """`ok` if it holds, else `failed`."""
    return Finding("ok" if holds else "failed", summary, figures)


def verdict(suspicion_holds: bool, summary: str, **figures: Figure) -> Finding:
    """The answer to a suspicion: `failed` if it is proved, since then there is something to fix."""
    word = "proved" if suspicion_holds else "disproved"
    return Finding("failed" if suspicion_holds else "ok", f"{word}: {summary}", {"verdict": word, **figures})


def plain(value: Figure) -> Figure:
    """The same value as JSON holds it: numbers that are not finite become text, and floats keep six digits."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value
