"""Processes that may be killed and are replaced: whatever a file does to its decoder happens to a worker only.

    main process                    worker k
    a task = keys of a batch  --->  item(key) for each key, batch(items)     one pipe per worker, no shared lock
    results in order          <---  the batch, its tensors in shared memory  (transport.py)

A worker's mark (a few numbers in shared memory) shows where it is and since when. A worker past its deadline is killed;
one that dies (native crash, out of memory) is noticed at once. If it was at an item, that is a strike for the item: a
new worker takes the same task again. At the second strike the item is lost: from then on `lost(key, why)` takes its
place. Everything else arrives as if nothing had happened. Deaths outside any item (while starting, batching, sending)
are nobody's fault: the task is repeated, and after a few of them the machine is blamed.

Workers start clean (launcher.py): they know nothing of the main module, which needs no guard.
"""

from __future__ import annotations

import math
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from hybridvideo.config.jobs import Decoding
from hybridvideo.data.processes.handle import Handle, Task, death
from hybridvideo.data.processes.launcher import LAUNCHER
from hybridvideo.data.processes.worker import MOST_KEYS, PHASES, Failure, Lost, Work
from hybridvideo.errors import EnvironmentFault, UserError

__all__ = ["Lost", "Work", "Workers", "each"]

STRIKES = 2  # deaths of workers at an item until it is lost
UNEXPLAINED = 5  # deaths outside any item, in a row or with one task, until the machine is blamed
EACH_AHEAD = 64  # tasks per worker by which `each` may run ahead of a slow one

Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


@dataclass
class _State:
    """What has to be closed; apart from `Workers`, so that closing needs no living one. owner: who started them."""

    processes: list[Handle] = field(default_factory=list)
    owner: int = field(default_factory=os.getpid)

    def close(self) -> None:
        processes, self.processes = self.processes, []
        if processes and self.owner == os.getpid():
            LAUNCHER.end([process.number for process in processes])
        for process in processes:
            process.connection.close()


