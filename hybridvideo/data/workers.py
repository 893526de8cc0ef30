"""Processes that may be killed and are replaced: what a file does to its decoder, it does to a worker only.

    main process                    worker k
    a task = keys of a batch  --->  item(key) for each key, batch(items)     one pipe per worker, no lock is shared
    results in order          <---  the batch, its tensors in shared memory  (transport.py)

While a worker works, its mark (a few numbers in shared memory) says at which item it is and since when. An item past
its deadline gets its worker killed; a worker that dies (native crash, out of memory) is noticed at once. Either is a
strike for the item: a fresh worker takes the same task again. At the second strike the item is lost: from then on
`lost(key, why)` stands in its place. Everything else comes as if nothing had happened.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.sharedctypes import RawArray
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from hybridvideo.data import transport
from hybridvideo.data.worker import IDLE, ITEM, NO_MEMORY, SINCE, WANTED, Failure, Lost, Work, serve
from hybridvideo.errors import EnvironmentFault, UserError

__all__ = ["DEADLINE", "Lost", "Work", "Workers", "each"]

DEADLINE = 120.0  # seconds an item may take, by the clock
STRIKES = 2  # deaths of a worker at one item until the item is lost
UNEXPLAINED = 5  # deaths in a row outside any item until the machine is to blame
EACH_AHEAD = 64  # tasks for each worker that `each` may be ahead of one that takes long
PRELOAD = ["hybridvideo.data.dataset", "hybridvideo.data.decode.pyav"]

UNSTARTED = (
    "their error stands above; a script that decodes needs `if __name__ == '__main__':` around what it does, "
    "or 0 workers"
)

Task = TypeVar("Task", bound=Hashable)
Result = TypeVar("Result")


# ---- the main process


@dataclass
class _Task:
    number: int
    keys: Sequence[Any]


class _Process:
    """One worker as the main process sees it: its pipe, its mark, and the tasks it has, the one in work first."""

    def __init__(self, work: Work) -> None:
        context = _context()
        self.connection, there = context.Pipe()
        self.mark = RawArray("d", [IDLE, 0.0, 0.0])
        self.tasks: deque[_Task] = deque()
        # mypy does not know that every context has a Process
        self.process = context.Process(target=serve, args=(there, self.mark, work), daemon=True)  # type: ignore[attr-defined]
        self.process.start()
        there.close()

    def give(self, task: _Task, lost: dict[int, Lost]) -> None:
        self.tasks.append(task)
        with contextlib.suppress(OSError):  # it just died: that is noticed where its pipe is read
            self.connection.send((task.number, task.keys, lost))

    def item_in_work(self) -> int | None:
        """Position of the item it is at, in its first task."""
        position = int(self.mark[ITEM])
        return position if self.tasks and position != IDLE else None

    def time_left(self, deadline: float) -> float:
        """Seconds until it can be past its deadline; without end while it has nothing to do."""
        if self.item_in_work() is None:
            return deadline if self.tasks else math.inf
        return float(self.mark[SINCE]) + deadline - time.monotonic()

    def end(self, patience: float = 0.0) -> int | None:
        """Kill it if it lives `patience` seconds from now, close all that belongs to it; gives its exit code."""
        self.process.join(patience)
        self.process.kill()
        self.process.join()
        code: int | None = self.process.exitcode
        self.process.close()
        self.connection.close()
        return code


@dataclass
class _State:
    """What is left to close, apart from `Workers` so that closing needs no living one."""

    processes: list[_Process] = field(default_factory=list)

    def close(self) -> None:
        processes, self.processes = self.processes, []
        for process in processes:
            process.process.kill()
        for process in processes:
            process.end()


class Workers:
    """Processes that do one kind of work, again and again; a context manager.

    deadline: seconds for one item. depth: tasks that a worker has at a time, so that it need not wait for the next.
    window: tasks that are given out ahead of the one whose result is awaited; default: depth for each worker.
    """

    def __init__(
        self, work: Work, workers: int, *, deadline: float = DEADLINE, depth: int = 2, window: int | None = None
    ) -> None:
        if not deadline > 0:
            raise UserError(f"a deadline of {deadline} seconds; give a number above 0")
        assert workers > 0 and depth > 0, (workers, depth)
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
        self._state = _State()
        # Before multiprocessing ends daemons at exit; never in a fork of this process, which has no workers.
        Finalize(self, self._state.close, exitpriority=10)

    def run(self, tasks: Iterable[Sequence[Any]]) -> Iterator[Any]:
        """The result of each task, in their order. What the work raises is raised in its turn, with its type.

        One iteration at a time: a new one ends the one before. Raises EnvironmentFault where workers cannot work.
        """
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
            process.mark[WANTED] = self._wanted

    def _give_out(self, waiting: Iterator[Sequence[Any]], awaited: int) -> None:
        """Fill up the workers, evenly, those that died replaced."""
        processes = self._state.processes
        while len(processes) < self.count:
            processes.append(_Process(self.work))
            processes[-1].mark[WANTED] = self._wanted
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
        self._next += 1
        return _Task(self._next - 1, keys)

    def _lost_of(self, task: _Task) -> dict[int, Lost]:
        identities = map(self.work.identity, task.keys)
        return {position: self.lost[it] for position, it in enumerate(identities) if it in self.lost}

    def _listen(self) -> None:
        """Wait until a worker sends something, dies or is past its deadline, and deal with all that did."""
        processes = self._state.processes
        left = min(process.time_left(self.deadline) for process in processes)
        ready = wait([process.connection for process in processes], None if left == math.inf else max(left, 0.0))
        for process in list(processes):
            if process.connection in ready:
                self._receive(process)
        for process in list(processes):
            if process.time_left(self.deadline) < 0 and not process.connection.poll():
                self._replace(process, "timeout")

    def _receive(self, process: _Process) -> None:
        """All that a worker has sent; its end, if that is what came."""
        try:
            while process.connection.poll():
                number, result = transport.receive(process.connection)
                task = process.tasks.popleft()
                assert task.number == number, (task.number, number)
                self._unexplained = 0
                self._forgive(task)
                if number >= self._wanted:
                    self._results[number] = result
        except (EOFError, OSError):
            self._replace(process, "crashed")

    def _forgive(self, task: _Task) -> None:
        """Items that came whole have no strikes: those were another's fault, such as the machine's."""
        if self._strikes:
            for key in task.keys:
                self._strikes.pop(self.work.identity(key), None)

    def _replace(self, process: _Process, status: str) -> None:
        """A worker is dead or past its deadline: note the strike, have its tasks done again by another."""
        self._state.processes.remove(process)
        position = process.item_in_work()
        code = process.end(patience=1.0 if status == "crashed" else 0.0)  # its exit code comes in a moment
        if position is None:
            self._note_unexplained(code)
        else:
            identity = self.work.identity(process.tasks[0].keys[position])
            self._strikes[identity] += 1
            if self._strikes[identity] >= STRIKES:
                self.lost[identity] = Lost(status, self._why(status, code))
        self._again.extendleft(task for task in reversed(process.tasks) if task.number >= self._wanted)

    def _note_unexplained(self, code: int | None) -> None:
        self._unexplained += 1
        if self._unexplained >= UNEXPLAINED:
            advice = UNSTARTED if code == 1 else "memory may be short: lower the number of workers"
            raise EnvironmentFault(f"worker processes end before they come to a video ({_death(code)}); {advice}")

    def _why(self, status: str, code: int | None) -> str:
        if status == "timeout":
            return f"took more than {self.deadline:g} s, {STRIKES} times"
        return f"ended its decoding process {STRIKES} times ({_death(code)})"


def _death(code: int | None) -> str:
    """An exit code in words."""
    if code == NO_MEMORY:
        return "out of memory"
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"{name}, perhaps out of memory" if name == "SIGKILL" else name


def _context() -> BaseContext:
    """How workers start: from a clean server process that has imported this package once.

    A fork of the training process would copy locks held by its threads (BLAS, trackers, CUDA); a fresh
    interpreter for each worker would import torch again.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


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
    function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int = 2, deadline: float = DEADLINE
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
