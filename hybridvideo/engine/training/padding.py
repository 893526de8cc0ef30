"""Clips that are longer than their videos, counted as they come: much of such a clip is its last frame, repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENOUGH = 200  # clips to judge by; at the end of an epoch, fewer will do
FEW = 0.05  # share of clips that needs no warning


class PaddedClips:
    """Counts the clips of the batches it sees, those of one process."""

    def __init__(self) -> None:
        self.clips, self.warned = 0, False
        self.shares: list[float] = []

    def note(self, batch: Mapping[str, Any]) -> None:
        """Count a batch; stored outputs do not record how long their videos were."""
        if not self.warned and "padded" in batch:
            self.clips += sum(batch["counts"])
            self.shares += [share for share in batch["padded"] if share > 0]

    def warning(self, at_end: bool = False) -> str | None:
        """Return a warning, once, if there is reason for one. At the end of an epoch a few clips are enough."""
        if self.warned or self.clips < (1 if at_end else ENOUGH):
            return None
        self.warned = True
        if len(self.shares) <= FEW * self.clips:
            return None
        mean = sum(self.shares) / len(self.shares)
        return (
            f"warning: {len(self.shares)} of {self.clips} clips are longer than their videos; on average {mean:.0%} of "
            "such a clip is padding: give fewer clip.frames, or a smaller clip.interval or clip.stride"
        )