class Workers:
    """Processes that do one kind of work repeatedly; a context manager.

    deadline: seconds for one item. depth: tasks that a worker has at a time, so that it need not wait for the next one.
    window: tasks that are handed out ahead of the one whose result is awaited; default: `depth` per worker.
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
        self._again: deque[Task] = deque()  # tasks whose worker died
        self._results: dict[int, Any] = {}
        self._wanted = 0  # the first task whose result is wanted
        self._turn = 0  # number of the iteration
        self._ended = True  # whether every task has been handed out
        self._new_state()

    def _new_state(self) -> None:
        self._state = _State()
        Finalize(self, self._state.close, exitpriority=10)  # before the launcher; never in a fork of this process

    def run(self, tasks: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """Yield the result of each task, in order. What the work raises is raised here in its turn, with its type.

        One iteration at a time: a new one ends the previous one. Raises EnvironmentFault if workers cannot work.
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
                del result  # its memory belongs to the caller, who may be done with it
                assert turn == self._turn, "another iteration has begun since"
        finally:
            if turn == self._turn:
                self._forget()

    def close(self) -> None:
        """End all processes. New ones start at the next use."""
        self._forget()
        self._state.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self) -> None:
        """Drop the tasks so far; workers abandon them at the next item."""
        self._wanted = self._next
        self._results.clear()
        self._again.clear()
        for process in self._state.processes:
            process.mark.wanted = self._wanted

    def _give_out(self, waiting: Iterator[Sequence[Any]], awaited: int) -> None:
        """Replace workers that died, and give all of them tasks, evenly."""
        processes = self._state.processes
        while len(processes) < self.count:
            processes.append(Handle(self.work, self.deadline))
            processes[-1].mark.wanted = self._wanted
        for depth in range(1, self.depth + 1):
            for process in processes:
                if len(process.tasks) < depth and (task := self._next_task(waiting, awaited)):
                    process.give(task, self._lost_of(task))

    def _next_task(self, waiting: Iterator[Sequence[Any]], awaited: int) -> Task | None:
        if self._again:
            return self._again.popleft()
        if self._ended or self._next - awaited >= self.window:
            return None
        if (keys := next(waiting, None)) is None:
            self._ended = True
            return None
        assert len(keys) < MOST_KEYS, len(keys)
        self._next += 1
        return Task(self._next - 1, keys)

    def _lost_of(self, task: Task) -> dict[int, Lost]:
        identities = map(self.work.identity, task.keys)
        return {position: self.lost[it] for position, it in enumerate(identities) if it in self.lost}

    def _listen(self) -> None:
        """Wait until a worker sends something, dies or passes its deadline, and handle all that did."""
        processes = self._state.processes
        left = min(process.time_left() for process in processes)
        patience = None if left == math.inf else min(max(left, 0.0), self.deadline)  # a starting worker has longer
        ready = wait([process.connection for process in processes], patience)
        for process in list(processes):
            if process.connection in ready:
                self._receive(process)
        for process in list(processes):
            place = process.mark.place
            if process.time_left() < 0 and not process.connection.poll():
                self._replace(process, "timeout", place)

    def _receive(self, process: Handle) -> None:
        """Take everything a worker has sent; replace it if its pipe has ended."""
        try:
            while process.connection.poll():
                task, result = process.take()
                self._unexplained = 0
                self._forgive(task)
                if task.number >= self._wanted:
                    self._results[task.number] = result
        except BlockingIOError:  # a message that stops in the middle
            self._replace(process, "timeout", process.mark.place)
        except (EOFError, OSError):
            self._replace(process, "crashed")

    def _forgive(self, task: Task) -> None:
        """Clear the strikes of items that arrived: something else, such as the machine, was to blame."""
        if self._strikes:
            for key in task.keys:
                self._strikes.pop(self.work.identity(key), None)

    def _replace(self, process: Handle, status: str, place: int | None = None) -> None:
        """End a worker that is dead or past its deadline, note the strike, and queue its tasks again.

        place: where it was when its time was up. If it has moved on since, no item gets a strike.
        """
        self._state.processes.remove(process)
        code = process.end(patience=1.0 if status == "crashed" else 0.0)  # its exit code takes a moment
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

    def _note_unexplained(self, process: Handle, status: str, code: int | None, place: int) -> None:
        self._unexplained += 1
        for task in list(process.tasks)[:1]:
            task.unexplained += 1
        times = max(self._unexplained, *(task.unexplained for task in process.tasks), 0)
        if times >= UNEXPLAINED:
            raise EnvironmentFault(_unexplained(status, code, place, times))

    def _why(self, status: str, code: int | None) -> str:
        if status == "timeout":
            return f"took more than {self.deadline:g} s, {STRIKES} times"
        return f"ended its decoding process {STRIKES} times ({death(code)})"


def _unexplained(status: str, code: int | None, place: int, times: int) -> str:
    """Describe, in one line, workers that end without a file to blame, and what to do."""
    where = PHASES.get(place, "between two places")
    if status == "timeout":
        what = f"hang {where}, {times} times"
        advice = "the machine or its disks may be overloaded: lower the number of workers, or raise the deadline"
    else:
        what = f"end {where}, {times} times ({death(code)})"
        advice = "see their error above" if code == 1 else "memory may be short: lower the number of workers"
    return f"worker processes {what}; {advice}"


# ---- one call for each task


@dataclass(frozen=True)
class _Each:
    """`Work` whose tasks are one item each."""

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
    function: Callable[[Key], Result],
    tasks: Iterable[Key],
    *,
    workers: int = Decoding.workers,
    deadline: float = Decoding.deadline,
) -> Generator[Result | Lost]:
    """Yield `function(task)` of each task, in order, or Lost if no worker survived it.

    function: a module's function, or a functools.partial of one. tasks: hashable. deadline: seconds for one task.
    workers=0 calls it in this process, which nothing then protects from a file that hangs or kills. What `function`
    raises is raised here. Workers are killed when the iteration ends or is abandoned.
    """
    if workers == 0:
        yield from map(function, tasks)
        return
    with Workers(_Each(function), workers, deadline=deadline, depth=1, window=EACH_AHEAD * workers) as pool:
        yield from pool.run((task,) for task in tasks)
