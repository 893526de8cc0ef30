"""One table is one job's: what is done and unchanged stays done, and nothing is lost that was not asked to be."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybridvideo.engine.preemption import StopRequest
from hybridvideo.errors import EnvironmentFault, Preempted, TooMuchBadData, UserError
from hybridvideo.tasks.support import table_job as bulk
from hybridvideo.tasks.support.output_table import read_rows
from hybridvideo.tasks.support.work import BulkWork
from hybridvideo.tasks.support.work_sharing import Claims
from tests.tasks.cheap import SCHEMA, lines, run, write_texts

TABLES = ("out.parquet", "out.csv", "out.jsonl")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    return write_texts(tmp_path / "texts", 150)  # four inputs a piece


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def rows_of(table: Path) -> list[dict[str, Any]]:
    return list(read_rows(table, SCHEMA))


def written(table: Path) -> tuple[int, int, int]:
    """What changes when a table is written; the time of its last reading may."""
    facts = table.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def stop_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """The job is asked to stop after so many inputs."""
    asked = iter([False] * (count - 1) + [True])
    patch.setattr(StopRequest, "requested", property(lambda self: next(asked), lambda self, value: None), False)


def interrupt(count: int, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **settings: Any) -> None:
    with monkeypatch.context() as patch, pytest.raises(Preempted, match="run the same command"):
        stop_after(count, patch)
        run(*arguments, **settings)


@pytest.mark.parametrize("name", TABLES)
def test_a_finished_table_is_kept_up_to_date(name: str, texts: Path, log: Path, tmp_path: Path) -> None:
    table, expected = tmp_path / name, tmp_path / f"expected-{name}"
    run(texts, table, log)
    (texts / "00000.mp4").write_text("a new one, sorted in front")
    (texts / "0007.mp4").write_text("another text")
    os.utime(texts / "0008.mp4", ns=(1, 1))
    (texts / "0149.mp4").unlink()
    log.unlink()
    finished = run(texts, table, log)
    assert sorted(lines(log)) == ["00000.mp4", "0007.mp4", "0008.mp4"] and finished.inputs == 3
    run(texts, expected, log)
    assert rows_of(table) == rows_of(expected) and len(rows_of(table)) == 150
    assert [row["index"] for row in finished.rows] == list(range(150))
    assert not (tmp_path / f"{name}.parts").exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", TABLES)
def test_nothing_to_do_is_reported_and_leaves_the_table(
    name: str, texts: Path, log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / name
    first = run(texts, table, log)
    before = written(table)
    again = run(texts, table, log)
    assert "nothing to do" in capsys.readouterr().err and len(lines(log)) == 150
    assert written(table) == before and again.inputs == 0 and again.failed == first.failed
    assert [row["words"] for row in again.rows] == [row["words"] for row in first.rows]


def test_an_interrupted_job_continues_with_another_list(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out.parquet"
    interrupt(81, monkeypatch, texts, table, log)
    (texts / "00000.mp4").write_text("new")
    (texts / "0000.mp4").unlink()
    (texts / "0001.mp4").write_text("changed")
    interrupt(20, monkeypatch, texts, table, log)
    assert lines(log)[81:83] == ["00000.mp4", "0001.mp4"] and "not listed any more" in capsys.readouterr().err
    run(texts, table, log)
    assert len(lines(log)) == 152 and lines(log).count("0001.mp4") == 2
    run(texts, tmp_path / "expected.parquet", tmp_path / "log2")
    assert rows_of(table) == rows_of(tmp_path / "expected.parquet")


def test_the_update_of_a_table_can_be_interrupted_too(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "out.csv"
    run(texts, table, log)
    for number in range(40):
        (texts / f"new{number}.mp4").write_text("new")
    interrupt(7, monkeypatch, texts, table, log)
    assert len(rows_of(table)) == 150
    assert run(texts, table, log).inputs == 33 and len(rows_of(table)) == 190 and len(lines(log)) == 190


def test_a_file_that_comes_later_or_was_not_in_time_is_done_again(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{number}.mp4" for number in range(6)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    for name in names[1:]:
        (tmp_path / name).write_text(name)
    arguments = tmp_path / "list.txt", tmp_path / "out.jsonl", log
    interrupt(4, monkeypatch, *arguments, timeouts=("2.mp4",))
    first = run(*arguments, timeouts=("2.mp4",))
    assert first.failed == 2 and len(lines(log)) == 6  # going on, what was not in time is left
    run(*arguments, timeouts=("2.mp4",))
    assert lines(log)[6:] == ["2.mp4"]
    (tmp_path / "0.mp4").write_text("here")
    assert run(*arguments).failed == 0 and sorted(lines(log)[7:]) == ["0.mp4", "2.mp4"]
    run(*arguments)
    assert len(lines(log)) == 9


def test_a_file_that_is_listed_twice_has_both_rows(log: Path, tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_text(name)
    (tmp_path / "list.txt").write_text("a.mp4\nb.mp4\nb.mp4\n")
    run(tmp_path / "list.txt", tmp_path / "out.csv", log)
    (tmp_path / "list.txt").write_text("b.mp4\na.mp4\nc.mp4\nb.mp4\na.mp4\n")
    log.unlink()
    finished = run(tmp_path / "list.txt", tmp_path / "out.csv", log)
    assert lines(log) == ["c.mp4"] and [row["content"] for row in finished.rows] == list("bacba")


@pytest.mark.parametrize("name", TABLES)
def test_a_table_of_another_job_stays(name: str, texts: Path, log: Path, tmp_path: Path) -> None:
    table = tmp_path / name
    run(texts, table, log, precision="fp32")
    before = table.read_bytes()
    with pytest.raises(UserError, match=r"not a table of this job \(precision fp32 there, bf16 now\).*--overwrite"):
        run(texts, table, log, precision="bf16")
    other = write_texts(tmp_path / "other", 3)
    with pytest.raises(UserError, match=r"root .*texts there, .*other now"):
        run(other, table, log, precision="fp32")
    assert table.read_bytes() == before and not list(tmp_path.glob(".*"))
    log.unlink()
    run(other, table, log, precision="bf16", overwrite=True)
    assert len(rows_of(table)) == 3 == len(lines(log))


@pytest.mark.parametrize("content", [b"", b"path,status\n", b"PAR1 junk"])
@pytest.mark.parametrize("name", TABLES)
def test_a_file_of_unknown_make_is_not_overwritten(name: str, content: bytes, log: Path, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 2)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match="does not record its job"):
        run(texts, tmp_path / name, log)
    assert (tmp_path / name).read_bytes() == content
    run(texts, tmp_path / name, log, overwrite=True)
    assert len(rows_of(tmp_path / name)) == 2


def test_a_table_changed_by_hand_is_not_taken_for_the_jobs(texts: Path, log: Path, tmp_path: Path) -> None:
    run(texts, tmp_path / "out.csv", log)
    with (tmp_path / "out.csv").open("a") as file:
        file.write("mine\n")
    with pytest.raises(UserError, match="does not record its job"):
        run(texts, tmp_path / "out.csv", log)


def test_what_changes_no_row_makes_no_other_job(texts: Path, log: Path, tmp_path: Path) -> None:
    for batch_size, checkpoint in ((8, "runs/a"), (4, "runs/b")):
        views = {"clips": 2, "batch_size": batch_size}
        run(texts, tmp_path / "out.parquet", log, views=views, checkpoint=checkpoint, environment={"torch": "2"})
    assert len(lines(log)) == 150


def test_overwrite_makes_all_rows_again_and_continues_when_interrupted(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "out.parquet"
    run(texts, table, log)
    log.unlink()
    interrupt(100, monkeypatch, texts, table, log, overwrite=True)
    assert len(rows_of(table)) == 150
    run(texts, table, log, overwrite=True)
    assert len(lines(log)) == 150


def test_no_table_is_written_that_lacks_a_row(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = tmp_path / "out.parquet.parts"
    real = bulk.do_all

    def lose(*arguments: Any) -> int:
        done = real(*arguments)
        sorted(parts.glob("part-*"))[7].unlink()
        return done

    with monkeypatch.context() as patch:
        patch.setattr(bulk, "do_all", lose)
        with pytest.raises(EnvironmentFault, match="rows of 4 inputs are gone"):
            run(texts, tmp_path / "out.parquet", log)
    assert not (tmp_path / "out.parquet").exists()
    assert run(texts, tmp_path / "out.parquet", log).inputs == 4


def test_work_that_leaves_inputs_out_is_noticed(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = BulkWork.by_input
    monkeypatch.setattr(BulkWork, "by_input", lambda *given: (rows for rows in real(*given) if rows[0]["index"] != 70))
    with pytest.raises(EnvironmentFault, match="no row came for 1 inputs"):
        run(texts, tmp_path / "out.parquet", log)


def test_too_many_bad_inputs_are_judged_of_the_complete_table(tmp_path: Path, log: Path) -> None:
    (tmp_path / "list.txt").write_text("\n".join(f"{name}.mp4" for name in "abcd"))
    (tmp_path / "a.mp4").write_text("a")
    arguments = tmp_path / "list.txt", tmp_path / "out.csv", log
    for _ in range(2):  # the second finds nothing to do
        with pytest.raises(TooMuchBadData, match="3 of 4 inputs cannot be read"):
            run(*arguments, max_bad=0.5)
    assert len(rows_of(tmp_path / "out.csv")) == 4


def test_provenance_next_to_a_table_says_whose_it_is(texts: Path, log: Path, tmp_path: Path) -> None:
    run(texts, tmp_path / "out.jsonl", log)
    notes = json.loads((tmp_path / "out.provenance.json").read_text())
    assert notes["job"] == "cheap" and notes["table"]["bytes"] == (tmp_path / "out.jsonl").stat().st_size


def grown(texts: Path, log: Path, table: Path) -> Path:
    """The folder of a table's parts; the table is of three inputs, and then there are two more."""
    for text in sorted(texts.iterdir())[3:]:
        text.unlink()
    run(texts, table, log)
    for number in (3, 4):
        (texts / f"{number:04d}.mp4").write_text("one more")
    return table.with_name(table.name + ".parts")


def test_an_older_table_does_not_stand_for_parts_that_were_removed(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = grown(texts, log, tmp_path / "out.parquet")
    real = bulk.write_once
    with monkeypatch.context() as patch, pytest.raises(EnvironmentFault, match="command again"):
        patch.setattr(bulk, "write_once", lambda *given: (shutil.rmtree(parts), real(*given))[1])
        run(texts, tmp_path / "out.parquet", log)
    assert len(run(texts, tmp_path / "out.parquet", log).rows) == 5


def test_parts_that_are_removed_while_inputs_are_read_do_not_crash_it(
    texts: Path, log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = grown(texts, log, tmp_path / "out.parquet")
    real = Claims.take

    def take(claims: Claims) -> Iterator[int]:
        order = real(claims)
        first = next(order)
        shutil.rmtree(parts)
        yield from [first, *order]  # as workers do, which read ahead

    with monkeypatch.context() as patch, pytest.raises(EnvironmentFault, match="the same command to redo them"):
        patch.setattr(Claims, "take", take)
        run(texts, tmp_path / "out.parquet", log)
    assert len(run(texts, tmp_path / "out.parquet", log).rows) == 5
