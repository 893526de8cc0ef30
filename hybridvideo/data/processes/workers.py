"""Processes that may be killed and are replaced: what a file does to its decoder, it does to a worker only.

    main process                    worker k
    a task = keys of a batch  --->  item(key) for each key, batch(items)     one pipe per worker, no lock is shared
    results in order          <---  the batch, its tensors in shared memory  (transport.py)

A worker's mark (a few numbers in shared memory) says where it is and since when. One that is past its deadline is
killed; one that dies (native crash, out of memory) is noticed at once. Where it was at an item, that is a strike for
the item: a fresh worker takes the same task again. At the second strike the item is lost: from then on `lost(key, why)`
stands in its place. Everything else comes as if nothing had happened. Deaths outside of any item (while starting,
batching, sending) are nobody's fault: the task is done again, and after a few of them the machine is called to blame.

Workers are started clean (launcher.py): they know nothing of the main module, which needs no guard.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from hybridvideo.config.jobs import Decoding
from hybridvideo.data.processes import transport
from hybridvideo.data.processes.launcher import LAUNCHER
from hybridvideo.data.processes.worker import MOST_KEYS, NO_MEMORY, PHASES, STARTING, Failure, Lost, Mark, Work, packed
from hybridvideo.errors import EnvironmentFault, UserError

__all__ = ["Lost", "Work", "Workers", "each"]

STARTING_SECONDS = 60.0  # that starting may take at least, whatever the deadline
STRIKES = 2  # deaths of a worker at one item until the item is lost
UNEXPLAINED = 5  # deaths outside any item, in a row or with one task, until the machine is to blame
EACH_AHEAD = 64  # tasks for each worker that `each` may be ahead of one that takes long

Task = TypeVar("Task", bound=Hashable)
Result = TypeVar("Result")


# ---- the main process


@dataclass
class _Task:
    number: int
    keys: Sequence[Any]
    unexplained: int = 0  # workers that died with it in hand, outside any item


class _Process:
    """One worker as the main process sees it: its pipe, its mark, and the tasks it has, the one in work first."""

    def __init__(self, work: Work, deadline: float) -> None:
        self.deadline = deadline
        self.tasks: deque[_Task] = deque()
        self.busy_since = 0.0  # when it came to have something to do
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

    def give(self, task: _Task, lost: dict[int, Lost]) -> None:
        if not self.tasks:
            self.busy_since = time.monotonic()
        self.tasks.append(task)
        self._send((task.number, task.keys, lost))

    def _send(self, message: tuple[Any, ...]) -> None:
        with contextlib.suppress(OSError):  # it just died or hangs: that is noticed where its pipe is read
            self.connection.send(message)

    def take(self) -> Any:
        """The result of its first task, and its number."""
        number, result = transport.receive(self.connection)
        self.busy_since = time.monotonic()
        task = self.tasks.popleft()
        assert task.number == number, (task.number, number)
        return task, result

    def item(self, place: int) -> Any:
        """The key that a place of its mark stands for; None for places outside items."""
        number, position = divmod(place, MOST_KEYS)
        keys = next((task.keys for task in self.tasks if task.number == number), None)
        return None if place < 0 or keys is None else keys[position]

    def time_left(self) -> float:
        """Seconds until it is past its deadline; without end while it has nothing to do."""
        if not self.tasks:
            return math.inf
        place, since = self.mark.place, self.mark.since
        allowed = max(self.deadline, STARTING_SECONDS) if place == STARTING else self.deadline
        # outside items it may have waited for this process, which was away
        return (since if place >= 0 else max(since, self.busy_since)) + allowed - time.monotonic()

    def end(self, patience: float = 0.0) -> int | None:
        """Kill it if it lives `patience` seconds from now, close all that belongs to it; gives its exit code."""
        (code,) = LAUNCHER.end([self.number], patience)
        self.connection.close()
        return code


@dataclass
class _State:
    """What is left to close, apart from `Workers` so that closing needs no living one. owner: who started them."""

    processes: list[_Process] = field(default_factory=list)
    owner: int = field(default_factory=os.getpid)

    def close(self) -> None:
        processes, self.processes = self.processes, []
        if processes and self.owner == os.getpid():
            LAUNCHER.end([process.number for process in processes])
        for process in processes:
            process.connection.close()


class Workers:
    """Processes that do one kind of work, again and again; a context manager.

    deadline: seconds for one item. depth: tasks that a worker has at a time, so that it need not wait for the next.
    window: tasks that are given out ahead of the one whose result is awaited; default: depth for each worker.
    """

    def __init__(
        self,
        work: Work,
        workers: int,
        *,
        deadline: float = Decoding.deadline,
        depth: int = 2,
        window: int | None = None,
    ) -> None:
        if not deadline > 0:
            raise UserError(f"a deadline of {deadline} seconds; give a number above 0")
        if workers < 1:
            raise UserError(f"workers is {workers}; give 0 or more")
        assert depth > 0, depth
        self.work, self.count, self.deadline, self.depth = work, workers, deadline, depth
        self.window = window or workers * depth
        self.lost: dict[Hashable, Lost] = {}
        self._strikes: Counter[Hashable] = Counter()
        self._unexplained = 0
        self._next = 0  # number of the next task
        self._again: deque[_Task] = deque()  # tasks whose worker died
        self._results: dict[int, Any] = {}
        self._wanted = 0  # the first task whose result is wanted
        self._turn = 0  # number of the iteration
        self._ended = True  # whether it has no task that is not given out
        self._new_state()

    def _new_state(self) -> None:
        self._state = _State()
        Finalize(self, self._state.close, exitpriority=10)  # before the launcher; never in a fork of this process

    def run(self, tasks: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """The result of each task, in their order. What the work raises is raised in its turn, with its type.

        One iteration at a time: a new one ends the one before. Raises EnvironmentFault where workers cannot work.
        """
        if self._state.owner != os.getpid():  # this is a fork: the workers are the parent's
            self._new_state()
        self._forget()
        self._turn, self._ended = self._turn + 1, False
        turn, number = self._turn, self._next
        waiting = iter(tasks)
        try:
            while True:
                self._give_out(waiting, number)
                if number == self._next and self._ended:
                    return
                if number not in self._results:
                    self._listen()
                    continue
                result = self._results.pop(number)
                number += 1
                self._give_out(waiting, number)
                if isinstance(result, Failure):
                    result.throw()
                yield result
                del result  # its memory is the caller's, who may be done with it
                assert turn == self._turn, "another iteration has begun since"
        finally:
            if turn == self._turn:
                self._forget()

    def close(self) -> None:
        """End all processes; nothing of them is left. They start again when they are used again."""
        self._forget()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """No result of the tasks so far is wanted; workers leave them at the next item."""
        self._wanted = self._next
        self._results.clear()
        self._again.clear()
        for process in self._state.processes:
            process.mark.wanted = self._wanted

    def _give_out(self, waiting: Iterator[Sequence[Any]], awaited: int) -> None:
        """Fill up the workers, evenly, those that died replaced."""
        processes = self._state.processes
        while len(processes) < self.count:
            processes.append(_Process(self.work, self.deadline))
            processes[-1].mark.wanted = self._wanted
        for depth in range(1, self.depth + 1):
            for process in processes:
                if len(process.tasks) < depth and (task := self._next_task(waiting, awaited)):
                    process.give(task, self._lost_of(task))

    def _next_task(self, waiting: Iterator[Sequence[Any]], awaited: int) -> _Task | None:
        if self._again:
            return self._again.popleft()
        if self._ended or self._next - awaited >= self.window:
            return None
        if (keys := next(waiting, None)) is None:
            self._ended = True
            return None
        assert len(keys) < MOST_KEYS, len(keys)
        self._next += 1
        return _Task(self._next - 1, keys)

    def _lost_of(self, task: _Task) -> dict[int, Lost]:
        identities = map(self.work.identity, task.keys)
        return {position: self.lost[it] for position, it in enumerate(identities) if it in self.lost}

    def _listen(self) -> None:
        """Wait until a worker sends something, dies or is past its deadline, and deal with all that did."""
        processes = self._state.processes
        left = min(process.time_left() for process in processes)
        patience = None if left == math.inf else min(max(left, 0.0), self.deadline)  # one that starts has longer
        ready = wait([process.connection for process in processes], patience)
        for process in list(processes):
            if process.connection in ready:
                self._receive(process)
        for process in list(processes):
            place = process.mark.place
            if process.time_left() < 0 and not process.connection.poll():
                self._replace(process, "timeout", place)

    def _receive(self, process: _Process) -> None:
        """All that a worker has sent; its end, if that is what came."""
        try:
            while process.connection.poll():
                task, result = process.take()
                self._unexplained = 0
                self._forgive(task)
                if task.number >= self._wanted:
                    self._results[task.number] = result
        except BlockingIOError:  # a message that does not go on
            self._replace(process, "timeout", process.mark.place)
        except (EOFError, OSError):
            self._replace(process, "crashed")

    def _forgive(self, task: _Task) -> None:
        """Items that came whole have no strikes: those were another's fault, such as the machine's."""
        if self._strikes:
            for key in task.keys:
                self._strikes.pop(self.work.identity(key), None)

    def _replace(self, process: _Process, status: str, place: int | None = None) -> None:
        """A worker is dead or past its deadline: note the strike, have its tasks done again by another.

        place: where it was when its time was up. Where it has moved on since, nobody gets a strike.
        """
        self._state.processes.remove(process)
        code = process.end(patience=1.0 if status == "crashed" else 0.0)  # its exit code comes in a moment
        last = process.mark.place
        key = process.item(last)
        if key is None or code is None or place not in (None, last):
            self._note_unexplained(process, status, code, last)
        else:
            self._strike(self.work.identity(key), Lost(status, self._why(status, code)))
        self._again.extendleft(task for task in reversed(process.tasks) if task.number >= self._wanted)

    def _strike(self, identity: Hashable, lost: Lost) -> None:
        self._strikes[identity] += 1
        if self._strikes[identity] >= STRIKES:
            self.lost[identity] = lost

    def _note_unexplained(self, process: _Process, status: str, code: int | None, place: int) -> None:
        self._unexplained += 1
        for task in list(process.tasks)[:1]:
            task.unexplained += 1
        times = max(self._unexplained, *(task.unexplained for task in process.tasks), 0)
        if times >= UNEXPLAINED:
            raise EnvironmentFault(_unexplained(status, code, place, times))

    def _why(self, status: str, code: int | None) -> str:
        if status == "timeout":
            return f"took more than {self.deadline:g} s, {STRIKES} times"
        return f"ended its decoding process {STRIKES} times ({_death(code)})"


def _unexplained(status: str, code: int | None, place: int, times: int) -> str:
    """One line on workers that end where no file is to blame, and what to do."""
    where = PHASES.get(place, "while they move on")
    if status == "timeout":
        what = f"hang {where}, {times} times"
        advice = "the machine or its disks may be overloaded: lower the number of workers, or raise the deadline"
    else:
        what = f"end {where}, {times} times ({_death(code)})"
        advice = "their error stands above" if code == 1 else "memory may be short: lower the number of workers"
    return f"worker processes {what}; {advice}"


def _death(code: int | None) -> str:
    """An exit code in words."""
    if code == NO_MEMORY:
        return "out of memory"
    if code is None:
        return "with the process that starts them"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name


# ---- one call for each task


@dataclass(frozen=True)
class _Each:
    """`Work` of tasks that are one item each."""

    function: Callable[[Any], Any]

    def item(self, key: Any) -> Any:
        return self.function(key)

    def lost(self, key: Any, lost: Lost) -> Any:
        return lost

    def batch(self, items: list[Any]) -> Any:
        return items[0]

    def identity(self, key: Any) -> Hashable:
        return cast(Hashable, key)


def each(
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int = 2, deadline: float = Decoding.deadline
) -> Generator[Result | Lost]:
    """`function(task)` of each task, in their order; Lost where no worker survived it.

    function: of a module, or a functools.partial of one. tasks: hashable. deadline: seconds for one task.
    workers=0 calls it in this process, where nothing protects from a file that hangs or kills. What `function` raises
    is raised here. Workers are killed when the iteration ends, also before its end.
    """
    if workers == 0:
        yield from map(function, tasks)
        return
    with Workers(_Each(function), workers, deadline=deadline, depth=1, window=EACH_AHEAD * workers) as pool:
        yield from pool.run((task,) for task in tasks)
