"""Processes that die at a chosen moment, acted in this one or for good in a copy of it."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

STEPS = {os: ("mkdir", "fsync", "rename", "replace", "unlink", "rmdir"), shutil: ("rmtree",)}


class Killed(BaseException):
    """Not an Exception: nothing tidies up after it, as nothing does after SIGKILL."""


@dataclass
class Kill:
    """What came of it."""

    left: int
    happened: bool = False
    really: bool = False
    """Whether the process ends then and there."""

    def step(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, for as long as the process lives."""

        def called(*arguments: Any, **options: Any) -> Any:
            if self.happened or self.left == 0:
                self.happened = True
                if self.really:
                    os._exit(137)
                raise Killed
            self.left -= 1
            return function(*arguments, **options)

        return called


@contextmanager
def killed_after(steps: int) -> Iterator[Kill]:
    """The block changes names on disk, and flushes, so many times; then it dies, and what follows changes nothing."""
    kill = Kill(steps)
    patches = [
        mock.patch.object(module, name, kill.step(getattr(module, name))) for module, names in STEPS.items()
        for name in names
    ]  # fmt: skip
    for patch in patches:
        patch.start()
    try:
        yield kill
    except Killed:
        pass
    finally:
        for patch in patches:
            patch.stop()


def in_a_copy(work: Callable[[], Any]) -> int:
    """Start `work` in a copy of this process; gives its id."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def dies_after(steps: int, work: Callable[[], Any]) -> bool:
    """Do `work` in a process that dies after so many steps of writing; whether it did, else it came to its end."""

    def limited() -> None:
        with killed_after(steps) as kill:
            kill.really = True
            work()

    _, status = os.waitpid(in_a_copy(limited), 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, 137), code
    return code == 137


def killed_at(seconds: float, work: Callable[[], Any]) -> bool:
    """Do `work` in a process that gets SIGKILL so many seconds from now; whether it did before it was done."""
    pid, end = in_a_copy(work), time.monotonic() + seconds
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(pid, signal.SIGKILL)
        ended = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(ended[1])
    assert code in (0, -signal.SIGKILL), code
    return code != 0
