"""Being asked to stop: Ctrl-C or SIGTERM sets a flag that the loop reads between steps; a second Ctrl-C ends it."""

from __future__ import annotations

import signal
import sys
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """A context in which the signals set `requested` instead of ending the process."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step; the run will be saved (Ctrl-C again: at once, unsaved)", file=sys.stderr)

    def anywhere(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; all processes must call this together."""
        if accelerator.num_processes == 1:
            return self.requested
        flag = torch.tensor(float(self.requested), device=accelerator.device)
        return bool(accelerator.reduce(flag, "sum") > 0)
