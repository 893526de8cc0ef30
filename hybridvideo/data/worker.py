"""What runs in a worker process: the items of a task one by one, marked while they last, then the batch.

A worker has one thread, is deaf to Ctrl-C and SIGTERM, ends with the main process whatever it is doing, and is the
first to go where memory ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import multiprocessing
import os
import pickle
import platform
import signal
import time
import traceback
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn, Protocol

import torch

from hybridvideo.data import transport

NO_MEMORY = 77  # exit code of a worker whose item asked for more memory than there is

# The numbers of a mark: position of the item in its task (or IDLE) and the time it was begun, written by the worker;
# the first task that is still wanted, written by the main process.
ITEM, SINCE, WANTED = range(3)
IDLE = -1

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


@dataclass(frozen=True)
class Lost:
    """An item that no worker survived. status: "timeout" or "crashed"; reason: one line."""

    status: str
    reason: str


class Work(Protocol):
    """What workers do; pickled to each of them once."""

    def item(self, key: Any) -> Any:
        """One file: what the deadline is for, and what may take the worker with it."""

    def lost(self, key: Any, lost: Lost) -> Any:
        """What stands in the place of a lost item."""

    def batch(self, items: list[Any]) -> Any:
        """The items of a task as what is sent back."""

    def identity(self, key: Any) -> Hashable:
        """What of the key is remembered as lost, in later tasks too."""


@dataclass
class Failure:
    """What the work raised; goes the way of a result. where: the worker's traceback."""

    error: Exception
    where: str

    def throw(self) -> NoReturn:
        self.error.add_note(f"raised in a worker process:\n{self.where}")
        raise self.error


def serve(connection: Connection, mark: Any, work: Work) -> None:
    """Do tasks until the main process is gone."""
    _prepare()
    with contextlib.suppress(EOFError, OSError):
        while True:
            number, keys, lost = connection.recv()
            result = _attempt(work, number, keys, lost, mark)
            try:
                transport.send(connection, (number, result))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                transport.send(connection, (number, _portable(error)))
            del result  # its memory belongs to the main process now


def _attempt(work: Work, number: int, keys: Sequence[Any], lost: dict[int, Lost], mark: Any) -> Any:
    try:
        items = []
        for position, key in enumerate(keys):
            if number < mark[WANTED]:
                return None
            items.append(work.lost(key, lost[position]) if position in lost else _item(work, key, position, mark))
        return work.batch(items)
    except Exception as error:
        return _portable(error)


def _item(work: Work, key: Any, position: int, mark: Any) -> Any:
    """One item, marked while it lasts. One that asks for too much memory ends the process, as the system would."""
    mark[SINCE] = time.monotonic()
    mark[ITEM] = position
    try:
        item = work.item(key)
    except Exception as error:
        if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
            os._exit(NO_MEMORY)
        mark[ITEM] = IDLE
        raise
    mark[ITEM] = IDLE
    return item


def _portable(error: Exception) -> Failure:
    """The error with its traceback; one that does not survive pickling becomes a RuntimeError."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, where)


def _prepare() -> None:
    """One thread; deaf to signals to the whole group, since the main process decides when workers stop."""
    transport.become_sender()
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    _end_with_main()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("800")
    keep_memory()


def _end_with_main() -> None:
    """Have the kernel end this process when the main process goes, even where a decoder hangs and holds Python's lock.

    The main process holds the other end of the sentinel; when that closes, SIGIO comes, whose default is to end.
    Elsewhere than on Linux a worker ends when it next looks at its pipe.
    """
    main = multiprocessing.parent_process()
    if main is not None and platform.system() == "Linux":
        fcntl.fcntl(main.sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(main.sentinel, fcntl.F_SETFL, fcntl.fcntl(main.sentinel, fcntl.F_GETFL) | os.O_ASYNC)
        if wait([main.sentinel], 0):
            os._exit(1)  # it went before this


def keep_memory() -> None:
    """Have glibc keep what is freed between frames; giving it back and asking again doubles the page faults."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 512 * 2**20)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
