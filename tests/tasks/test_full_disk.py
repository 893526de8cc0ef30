"""A disk that is full or may only be read: one line, nothing lost, and the same command continues."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hybridvideo import cli
from hybridvideo.data.decode import IndexCache, VideoReader
from hybridvideo.errors import EnvironmentFault
from tests.tasks.cheap import lines, run, write_texts
from tests.tasks.support.test_table_job import TABLES, rows_of
from tests.videos import write_video

INPUTS = 2


class Disk:
    """Counts what is written, and refuses the write of one number."""

    def __init__(self, refused: int, number: int) -> None:
        self.refused, self.number, self.writes = refused, number, 0

    def refuses(self, real: Callable[..., Any], counts: Callable[..., bool]) -> Callable[..., Any]:
        def write(*given: Any, **named: Any) -> Any:
            if counts(*given, **named):
                self.writes += 1
                if self.writes - 1 == self.refused:
                    raise OSError(self.number, os.strerror(self.number))
            return real(*given, **named)

        return write

    def install(self, patch: pytest.MonkeyPatch, below: Path) -> None:
        def makes(path: Any, flags: int = 0, *rest: Any, **named: Any) -> bool:
            return bool(flags & os.O_CREAT) and str(path).startswith(str(below))

        def writes(path: Any, mode: str = "r", *rest: Any, **named: Any) -> bool:
            return mode[0] in "wax" and str(path).startswith(str(below))

        patch.setattr(os, "open", self.refuses(os.open, makes))
        patch.setattr(io, "open", self.refuses(io.open, writes))
        for module, name in ((os, "fsync"), (os, "replace"), (os, "mkdir"), (pq.ParquetWriter, "write_table")):
            patch.setattr(module, name, self.refuses(getattr(module, name), lambda *given, **named: True))


@pytest.mark.parametrize(
    ("name", "number"), [("out.parquet", errno.ENOSPC), ("out.csv", errno.EROFS), ("out.jsonl", errno.EACCES)]
)
def test_each_write_may_be_refused(name: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = write_texts(tmp_path / "texts", INPUTS)
    run(texts, tmp_path / f"expected-{name}", tmp_path / "log")
    faults = 0
    for refused in itertools.count():
        folder = tmp_path / f"{refused}"
        disk = Disk(refused, number)
        try:
            with monkeypatch.context() as patch:
                disk.install(patch, folder)
                run(texts, folder / name, tmp_path / "log")
        except EnvironmentFault as fault:
            assert "cannot write " in str(fault) and "; " in str(fault) and "\n" not in str(fault)
            faults += 1
        run(texts, folder / name, tmp_path / "log")
        assert rows_of(folder / name) == rows_of(tmp_path / f"expected-{name}")
        assert set(os.listdir(folder)) == {name} | ({"out.provenance.json"} if name != "out.parquet" else set())
        if disk.writes <= refused:
            break
    assert faults > 20


@pytest.mark.parametrize("name", TABLES)
def test_a_table_stays_complete_while_its_update_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write_texts(tmp_path / "texts", INPUTS)
    run(texts, tmp_path / name, tmp_path / "log")
    old = rows_of(tmp_path / name)
    (texts / "new.mp4").write_text("new")
    run(texts, tmp_path / f"expected-{name}", tmp_path / "log")
    log = tmp_path / "log2"
    for refused in itertools.count():
        disk = Disk(refused, errno.ENOSPC)
        try:
            with monkeypatch.context() as patch:
                disk.install(patch, tmp_path)
                run(texts, tmp_path / name, log)
            break
        except EnvironmentFault:
            assert rows_of(tmp_path / name) in (old, rows_of(tmp_path / f"expected-{name}"))
    assert rows_of(tmp_path / name) == rows_of(tmp_path / f"expected-{name}")
    assert set(lines(log)) == {"new.mp4"} and refused > 4  # what was written stays, so that each try comes further


# --- real disks -------------------------------------------------------------------------------------------------------


def mount(folder: Path, *options: str) -> None:
    """A small disk of memory; the test is skipped where that may not be made."""
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip("no disk can be mounted here")


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=256k")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("name", TABLES)
def test_a_full_disk_costs_no_row(name: str, disk: Path, tmp_path: Path) -> None:
    texts = write_texts(tmp_path / "texts", 32)
    for file in texts.iterdir():
        file.write_text(os.urandom(10_000).hex())
    with pytest.raises(EnvironmentFault, match="No space left on device; free some space, then give the same command"):
        run(texts, disk / name, tmp_path / "log")
    first = len(lines(tmp_path / "log"))
    assert 5 < first < 20 and not (disk / name).exists()
    remount(disk, "size=8m")
    run(texts, disk / name, tmp_path / "log")
    assert len(lines(tmp_path / "log")) == 33  # but for the one that found no room
    run(texts, tmp_path / name, tmp_path / "log2")
    assert rows_of(disk / name) == rows_of(tmp_path / name)


def test_a_disk_that_may_only_be_read_is_one_line(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = write_texts(tmp_path / "texts", 2)
    run(texts, disk / "out.csv", tmp_path / "log")
    (texts / "new.mp4").write_text("new")
    before = {path.name: path.read_bytes() for path in disk.iterdir()}
    remount(disk, "ro")
    with pytest.raises(EnvironmentFault, match="Read-only file system; give an output elsewhere"):
        run(texts, disk / "out.csv", tmp_path / "log")
    for out in (disk / "new.csv", disk / "folder"):
        capsys.readouterr()
        assert cli.main(["scan", str(texts), "--workers", "0", "--out", str(out)]) == 4
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: cannot write ") and line.endswith("give an output elsewhere")
    assert {path.name: path.read_bytes() for path in disk.iterdir()} == before


@pytest.mark.parametrize("state", ["full", "ro"])
def test_an_index_that_finds_no_room_is_done_without(state: str, disk: Path, tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "a.mp4", 30))
    if state == "full":
        with contextlib.suppress(OSError):
            (disk / "filler").write_bytes(bytes(1_000_000))
    else:
        remount(disk, "ro")
    index = IndexCache(disk / "list.index")
    for _ in range(2):
        with VideoReader(video, index=index) as reader:
            assert reader.frames_at([3]).frames_TCHW.shape[0] == 1
    index.close()
