"""Whatever an item does to its process, the others come whole and in order, and nothing is left behind."""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from hybridvideo.data.processes import handle, transport
from hybridvideo.data.processes.worker import MOST_KEYS
from hybridvideo.data.processes.workers import Lost, Workers, each
from hybridvideo.errors import EnvironmentFault, UserError, VideoError

DEADLINE = 0.5

FAULTS = {
    "hang": ("timeout", "took more than 0.5 s"),
    "crash": ("crashed", "SIGSEGV"),
    "exit": ("crashed", "exit code 3"),
    "kill": ("crashed", "SIGKILL, perhaps out of memory"),
    "memory": ("crashed", "out of memory"),
}


def behave(task: str) -> str:
    """Does what the task's first word says, as a file may do to its decoder."""
    match task.split()[0]:
        case "hang":
            time.sleep(60)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "exit":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "memory":
            resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, resource.RLIM_INFINITY))
            bytearray(64 * 2**30)
        case "raise":
            raise VideoError("unsupported", "a codec of tomorrow")
        case "fail":
            raise LookupError(task)
        case "unpicklable":
            return lambda: task  # type: ignore[return-value]
    return task.upper()


def behave_once(folder: Path, task: str) -> str:
    """Like `behave` at the first call for a task, harmless at the second."""
    seen = folder / task.replace(" ", "-")
    if seen.exists():
        return task.upper()
    seen.touch()
    return behave(task)


def process_id(task: int) -> int:
    return os.getpid()


@dataclass(frozen=True)
class Squares:
    """Batches of squares; a key is (epoch, number), the number `bad` behaves badly."""

    bad: int = -1
    how: str = "crash"

    def item(self, key: tuple[int, int]) -> torch.Tensor:
        if key[1] == self.bad:
            behave(self.how)
        return torch.full((1000, 100), key[1] ** 2)

    def lost(self, key: tuple[int, int], lost: Lost) -> torch.Tensor:
        return torch.full((1000, 100), -1)

    def batch(self, items: list[torch.Tensor]) -> dict[str, Any]:
        squares = transport.new_tensor((len(items), 1000, 100), torch.int64)
        torch.stack(items, out=squares)
        return {"squares": squares, "process": os.getpid()}

    def identity(self, key: tuple[int, int]) -> Hashable:
        return key[1]


@dataclass(frozen=True)
class Elsewhere(Squares):
    """Behaves badly outside of any item: with the batch that holds the number `bad`; once only, where `once` is new."""

    where: str = "batch"
    once: Path | None = None

    def item(self, key: tuple[int, int]) -> torch.Tensor:
        return torch.full((2, 2), key[1] ** 2)

    def batch(self, items: list[torch.Tensor]) -> dict[str, Any]:
        bad = any(item[0, 0] == self.bad**2 for item in items)
        if bad and self.where == "batch":
            self.misbehave()
        squares = [int(item[0, 0]) for item in items]
        return {"squares": squares, "send": Sent(self) if bad and self.where == "send" else None}

    def misbehave(self) -> None:
        if self.once is None:
            behave(self.how)
        elif not self.once.exists():
            self.once.touch()
            behave(self.how)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.where == "start":
            self.misbehave()


@dataclass
class Sent:
    work: Elsewhere

    def __reduce__(self) -> tuple[type, tuple[()]]:
        self.work.misbehave()
        return type(None), ()


def values(results: Iterator[dict[str, Any]]) -> list[list[int]]:
    return [result["squares"][:, 0, 0].tolist() for result in results]


def epoch(number: int, batches: int = 6) -> list[list[tuple[int, int]]]:
    return [[(number, 2 * i), (number, 2 * i + 1)] for i in range(batches)]


def descriptors() -> int:
    gc.collect()
    return psutil.Process().num_fds()


