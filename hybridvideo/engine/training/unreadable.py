"""Videos that could not be read: noted as they come, judged during the run.

`State.bad` lists those of training by path. Each process knows its own, and those of all processes since they were last
shared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate import Accelerator

from hybridvideo.engine.exchange import gather, gather_numbers
from hybridvideo.engine.training.feeds import Feed, Listed
from hybridvideo.engine.training.objective import Batch
from hybridvideo.errors import TooMuchBadData

Bad = dict[str, list[str]]  # path -> status and reason
GOOD = ("ok", "padding")
ADVICE = "repair them or raise data.max_bad"


class BadVideos:
    """Those of the training list.

    Args:
        rows: the list; an item's index is that of its row.
        bad: those known from before; this dictionary is kept up to date.
        mode: `data.bad`. limit: `data.max_bad`, a share of the list's videos.
    """

    def __init__(self, accelerator: Accelerator, rows: Sequence[Listed], bad: Bad, mode: str, limit: float) -> None:
        self.accelerator, self.rows, self.bad = accelerator, rows, bad
        self.mode, self.limit = mode, limit
        self.listed = len({row.path for row in rows})
        self.known = unreadable(bad)

    def note(self, batch: Mapping[str, Any]) -> None:
        """Remember what a batch reports about its videos."""
        for index, status, reason in zip(batch["members"], batch["status"], batch["reason"], strict=True):
            if status not in GOOD:
                self.bad[self.rows[index].path] = [status, reason]

    @property
    def new(self) -> int:
        """Number of videos that only this process knows to be unreadable."""
        return len(unreadable(self.bad) - self.known)

    def share(self) -> None:
        """Exchange them, so that all processes know them all."""
        for part in gather(self.accelerator, self.bad):
            self.bad.update(part)
        self.known = unreadable(self.bad)

    def too_many(self, new: int = 0) -> bool:
        """Return whether those known to all, and `new` ones, exceed the limit."""
        return too_many(len(self.known) + new, self.listed, 0.0 if self.mode == "fail" else self.limit)

    def verdict(self, listed_in: object) -> str:
        """Return why the run stops; call this after `share`."""
        first = min(self.known)
        if self.mode == "fail":
            return f"{first}: {', '.join(self.bad[first])} (data.bad is fail; retry and skip continue without it)"
        where = f"; they are listed in {listed_in}" if listed_in else ""
        return (
            f"{len(self.known)} of {self.listed} training videos cannot be read, {allowed(self.limit)} (first: "
            f"{first}: {', '.join(self.bad[first])}){where}; {ADVICE}"
        )


class Validated:
    """The batches of a validation list, counted as they are taken.

    Iterating raises TooMuchBadData, in all processes together, once more videos of the list could not be read than
    `limit`, a share of them.
    """

    def __init__(self, accelerator: Accelerator, feed: Feed, batches: Iterator[Batch], limit: float) -> None:
        self.accelerator, self.feed, self.taken, self.limit = accelerator, feed, batches, limit
        self.read = 0
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.taken:
            facts = zip(batch["members"], batch["counts"], batch["status"], batch["reason"], strict=True)
            for index, counts, status, reason in facts:
                self.read += counts
                if index >= 0 and not counts:
                    self.failures.append(f"{self.feed.rows[index].path}: {status}: {reason}")
            self.check()
            yield batch

    def check(self) -> None:
        """Raise TooMuchBadData if there are too many, in all processes together."""
        failed = sum(count for (count,) in gather_numbers(self.accelerator, [len(self.failures)]))
        listed = self.feed.order.num_samples
        if too_many(failed, listed, self.limit):
            first = min(line for part in gather(self.accelerator, self.failures) for line in part)
            raise TooMuchBadData(
                f"{failed} of {listed} validation videos cannot be read, {allowed(self.limit)} (first: {first}); "
                f"{ADVICE}"
            )

    def counts(self) -> dict[str, int]:
        """Return how many videos could be read in all processes, and how many could not."""
        rows = gather_numbers(self.accelerator, [self.read, len(self.failures)])
        read, failed = (sum(column) for column in zip(*rows, strict=True))
        return {"val_videos": read, "val_failed": failed}


def unreadable(bad: Bad) -> set[str]:
    """Return the paths of the videos from which nothing could be used."""
    return {path for path, (status, _) in bad.items() if status != "partial"}


def too_many(bad: int, listed: int, limit: float) -> bool:
    """Return whether `bad` of a list exceed the share `limit` of it, or are all of it."""
    return bad > limit * listed or bad >= listed


def allowed(limit: float) -> str:
    """Describe the rule of `too_many`."""
    return f"more than data.max_bad {limit} allows" if limit < 1 else "so there is nothing to learn from"
