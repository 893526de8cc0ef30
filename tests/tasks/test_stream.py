"""`--out -`: rows as JSON lines on standard output, and nothing else there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hybridvideo import cli
from tests.engine.training.runs import run, settings
from tests.videos import write_video


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for number in range(5):
        write_video(tmp_path / "videos" / f"{number} 動画\x1b.mp4", 4 + number)
    (tmp_path / "videos" / "3.mp4").write_text("no video")
    return tmp_path / "videos"


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def same(line: object, cell: object) -> bool:
    """Parquet holds fewer digits."""
    if isinstance(line, list) and isinstance(cell, list):
        return len(line) == len(cell) and all(map(same, line, cell))
    return line == pytest.approx(cell, rel=1e-6) if isinstance(cell, float) else line == cell


@pytest.mark.parametrize("job", ["predict", "extract", "scan"])
def test_lines_are_the_rows_of_the_table(
    job: str, motion: Path, videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    given = [] if job == "scan" else [run(tmp_path / "run", settings(motion, train={"epochs": 1}))]
    command = (job, *given, videos, "--workers", 0, "--max-bad", 1)
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert call(*command, "--out", "-") == 0
    assert sorted(tmp_path.rglob("*")) == before
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert call(*command, "--out", tmp_path / "out.parquet") == 0
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(lines) == len(rows) >= 6 and [list(line) for line in lines] == [list(row) for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert all(same(line[name], row[name]) for name in row)


def test_too_many_bad_inputs_are_exit_code_3(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("scan", videos, "--workers", 0, "--max-bad", 0.1, "--out", "-") == 3
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 6 and "1 of 6 inputs cannot be read" in err and len(err.splitlines()) == 1


def test_a_reader_that_leaves_ends_it_quietly(videos: Path) -> None:
    command = [sys.executable, "-m", "hybridvideo", "scan", str(videos), "--workers", "0", "--out", "-"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert writer.stdout is not None and writer.stderr is not None
    assert json.loads(writer.stdout.readline())["path"]
    writer.stdout.close()
    errors = writer.stderr.read()
    writer.stderr.close()
    assert writer.wait() == 0 and errors == ""


@pytest.mark.parametrize("out", ["-", "table.csv"])
def test_a_full_disk_below_standard_output_is_one_line(out: str, videos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hybridvideo", "scan", videos, "--out", out, "--workers", "0", "--max-bad", "1"]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert ended.returncode == 4, ended.stderr
    assert "error: cannot write the output: No space left on device; free some space" in ended.stderr
    assert "Traceback" not in ended.stderr and "Exception" not in ended.stderr
