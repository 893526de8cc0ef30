"""Real processes that make one table: one at a time, or all together, also when some are killed."""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from hybridvideo.errors import UserError
from hybridvideo.tasks.support.work_sharing import Crew
from tests.tasks.cheap import SCHEMA, Nursery, lines, run, write_texts
from tests.tasks.support.test_table_job import rows_of

INPUTS, SECONDS = 96, 0.004
PIECE = 3  # inputs of a piece


class Room:
    """A folder of texts, and the jobs over it."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.texts, self.table, self.log = write_texts(folder / "texts", INPUTS), folder / "out.parquet", folder / "log"
        self.folder, self.nursery, self.errors = folder, nursery, dict[int, Path]()
        self._numbers = itertools.count()

    def start(self, seconds: float = SECONDS, **options: bool) -> int:
        errors = self.folder / f"errors{next(self._numbers)}"
        errors.touch()  # it may be read before the process writes to it
        process = self.nursery.start(self.texts, self.table, self.log, errors, seconds, **options)
        self.errors[process] = errors
        return process

    def end(self, process: int) -> tuple[int, str]:
        code = self.nursery.wait(process)
        return code, self.errors[process].read_text()

    def kill(self, process: int) -> None:
        os.kill(process, signal.SIGKILL)
        assert self.nursery.wait(process) == -signal.SIGKILL

    def until(self, happened: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not happened():
            assert time.monotonic() < end
            time.sleep(0.001)

    def check(self) -> None:
        """The table is that of an undisturbed job, and nothing else is left."""
        run(self.texts, self.folder / "expected.parquet", self.folder / "expected.log")
        assert rows_of(self.table) == rows_of(self.folder / "expected.parquet")
        assert len(rows_of(self.table)) == INPUTS and SCHEMA.names[0] in rows_of(self.table)[0]
        left = {path.name for path in self.folder.iterdir()} - {path.name for path in self.errors.values()}
        assert left == {"texts", "out.parquet", "log", "expected.parquet", "expected.log"}


@pytest.fixture
def room(tmp_path: Path, nursery: Nursery) -> Room:
    return Room(tmp_path, nursery)


@pytest.mark.parametrize("seed", range(3))
def test_a_job_that_is_killed_again_and_again_gives_the_same_table(room: Room, seed: int) -> None:
    draw = random.Random(seed)
    kills = 0
    for _ in range(5):
        process, before = room.start(), len(lines(room.log))
        wanted = before + draw.randrange(1, 24)
        room.until(lambda wanted=wanted: len(lines(room.log)) >= wanted or room.table.exists())  # type: ignore[misc]
        time.sleep(draw.random() * SECONDS)
        room.kill(process)
        kills += 1
    assert room.end(room.start())[0] == 0
    room.check()
    assert len(lines(room.log)) <= INPUTS + kills * (PIECE + 1)  # only the piece in work is done again


@pytest.mark.parametrize("offset", [0, 1, 30, INPUTS - 2])
def test_a_second_job_is_refused_while_the_first_is_at_work(room: Room, offset: int) -> None:
    first = room.start()
    room.until(lambda: len(lines(room.log)) >= offset)
    second = room.start()
    codes = {room.end(process) for process in (first, second)}
    refused = [text for code, text in codes if code == 2]
    assert {code for code, _ in codes} <= {0, 2} and len(lines(room.log)) == INPUTS
    assert all("is using" in text and "cheap, process" in text for text in refused)
    assert refused or offset in (0, INPUTS - 2)  # else it came before the first, or behind it
    room.check()


@pytest.mark.parametrize("offset", [0, 1, 30, INPUTS - 2])
def test_jobs_that_join_share_the_list(room: Room, offset: int) -> None:
    processes = [room.start()]
    room.until(lambda: (room.folder / ".out.parquet.locks").exists())
    room.until(lambda: len(lines(room.log)) >= offset)
    processes += [room.start(join=True) for _ in range(3)]
    ended = [room.end(process) for process in processes]
    assert [code for code, _ in ended] == [0] * 4, ended
    assert Counter(lines(room.log)).most_common(1)[0][1] == 1 and len(lines(room.log)) == INPUTS
    room.check()


@pytest.mark.parametrize("seed", range(4))
def test_what_a_killed_process_has_taken_is_done_by_the_others(room: Room, seed: int) -> None:
    draw = random.Random(seed)
    processes = [room.start(join=True) for _ in range(3)]
    wanted = draw.randrange(3, INPUTS - 10)
    room.until(lambda: len(lines(room.log)) >= wanted)
    killed = processes.pop(draw.randrange(3))
    room.kill(killed)
    processes.append(room.start(join=True))
    ended = [room.end(process) for process in processes]
    assert [code for code, _ in ended] == [0] * 3, ended
    assert len(lines(room.log)) <= INPUTS + PIECE
    room.check()


def test_a_process_without_work_waits_for_the_rows_of_the_last(room: Room) -> None:
    slow = room.start(seconds=30.0)
    room.until(lambda: (room.folder / ".out.parquet.locks" / "piece-000000").exists())
    quick = room.start(seconds=0.0, join=True)
    room.until(lambda: "waiting for the last rows of cheap, process" in room.errors[quick].read_text())
    room.kill(slow)
    assert room.end(quick)[0] == 0 and len(lines(room.log)) == INPUTS
    room.check()


def test_a_job_of_another_list_or_setting_cannot_join(room: Room, tmp_path: Path) -> None:
    first = room.start(seconds=0.02)
    room.until(lambda: len(lines(room.log)) > 0)
    with pytest.raises(UserError, match=r"makes another table \(precision None there, bf16 now\)"):
        run(room.texts, room.table, tmp_path / "log2", join=True, precision="bf16")
    (room.texts / "new.mp4").write_text("new")
    with pytest.raises(UserError, match=r"makes another table \(another list of inputs\)"):
        run(room.texts, room.table, tmp_path / "log2", join=True)
    (room.texts / "new.mp4").unlink()
    assert room.end(first)[0] == 0 and not (tmp_path / "log2").exists()
    room.check()


@pytest.mark.parametrize("overwrite", [False, True])
def test_who_joins_after_the_end_finds_nothing_to_do(room: Room, overwrite: bool) -> None:
    assert room.end(room.start(seconds=0.0))[0] == 0
    code, text = room.end(room.start(join=True, overwrite=overwrite))
    assert code == 0 and "nothing to do" in text and len(lines(room.log)) == INPUTS
    room.check()


def test_a_killed_writer_of_the_table_leaves_it_to_the_next(room: Room, tmp_path: Path) -> None:
    """Killed between the table and the end of its parts: the next call finds both."""
    assert room.end(room.start(seconds=0.0))[0] == 0
    (room.texts / "0000.mp4").write_text("changed")
    process = room.start(seconds=0.5)
    room.until(lambda: (tmp_path / "out.parquet.parts" / "job.json").exists())
    room.kill(process)
    assert room.end(room.start(seconds=0.0))[0] == 0
    room.check()


def test_members_are_recognised_by_name_and_the_dead_are_not(tmp_path: Path) -> None:
    one, two = Crew(tmp_path / "t.csv", "predict"), Crew(tmp_path / "t.csv", "predict")
    with one.membership():
        assert two.others() == [f"predict, process {os.getpid()} on {os.uname().nodename}"] and one.others() == []
    (one.folder / "member-of-old").touch()
    assert two.others() == [] and not list(one.folder.iterdir())
    two.tidy()
    assert not one.folder.exists()