def children() -> set[psutil.Process]:
    """All descendants that run."""
    found = psutil.Process().children(recursive=True)
    return {process for process in found if process.status() != psutil.STATUS_ZOMBIE}


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    """Has the server, which stays, started before anything is counted."""
    list(each(process_id, [1], workers=1))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Around every test: the same processes and descriptors after it as before."""
    before, open_before = children(), descriptors()
    yield
    limit = time.monotonic() + 5
    while not children() <= before and time.monotonic() < limit:
        time.sleep(0.01)  # the kernel may need a moment to take down what was killed
    assert children() <= before
    assert descriptors() == open_before


# ---- each


@pytest.mark.parametrize("fault", FAULTS)
def test_an_item_that_takes_its_process_with_it_is_lost_alone(fault: str) -> None:
    tasks = [f"{fault} bad.mp4" if i == 3 else f"file {i}" for i in range(9)]
    results = list(each(behave, tasks, workers=2, deadline=DEADLINE))
    status, reason = FAULTS[fault]
    assert results[:3] + results[4:] == [task.upper() for task in tasks[:3] + tasks[4:]]
    assert isinstance(results[3], Lost) and results[3].status == status
    assert reason in results[3].reason and "\n" not in results[3].reason


def test_many_bad_files_at_once_do_not_hold_up_the_good() -> None:
    tasks = [f"{fault} {i}" if i % 3 == 0 else f"file {i}" for i in range(12) for fault in ("crash", "exit")]
    results = list(each(behave, tasks, workers=3, deadline=DEADLINE))
    for task, result in zip(tasks, results, strict=True):
        assert result == task.upper() if task.startswith("file") else isinstance(result, Lost)


@pytest.mark.parametrize("fault", FAULTS)
def test_one_strike_is_forgiven(fault: str, tmp_path: Path) -> None:
    tasks = ["file 1", f"{fault} once", "file 2"]
    results = list(each(partial(behave_once, tmp_path), tasks, workers=1, deadline=DEADLINE))
    assert results == [task.upper() for task in tasks]


def test_results_come_in_order_however_long_each_takes() -> None:
    assert list(each(slow_first, range(20), workers=3)) == list(range(20))


def slow_first(task: int) -> int:
    time.sleep(0.3 if task == 0 else 0)
    return task


def test_tasks_are_taken_a_bounded_number_ahead() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for i in range(10_000):
            taken.append(i)
            yield i

    results = each(process_id, tasks(), workers=2)
    next(results)
    assert len(taken) < 200
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("task", "kind"), [("raise", VideoError), ("fail", LookupError), ("unpicklable", Exception)])
def test_what_the_work_raises_is_raised_in_its_turn_with_its_type(task: str, kind: type[Exception]) -> None:
    results = each(behave, ["file 1", task, "file 2"], workers=2)
    assert next(results) == "FILE 1"
    with pytest.raises(kind) as caught:
        next(results)
    assert any("raised in a worker process" in note and "Traceback" in note for note in caught.value.__notes__)


def test_an_error_keeps_its_own_facts() -> None:
    with pytest.raises(VideoError) as caught:
        list(each(behave, ["raise"], workers=1))
    assert (caught.value.status, caught.value.reason) == ("unsupported", "a codec of tomorrow")


def test_without_workers_all_is_done_here() -> None:
    assert list(each(process_id, [1, 2], workers=0)) == [os.getpid()] * 2


def test_a_deadline_is_a_positive_number() -> None:
    with pytest.raises(UserError, match="deadline of 0"):
        list(each(process_id, [1], deadline=0))


def test_workers_are_deaf_to_ctrl_c_and_sigterm() -> None:
    results = each(ask_to_stop, range(4), workers=2)
    assert list(results) == [0, 1, 2, 3]


def ask_to_stop(task: int) -> int:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    return task


# ---- batches


def test_processes_stay_from_epoch_to_epoch() -> None:
    with Workers(Squares(), 2) as pool:
        first, second = list(pool.run(epoch(0))), list(pool.run(epoch(1)))
    assert values(iter(first)) == values(iter(second)) == [[(2 * i) ** 2, (2 * i + 1) ** 2] for i in range(6)]
    assert {result["process"] for result in first} == {result["process"] for result in second}
    assert os.getpid() not in {result["process"] for result in first}


def test_a_lost_item_stays_lost_in_the_next_epoch() -> None:
    with Workers(Squares(bad=5), 2, deadline=DEADLINE) as pool:
        first, living = list(pool.run(epoch(0))), children()
        second = list(pool.run(epoch(1)))
        assert set(pool.lost) == {5} and pool.lost[5].status == "crashed"
        assert children() == living  # nobody died again
    expected = [[i**2 if i != 5 else -1 for i in (2 * b, 2 * b + 1)] for b in range(6)]
    assert values(iter(first)) == values(iter(second)) == expected


def test_a_hanging_item_costs_two_deadlines_and_no_more() -> None:
    with Workers(Squares(bad=0, how="hang"), 2, deadline=DEADLINE) as pool:
        start = time.monotonic()
        results = values(pool.run(epoch(0)))
        assert 2 * DEADLINE <= time.monotonic() - start < 60  # the item itself would take a minute, each time
    assert results[0] == [-1, 1] and results[1:] == [[(2 * i) ** 2, (2 * i + 1) ** 2] for i in range(1, 6)]


def test_a_hang_that_begins_while_the_caller_is_away_is_dealt_with_when_it_comes_back() -> None:
    with Workers(Squares(bad=3, how="hang"), 1, deadline=0.5) as pool:
        results = pool.run(epoch(0))
        next(results)
        time.sleep(0.7)
        assert values(results)[0] == [4, -1]


def test_a_worker_killed_from_outside_costs_only_time() -> None:
    with Workers(Squares(), 2) as pool:
        results = pool.run(epoch(0, batches=40))
        head = [next(results) for _ in range(3)]
        os.kill(head[-1]["process"], signal.SIGKILL)
        rest = values(results)
        assert values(iter(head)) + rest == [[(2 * i) ** 2, (2 * i + 1) ** 2] for i in range(40)]
        assert not pool.lost


def test_an_epoch_that_is_broken_off_leaves_nothing_for_the_next() -> None:
    with Workers(Squares(), 2) as pool:
        results = pool.run(epoch(0, batches=50))
        next(results)
        assert values(pool.run(epoch(1))) == [[(2 * i) ** 2, (2 * i + 1) ** 2] for i in range(6)]
        with pytest.raises(AssertionError, match="another iteration"):
            next(results)


PLACES = {"start": "while starting", "batch": "while making a batch", "send": "while sending a batch"}
DEATHS = {"hang": "5 times", "crash": "SIGSEGV", "exit": "exit code 3", "memory": "out of memory"}


@pytest.mark.parametrize(("where", "how"), [*(("batch", how) for how in DEATHS), ("send", "hang"), ("send", "kill")])
def test_what_happens_outside_of_items_is_not_an_items_fault_and_ends_in_one_line(where: str, how: str) -> None:
    work = Elsewhere(bad=3, how=how, where=where)
    with Workers(work, 2, deadline=DEADLINE) as pool:
        with pytest.raises(EnvironmentFault, match=f"{PLACES[where]}.*{DEATHS.get(how, 'SIGKILL')}") as caught:
            list(pool.run(epoch(0, batches=40)))
        assert not pool.lost and not pool._strikes and "\n" not in str(caught.value)


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("how", ["hang", "crash"])
def test_a_fault_outside_of_items_that_passes_costs_nothing(
    where: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handle, "STARTING_SECONDS", 3.0)
    with Workers(Elsewhere(bad=3, how=how, where=where, once=tmp_path / "seen"), 2, deadline=DEADLINE) as pool:
        results = list(pool.run(epoch(0)))
        assert [result["squares"] for result in results] == [[(2 * i) ** 2, (2 * i + 1) ** 2] for i in range(6)]
        assert not pool.lost and not pool._strikes and (tmp_path / "seen").exists()


def test_a_worker_that_is_stopped_while_it_waits_is_replaced() -> None:
    with Workers(Squares(), 1, deadline=DEADLINE) as pool:
        (first,) = pool.run(epoch(0, batches=1))
        os.kill(first["process"], signal.SIGSTOP)
        assert values(pool.run(epoch(1, batches=2))) == [[0, 1], [4, 9]] and not pool.lost


def test_an_item_that_ended_when_its_time_was_up_gets_no_strike(monkeypatch: pytest.MonkeyPatch) -> None:
    with Workers(Squares(), 1) as pool:
        next(pool.run(epoch(0)))
        (process,) = pool._state.processes
        process.tasks.extend([handle.Task(7, [(0, 1), (0, 2)])])
        place = 7 * MOST_KEYS
        process.mark.set(place + 1)
        process.end()
        pool._replace(process, "timeout", place)  # it was at the first item, and is at the second
        assert not pool._strikes
        pool._strike(2, Lost("timeout", ""))
    assert process.item(place + 1) == (0, 2) and process.item(8 * MOST_KEYS) is None and process.item(-1) is None


def test_a_forgotten_pool_ends_its_processes() -> None:
    before = children()
    pool = Workers(Squares(), 2)
    next(pool.run(epoch(0)))
    own = children() - before
    assert len(own) == 2
    del pool
    limit = time.monotonic() + 5
    while children() & own and time.monotonic() < limit:
        time.sleep(0.01)
    assert not children() & own


def test_a_batch_outlives_its_worker_and_may_be_written_to() -> None:
    with Workers(Squares(), 1) as pool:
        (result,) = pool.run([[(0, 3), (0, 4)]])
    assert result["squares"].sum() == 100_000 * (9 + 16)
    assert result["squares"].zero_().sum() == 0
