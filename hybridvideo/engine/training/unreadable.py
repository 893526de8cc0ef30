"""Training videos that could not be read whole: noted as they come, judged while the run goes on.

`LoopState.bad` lists them by path. Each process knows its own, and those of all from when they were last shared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from hybridvideo.engine.exchange import gather

Bad = dict[str, list[str]]  # path -> status and reason
GOOD = ("ok", "padding")


class BadVideos:
    """Those of a list.

    Args:
        rows: the list; an item's index is that of its row.
        bad: what is known from before; this dictionary is kept up.
        mode: `data.bad`. limit: `data.max_bad`, a share of the list's videos.
    """

    def __init__(self, accelerator: Accelerator, rows: Sequence[Any], bad: Bad, mode: str, limit: float) -> None:
        self.accelerator, self.rows, self.bad = accelerator, rows, bad
        self.mode, self.limit = mode, limit
        self.listed = len({row.path for row in rows})
        self.known = unreadable(bad)

    def note(self, batch: Mapping[str, Any]) -> None:
        """Remember what a batch says of its videos."""
        for index, status, reason in zip(batch["members"], batch["status"], batch["reason"], strict=True):
            if status not in GOOD:
                self.bad[self.rows[index].path] = [status, reason]

    @property
    def new(self) -> int:
        """Videos that only this process knows to be unreadable."""
        return len(unreadable(self.bad) - self.known)

    def share(self) -> None:
        """All processes know them all."""
        for part in gather(self.accelerator, self.bad):
            self.bad.update(part)
        self.known = unreadable(self.bad)

    def too_many(self, new: int = 0) -> bool:
        """Whether those known to all, and `new` ones, are more than the list may have."""
        return too_many(len(self.known) + new, self.listed, 0.0 if self.mode == "fail" else self.limit)

    def verdict(self, listed_in: object) -> str:
        """Why the run stops; to be asked once they are shared."""
        first = min(self.known)
        if self.mode == "fail":
            return f"{first}: {': '.join(self.bad[first])} (data.bad is fail; retry and skip go on without it)"
        return (
            f"{len(self.known)} of {self.listed} training videos cannot be read, {allowed(self.limit)} (first: "
            f"{first}: {': '.join(self.bad[first])}); they are listed in {listed_in}; the run is saved: mend them or "
            "raise data.max_bad, and --resume goes on"
        )


def unreadable(bad: Bad) -> set[str]:
    """Paths of the videos of which nothing could be used."""
    return {path for path, (status, _) in bad.items() if status != "partial"}


def too_many(bad: int, listed: int, limit: float) -> bool:
    """Whether so many of a list are more than the share `limit` of it, or all of it."""
    return bad > limit * listed or bad >= listed


def allowed(limit: float) -> str:
    """The rule of `too_many`, for a person."""
    return f"more than data.max_bad {limit} allows" if limit < 1 else "so there is nothing to learn from"
