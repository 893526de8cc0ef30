"""A worker as seen by the process that started it: its pipe, its mark, and its tasks."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hybridvideo.data.processes import transport
from hybridvideo.data.processes.launcher import LAUNCHER
from hybridvideo.data.processes.worker import MOST_KEYS, NO_MEMORY, STARTING, Lost, Mark, Work, packed

STARTING_SECONDS = 60.0  # that starting may take at least, whatever the deadline


@dataclass
class Task:
    """Keys of items that are read one by one and come back together."""

    number: int
    keys: Sequence[Any]
    unexplained: int = 0  # workers that died while they had it, outside any item


class Handle:
    """One worker process. tasks: those it holds, the current one first. deadline: seconds for one item."""

    def __init__(self, work: Work, deadline: float) -> None:
        self.deadline = deadline
        self.tasks: deque[Task] = deque()
        self.busy_since = 0.0  # when it last got something to do
        message = packed(work)
        file = transport.new_file(Mark.SIZE)
        self.connection, there = multiprocessing.Pipe()
        self.mark = Mark(file)
        self.mark.set(STARTING)
        try:
            self.number = LAUNCHER.start(there.fileno(), file)
        finally:
            there.close()
            os.close(file)
        transport.limit_waiting(self.connection, max(deadline, STARTING_SECONDS))
        self._send(message)

    def give(self, task: Task, lost: dict[int, Lost]) -> None:
        """Send it a task. lost: items of it that are not to be tried, by position."""
        if not self.tasks:
            self.busy_since = time.monotonic()
        self.tasks.append(task)
        self._send((task.number, task.keys, lost))

    def _send(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # it has just died, or hangs: that is noticed when its pipe is read
            self.connection.send(message)

    def take(self) -> Any:
        """Receive the result of its first task; return the task and the result."""
        number, result = transport.receive(self.connection)
        self.busy_since = time.monotonic()
        task = self.tasks.popleft()
        assert task.number == number, (task.number, number)
        return task, result

    def item(self, place: int) -> Any:
        """The key that a place of its mark means; None for places outside items."""
        number, position = divmod(place, MOST_KEYS)
        keys = next((task.keys for task in self.tasks if task.number == number), None)
        return None if place < 0 or keys is None else keys[position]

    def time_left(self) -> float:
        """Seconds until its deadline; infinite while it has nothing to do."""
        if not self.tasks:
            return math.inf
        place, since = self.mark.place, self.mark.since
        allowed = max(self.deadline, STARTING_SECONDS) if place == STARTING else self.deadline
        # outside items it may have waited for this process, which was busy
        return (since if place >= 0 else max(since, self.busy_since)) + allowed - time.monotonic()

    def end(self, patience: float = 0.0) -> int | None:
        """Kill it if it is alive `patience` seconds from now, close what belongs to it; return its exit code."""
        (code,) = LAUNCHER.end([self.number], patience)
        self.connection.close()
        return code


def death(code: int | None) -> str:
    """Describe an exit code."""
    if code == NO_MEMORY:
        return "out of memory"
    if code is None:
        return "with the process that starts workers"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name
