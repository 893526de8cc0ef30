"""Requests to stop: a signal sets a flag that the loop reads between steps; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from hybridvideo.errors import Preempted
from hybridvideo.signals import handlers, listen, restore

if TYPE_CHECKING:
    from accelerate import Accelerator


class StopRequest:
    """A context in which signals set `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self._before = listen(self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        restore(self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.requested = True
        if os.environ.get("RANK", "0") == "0":
            print("\nstopping once the current work is saved (again: stop now without saving)", file=sys.stderr)

    def anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all processes must call this together."""
        if accelerator.num_processes == 1:
            return self.requested
        import torch  # not above: signals are listened to before anything heavy is imported

        flag = torch.tensor(float(self.requested), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)


@contextmanager
def stopping_at_once(message: str) -> Iterator[None]:
    """A context for work outside the loop's steps. The first signal ends it with Preempted(message)."""

    def ask(number: int, frame: FrameType | None) -> None:
        listen(signal.SIG_IGN)  # a launcher and its own launcher both ask; the cleanup must not be interrupted
        raise KeyboardInterrupt

    before = handlers()
    try:
        listen(ask)  # in here, since a signal may come before all of them are listened to
        yield
    except KeyboardInterrupt:
        raise Preempted(message) from None
    finally:
        restore(before)
