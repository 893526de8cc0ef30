"""What runs in a worker process: the items of a task one by one, then the batch; a mark shows where it is.

A worker has one thread, ignores Ctrl-C and SIGTERM, ends with the main process whatever it is doing (launcher.py), and
is the first to be killed when memory runs out.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import pickle
import platform
import sys
import time
import traceback
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol

import torch

from hybridvideo.data.processes import transport
from hybridvideo.errors import UserError

NO_MEMORY = 77  # exit code of a worker that asked for more memory than there is

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)


# ---- where a worker is

STARTING, WAITING, BETWEEN, BATCHING, SENDING = range(-5, 0)
PHASES = {
    STARTING: "while starting",
    WAITING: "while waiting for a task",
    BETWEEN: "between two videos",
    BATCHING: "while making a batch",
    SENDING: "while sending a batch",
}
MOST_KEYS = 2**20  # of a task


class Mark:
    """Where a worker is, in memory that it shares with the main process.

    place: one of PHASES, or number of the task * MOST_KEYS + position of the current item. It is one number and is
    written last, so that no death can fall between an item and its time.
    """

    _PLACE, _SINCE, _WANTED = range(3)
    SIZE = 3 * 8  # bytes

    def __init__(self, descriptor: int) -> None:
        self._numbers = memoryview(mmap.mmap(descriptor, self.SIZE)).cast("q")

    def set(self, place: int) -> None:
        """Called by the worker: it is at this place from now on."""
        self._numbers[self._SINCE] = time.monotonic_ns()
        self._numbers[self._PLACE] = place

    @property
    def place(self) -> int:
        return self._numbers[self._PLACE]

    @property
    def since(self) -> float:
        """Seconds of time.monotonic(), the same clock in all processes."""
        return self._numbers[self._SINCE] / 1e9

    @property
    def wanted(self) -> int:
        """The first task whose result is wanted, set by the main process."""
        return self._numbers[self._WANTED]

    @wanted.setter
    def wanted(self, number: int) -> None:
        self._numbers[self._WANTED] = number


# ---- what it does


@dataclass(frozen=True)
class Lost:
    """An item that no worker survived. status: "timeout" or "crashed"; reason: one line."""

    status: str
    reason: str


class Work(Protocol):
    """What workers do; pickled to each of them once."""

    def item(self, key: Any) -> Any:
        """Read one file: this is what has a deadline, and what may kill the worker."""

    def lost(self, key: Any, lost: Lost) -> Any:
        """Return what takes the place of a lost item."""

    def batch(self, items: list[Any]) -> Any:
        """Return what is sent back for the items of a task."""

    def identity(self, key: Any) -> Hashable:
        """Return the part of the key that is remembered as lost, in later tasks too."""


@dataclass
class Failure:
    """What the work raised; sent like a result. where: the worker's traceback."""

    error: Exception
    where: str

    def throw(self) -> NoReturn:
        self.error.add_note(f"raised in a worker process:\n{self.where}")
        raise self.error


def serve(pipe: int, mark_file: int) -> None:
    """Do tasks until the main process has gone."""
    _prepare()
    mark = Mark(mark_file)
    with Connection(pipe) as connection, contextlib.suppress(EOFError, OSError):
        work = _unpacked(*connection.recv())
        while True:
            mark.set(WAITING)
            number, keys, lost = connection.recv()
            mark.set(BETWEEN)
            result = work if isinstance(work, Failure) else _attempt(work, number, keys, lost, mark)
            mark.set(SENDING)
            try:
                transport.send(connection, (number, result))
            except (pickle.PicklingError, AttributeError, TypeError) as error:
                transport.send(connection, (number, _portable(error)))
            del result  # its memory belongs to the main process now


def packed(work: Work) -> tuple[str | None, list[str], bytes]:
    """Return what a new worker needs: the working directory, the folders of modules, the work."""
    try:
        here = os.getcwd()
    except OSError:
        here = None  # removed; absolute paths work
    return here, sys.path, pickle.dumps(work)


def _unpacked(folder: str | None, path: list[str], work: bytes) -> Work | Failure:
    sys.path[:] = path
    try:
        if folder is not None:
            os.chdir(folder)
        unpacked: Work = pickle.loads(work)
        return unpacked
    except AttributeError as error:  # it is defined in the main module, which no worker imports
        advice = "move what workers use to a module of its own, or use workers=0"
        return _portable(UserError(f"{error}; {advice}"))
    except Exception as error:
        return _portable(error)


def _attempt(work: Work, number: int, keys: Sequence[Any], lost: dict[int, Lost], mark: Mark) -> Any:
    try:
        items = []
        for position, key in enumerate(keys):
            if number < mark.wanted:
                return None
            if position in lost:
                items.append(work.lost(key, lost[position]))
            else:
                items.append(_item(work, key, number * MOST_KEYS + position, mark))
        mark.set(BATCHING)
        return work.batch(items)
    except Exception as error:
        _end_without_memory(error)
        return _portable(error)


def _item(work: Work, key: Any, place: int, mark: Mark) -> Any:
    """Read one item, marked meanwhile."""
    mark.set(place)
    try:
        return work.item(key)
    except Exception as error:
        _end_without_memory(error)
        raise
    finally:
        mark.set(BETWEEN)


def _end_without_memory(error: Exception) -> None:
    """End the process if the error is a lack of memory, as the system would."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        os._exit(NO_MEMORY)


def _portable(error: Exception) -> Failure:
    """Return the error with its traceback; one that cannot be pickled becomes a RuntimeError."""
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Failure(error, where)


def _prepare() -> None:
    """Use one thread, and be the first to be killed when memory runs out."""
    transport.become_sender()
    torch.set_num_threads(1)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("800")
    keep_memory()


def keep_memory() -> None:
    """Have glibc keep what is freed between frames; returning it and asking again doubles the page faults."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_TRIM_THRESHOLD, 512 * 2**20)
        libc.mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
