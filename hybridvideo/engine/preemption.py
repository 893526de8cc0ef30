"""Being asked to stop: a signal sets a flag that the loop reads between steps; a second Ctrl-C ends it at once.

SIGINT    Ctrl-C                          SIGHUP               the terminal went (not under nohup, which ignores it)
SIGTERM   schedulers, `kill`, launchers   SIGUSR1, SIGUSR2     schedulers' warning before a time limit
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from hybridvideo.errors import Preempted

if TYPE_CHECKING:
    from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """A context in which the signals set `requested` instead of ending the process."""

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
            print("\nstopping after this step; the run will be saved (Ctrl-C again: at once, unsaved)", file=sys.stderr)

    def anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all processes must call this together."""
        if accelerator.num_processes == 1:
            return self.requested
        import torch  # not above: signals are listened to before anything heavy is imported

        flag = torch.tensor(float(self.requested), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)


@contextmanager
def stopping_at_once(message: str) -> Iterator[None]:
    """A context, outside the loop's steps, in which the first signal ends the work: Preempted with that message."""

    def ask(number: int, frame: FrameType | None) -> None:
        listen(signal.SIG_IGN)  # a launcher and its launcher both ask; what is tidied up is not to be interrupted
        raise KeyboardInterrupt

    before = listen(ask)
    try:
        yield
    except KeyboardInterrupt:
        raise Preempted(message) from None
    finally:
        restore(before)


def listen(handler: Any) -> dict[signal.Signals, Any]:
    """Have `handler` called for the signals; gives what was there. One that is ignored (nohup) stays ignored."""
    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def restore(before: dict[signal.Signals, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)
