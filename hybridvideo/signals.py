"""Signals: which of them ask a process to stop, handling them, and asking for one when the parent ends.

SIGINT    Ctrl-C                          SIGHUP               the terminal closed (nohup ignores it)
SIGTERM   schedulers, `kill`, launchers   SIGUSR1, SIGUSR2     schedulers' warning before a time limit
"""

from __future__ import annotations

import ctypes
import platform
import signal
from typing import Any

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
PR_SET_PDEATHSIG = 1  # prctl(2)


def listen(handler: Any) -> dict[signal.Signals, Any]:
    """Call `handler` for the stopping signals; return those it replaces. Ignored ones (nohup) stay ignored."""
    before = handlers()
    for number in before:
        signal.signal(number, handler)
    return before


def handlers() -> dict[signal.Signals, Any]:
    """Return the present handlers of the stopping signals that are not ignored."""
    present = {number: signal.getsignal(number) for number in STOPPING}
    return {number: handler for number, handler in present.items() if handler is not signal.SIG_IGN}


def restore(before: dict[signal.Signals, Any]) -> None:
    """Undo `listen`."""
    for number, handler in before.items():
        signal.signal(number, handler)


def send_when_parent_ends(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent ends, whatever it is doing. Linux only.

    A parent that has already ended goes unnoticed: compare `os.getppid()` afterwards.
    """
    if platform.system() == "Linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
