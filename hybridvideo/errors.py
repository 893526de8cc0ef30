"""What can go wrong, by who has to act on it. Each kind carries the exit code of the command.

0 done   1 unexpected   2 usage or config   3 more bad data than allowed   4 environment   75 preempted and saved
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

# Status of a video in a table: "ok", "partial" (a readable part was used), or why nothing could be read.
STATUSES = (
    "ok",
    "partial",
    "short",
    "no_video",
    "unreadable",
    "unsupported",
    "refused",
    "missing",
    "timeout",
    "crashed",
)
USABLE = ("ok", "partial", "short")  # videos of these statuses are used; short ones are padded


class HybridVideoError(Exception):
    """Base of every error this package raises on purpose; its text is one line."""

    exit_code = 1


class UserError(HybridVideoError, ValueError):
    """A wrong argument, config or input. The text states what, where, what is allowed and what to do next."""

    exit_code = 2


class TooMuchBadData(HybridVideoError):
    """More files could not be read than `max_bad` allows."""

    exit_code = 3


class EnvironmentFault(HybridVideoError):
    """Something in this installation is missing or does not fit."""

    exit_code = 4


class Preempted(HybridVideoError):
    """The job was asked to stop, saved its state, and can be resumed."""

    exit_code = 75


class VideoError(HybridVideoError):
    """A video could not be read. `status` is one of STATUSES, `reason` one line for the user."""

    def __init__(self, status: str, reason: str) -> None:
        assert status in STATUSES, status
        self.status = status
        self.reason = " ".join(reason.split())
        super().__init__(f"{status}: {self.reason}")

    def __reduce__(self) -> tuple[type[VideoError], tuple[str, str]]:
        return type(self), (self.status, self.reason)  # survives pickling, on its way out of a worker


def nearest(name: str, allowed: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the allowed name most like `name`, or an empty string."""
    close = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""
