"""Where the time of loading goes: stages of the code that a clock can measure, at almost no cost while none is running.

    with stage("decode"): ...          in the code that is measured
    with measured() as clock: ...      around the run that is measured; then clock.seconds["decode"]

One clock in one thread: it is meant for a run that reads its videos in the calling process.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Literal

Stage = Literal["open", "decode", "convert", "transform", "collate", "transfer", "other"]


class Clock:
    """CPU seconds of each stage, not counting the stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[Stage, float] = {}
        self._inner = [0.0]  # seconds of the stages inside the one that runs, level by level

    @contextlib.contextmanager
    def running(self, name: Stage) -> Iterator[None]:
        """Count what happens inside as this stage."""
        start = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - start
            own = spent - self._inner.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            self._inner[-1] += spent


class _Unmeasured:
    """The stages of a run without a clock."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


_UNMEASURED = _Unmeasured()
_clock: Clock | None = None


def stage(name: Stage) -> AbstractContextManager[None]:
    """A part of the work, timed if there is a clock."""
    return _UNMEASURED if _clock is None else _clock.running(name)


@contextlib.contextmanager
def measured() -> Iterator[Clock]:
    """Measure the stages that run inside, with a new clock."""
    global _clock
    before, _clock = _clock, Clock()
    try:
        yield _clock
    finally:
        _clock = before
