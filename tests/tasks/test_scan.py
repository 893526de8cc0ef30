"""The scan command: a table that two runs make the same, a page, a summary, and a job that can be stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hybridvideo import cli
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.tasks.support.part_files import opened, rows_in
from tests.videos import write_audio, write_video


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    (folder / "deeper").mkdir(parents=True)
    for number in range(6):
        write_video(folder / f"{number}.mp4", 4 + number)
    (folder / "deeper" / "twin.mp4").write_bytes((folder / "3.mp4").read_bytes())
    write_audio(folder / "deeper" / "sound <b>.mp4")
    (folder / "empty.mp4").touch()
    return folder


def call(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def test_the_table_has_a_row_for_each_file_and_the_page_names_the_bad(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "out" / "scan.parquet"
    assert call("scan", corpus, "--out", table) == 0
    rows = {row["path"]: row for row in rows_of(table)}
    assert len(rows) == 9 and rows["empty.mp4"]["status"] == "unreadable"
    assert rows["deeper/sound <b>.mp4"]["status"] == "no_video" and rows["5.mp4"]["decoded"] == 9
    notes = json.loads(pq.read_schema(table).metadata[b"hybridvideo"])
    assert notes["root"] == str(corpus) and notes["decode"] == "full"
    page = (table.with_suffix(".report.html")).read_text()
    assert "deeper/sound &lt;b&gt;.mp4" in page and "empty.mp4" in page and "<b>" not in page
    assert "http" not in page and "1 file with the same bytes" in page
    out = capsys.readouterr().out
    assert "empty.mp4" in out and "9 files, 2 unusable" in out and "--data.quarantine" in out


def test_two_runs_give_the_same_table_also_with_other_workers(corpus: Path, tmp_path: Path) -> None:
    for name, workers in (("one", 0), ("two", 2)):
        assert call("scan", corpus, "--out", tmp_path / f"{name}.parquet", "--workers", workers) == 0
    one, two = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.equals(two) and "seconds" not in one.column_names


def test_a_scan_that_was_stopped_continues_and_gives_the_same_table(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = tmp_path / "whole.parquet", tmp_path / "stopped.parquet"
    assert call("scan", corpus, "--out", whole) == 0
    monkeypatch.setattr(StopRequest, "__enter__", stop_at_once)
    assert call("scan", corpus, "--out", stopped) == 75 and not stopped.exists()
    (part,) = (tmp_path / "stopped.parquet.parts").glob("part-*")
    assert len(rows_in(opened(part)[1])) == 1
    monkeypatch.undo()
    assert call("scan", corpus, "--out", stopped) == 0
    assert pq.read_table(whole).equals(pq.read_table(stopped))
    assert not (tmp_path / "stopped.parquet.parts").exists()


def stop_at_once(request: StopRequest) -> StopRequest:
    request.requested = True
    return request


def test_labels_and_groups_of_a_list_become_columns(corpus: Path, tmp_path: Path) -> None:
    (corpus / "list.csv").write_text("path,label,group\n0.mp4,run,a\n1.mp4,jump,b\n")
    assert call("scan", corpus / "list.csv", "--labelled", "--out", tmp_path) == 0
    rows = rows_of(tmp_path / "scan.parquet")
    assert [(row["label"], row["group"]) for row in rows] == [("run", "a"), ("jump", "b")]
    assert (tmp_path / "report.html").exists()


def test_labels_that_change_in_the_list_change_in_the_table_without_another_look(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ("scan", corpus / "list.csv", "--labelled", "--workers", 0, "--out", tmp_path / "scan.csv")
    (corpus / "list.csv").write_text("path,label\n0.mp4,run\n1.mp4,jump\n")
    assert call(*command) == 0
    (corpus / "list.csv").write_text("path,label\n1.mp4,leap\n0.mp4,run\n")
    capsys.readouterr()
    assert call(*command) == 0
    out, err = capsys.readouterr()
    assert "continuing after 2 of 2 inputs" in err and "files/s" not in out
    lines = (tmp_path / "scan.csv").read_text().splitlines()[1:]
    assert [line.split(",")[3] for line in lines] == ["leap", "run"]


def test_more_bad_files_than_allowed_is_exit_code_3_with_the_table_written(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("scan", corpus, "--out", tmp_path / "scan.parquet", "--max-bad", "0.1") == 3
    assert len(rows_of(tmp_path / "scan.parquet")) == 9 and (tmp_path / "scan.report.html").exists()
    assert "2 of 9 files are unusable" in capsys.readouterr().err


def test_an_unknown_backend_is_refused_before_any_file_is_opened(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("scan", corpus, "--out", tmp_path / "scan.parquet", "--backend", "pyva") == 2
    assert "did you mean 'pyav'" in capsys.readouterr().err and not list(tmp_path.glob("scan*"))


def test_a_healthy_corpus_has_nothing_to_do(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("scan", corpus / "0.mp4", "--out", tmp_path / "scan.parquet") == 0
    page = (tmp_path / "scan.report.html").read_text()
    assert "Every file is usable" in page and "What to do next" not in page and "Bad files" not in page
    assert "1 files, 0 unusable" in capsys.readouterr().out


def test_a_scan_that_finds_everything_refused_gives_the_reason_and_is_exit_code_3(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "links").mkdir()
    for video in corpus.glob("*.mp4"):
        (tmp_path / "links" / video.name).symlink_to(video)
    assert call("scan", tmp_path / "links", "--out", tmp_path / "scan.parquet", "--workers", 0) == 3
    said = capsys.readouterr()
    assert "No file can be used:" in said.out and "leads outside the data root" in said.out
    assert "quarantine" not in said.out and "--max-bad 0.5 allows" in said.err
    page = (tmp_path / "scan.report.html").read_text()
    assert "No file can be used:" in page and "<title>Scan: links</title>" in page


def test_half_of_a_corpus_may_be_bad_unless_another_share_is_given(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "good.mp4").write_bytes((corpus / "0.mp4").read_bytes())
    (tmp_path / "half" / "bad.mp4").write_text("no video")
    scan = ("scan", tmp_path / "half", "--workers", 0, "--out")
    assert call(*scan, tmp_path / "a.parquet") == 0
    (tmp_path / "half" / "worse.mp4").write_text("no video")
    assert call(*scan, tmp_path / "b.parquet") == 3
    assert call(*scan, tmp_path / "c.parquet", "--max-bad", 1) == 0


def test_a_table_that_cannot_be_a_quarantine_is_not_advised_as_one(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("scan", corpus, "--out", tmp_path / "scan.csv", "--workers", 0) == 0
    said = capsys.readouterr().out
    assert "--out NAME.parquet" in said and "quarantine " not in said
