"""`prepare`: every original has a copy or a reason, a stopped call continues, nothing else on the disk is touched."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import pyarrow.parquet as pq
import pytest

from hybridvideo import cli
from hybridvideo.data.corpus.copies import Copy, Made
from hybridvideo.data.decode import VideoReader
from hybridvideo.data.manifest import read_manifest
from hybridvideo.data.processes.workers import Lost
from hybridvideo.tasks import prepare as job
from tests.videos import cut, numbers, write_video


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Two classes; one file damaged, one that is no video."""
    source = tmp_path / "videos"
    for name in ("jump/a.mp4", "jump/a.mkv", "run/b.mp4", "run/cut.mp4"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        write_video(source / name, 30, container_options={"movflags": "+faststart"} if name.endswith("mp4") else None)
    cut(source / "run/cut.mp4", 0.8)
    (source / "run/text.mp4").write_text("no video")
    return source


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No loading speed, no processes; the sources that were copied are noted."""
    copied: list[str] = []

    def noted(copy: Copy) -> Made:
        copied.append(Path(copy.source).name)
        return transcode(copy)

    transcode = job.transcode
    monkeypatch.setattr(job, "transcode", noted)
    monkeypatch.setattr(job, "measure", lambda *_: None)
    return copied


def call(*arguments: object) -> int:
    return cli.main(["prepare", *map(str, arguments)])


def fails(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 2) -> str:
    """The one line a refused call gives."""
    assert call(*arguments) == code
    return capsys.readouterr().err.splitlines()[-1]


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its checksum."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}  # fmt: skip


def table(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "prepare.parquet").to_pylist()
    return rows


def test_copies_labels_and_reasons_are_all_there(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, out = tree(tmp_path), tmp_path / "small"
    assert call(corpus, "--out", out, "--short-side", 32, "--gop", 4) == 0
    assert {name: sum_ for name, sum_ in tree(tmp_path).items() if not name.startswith("small/")} == before
    manifest = read_manifest(out / "manifest.csv")
    assert [(row.path, manifest.labels[row.label or 0]) for row in manifest.rows] == [
        ("jump/a.mkv.mp4", "jump"), ("jump/a.mp4.mp4", "jump"), ("run/b.mp4", "run"), ("run/cut.mp4", "run")
    ]  # fmt: skip
    for index in range(3):
        with VideoReader(manifest.file(index)) as reader:
            assert numbers(reader.frames_at(range(30)).frames_TCHW) == list(range(30))
    assert [row["status"] for row in table(out)] == ["ok", "ok", "ok", "partial", "unreadable"]
    assert table(out)[4]["copy"] is None and "container" in table(out)[4]["reason"]
    said = capsys.readouterr().out
    assert "4 of 5 videos have a copy, 1 partial" in said and "text.mp4: unreadable" in said
    assert "size: " in said and "clips/s before" in said and f"train --data.train {out}/manifest.csv" in said


def test_a_second_call_does_nothing_again_and_says_the_same(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    assert call(corpus, "--out", out, "--workers", 0) == 0
    said, there = capsys.readouterr().out, tree(out)
    assert len(quick) == 5
    assert call(corpus, "--out", out, "--workers", 0) == 0
    assert len(quick) == 5 and capsys.readouterr().out == said
    assert {name: s for name, s in tree(out).items() if name.endswith(".mp4")} == {
        name: s for name, s in there.items() if name.endswith(".mp4")
    }


def test_what_changed_or_got_lost_is_copied_again(corpus: Path, tmp_path: Path, quick: list[str]) -> None:
    out = tmp_path / "small"
    call(corpus, "--out", out, "--workers", 0)
    quick.clear()
    write_video(corpus / "run/text.mp4", 12)
    (out / "run/b.mp4").unlink()
    (out / "jump/a.mkv.mp4").write_bytes(b"overwritten by something")
    assert call(corpus, "--out", out, "--workers", 0) == 0
    assert sorted(quick) == ["a.mkv", "b.mp4", "text.mp4"]
    assert len(read_manifest(out / "manifest.csv")) == 5
    with VideoReader(out / "jump/a.mkv.mp4") as reader:
        assert reader.info.frames == 30


def test_another_recipe_needs_another_folder_or_overwrite(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    call(corpus, "--out", out, "--workers", 0)
    message = fails(capsys, corpus, "--out", out, "--workers", 0, "--gop", 5)
    assert "gop 16 there, 5 now" in message and "--overwrite" in message
    assert call(corpus, "--out", out, "--workers", 0, "--gop", 5, "--overwrite") == 0 and len(quick) == 10
    with VideoReader(out / "run/b.mp4") as reader:
        assert reader.info.keyframes[:2] == (0, 5)


def test_a_stopped_call_keeps_what_is_done_and_continues(
    corpus: Path, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, go_on = tmp_path / "small", job.transcode

    def stopped(copy: Copy) -> Made:
        if len(quick) == 2:
            Path(copy.target).with_name(f".{Path(copy.target).name}.part").write_text("half")
            raise KeyboardInterrupt
        return go_on(copy)

    monkeypatch.setattr(job, "transcode", stopped)
    assert "run the same command to continue" in fails(capsys, corpus, "--out", out, "--workers", 0, code=75)
    assert not list(out.rglob("*.part")) and len(list(out.rglob("*.mp4"))) == 2
    with (out / ".prepare/done.jsonl").open("a") as ledger:
        ledger.write('{"source": "cut by a cra')
    monkeypatch.setattr(job, "transcode", go_on)
    assert call(corpus, "--out", out, "--workers", 0) == 0
    assert len(quick) == 5 == len(set(quick)) and len(table(out)) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_each_signal_that_asks_to_stop_is_a_pause(
    number: signal.Signals, corpus: Path, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, before = job.append_line, signal.signal(number, lambda *given: pytest.fail("nobody listens"))
    with monkeypatch.context() as patch:
        patch.setattr(job, "append_line", lambda *given: (real(*given), signal.raise_signal(number)))
        assert call(corpus, "--out", tmp_path / "out", "--workers", 0) == 75
    signal.signal(number, before)
    assert len((tmp_path / "out" / ".prepare" / "done.jsonl").read_text().splitlines()) == 1
    assert call(corpus, "--out", tmp_path / "out", "--workers", 0) == 0 and len(quick) == 5


def test_a_killed_call_leaves_complete_copies_and_continues(tmp_path: Path, quick: list[str]) -> None:
    source, out = tmp_path / "videos", tmp_path / "small"
    source.mkdir()
    for name in "abcdefgh":
        write_video(source / f"{name}.mp4", 100, size=(480, 160))
    command = [sys.executable, "-m", "hybridvideo", "prepare", str(source), "--out", str(out), "--workers", "1"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    ledger = out / ".prepare/done.jsonl"
    while running.poll() is None and not (ledger.exists() and ledger.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    assert running.poll() is None, "it ended before it could be killed"
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    for copy in out.rglob("*.mp4"):
        with VideoReader(copy) as reader:
            assert reader.check().frames == 100
    assert call(source, "--out", out, "--workers", 0) == 0 and 0 < len(quick) <= 6
    assert len(read_manifest(out / "manifest.csv", labelled=False)) == 8 and not list(out.rglob("*.part"))


def test_nothing_is_written_outside_and_nothing_that_is_read(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    listed = tmp_path / "lists" / "all.csv"
    listed.parent.mkdir()
    listed.write_text(f"path,label\n../videos/run/b.mp4,run\n{corpus}/run/b.mp4,run\n{corpus}/jump/a.mp4,jump\n")
    out = tmp_path / "small"
    before = tree(tmp_path)
    assert call(listed, "--out", out, "--workers", 0) == 0
    assert (table(out)[0]["status"], table(out)[0]["copy"]) == ("refused", None)
    assert all(not str(row["copy"]).startswith(("/", "..")) for row in table(out))
    assert {name: s for name, s in tree(tmp_path).items() if not name.startswith("small/")} == before
    assert len(quick) == 2
    for wrong in (corpus, corpus / "copies", corpus / "run"):
        assert "never written to" in fails(capsys, corpus, "--out", wrong)
    assert "to which copies are written" in fails(capsys, listed, "--out", corpus)
    assert "did not write" in fails(capsys, corpus, "--out", tmp_path / "lists")
    assert "is a file" in fails(capsys, corpus, "--out", listed)
    assert {name: s for name, s in tree(tmp_path).items() if not name.startswith("small/")} == before


def test_a_link_among_the_copies_leads_nowhere(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, elsewhere = tmp_path / "small", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / ".prepare").mkdir(parents=True)
    (out / "run").symlink_to(elsewhere)
    assert "by a link" in fails(capsys, corpus, "--out", out, "--workers", 0)
    assert not list(elsewhere.iterdir())


def test_groups_stay_and_one_file_listed_twice_has_one_copy(corpus: Path, tmp_path: Path, quick: list[str]) -> None:
    listed = corpus / "all.csv"
    listed.write_text("path,label,group\nrun/b.mp4,run,g\njump/a.mp4,jump,\nrun/../run/b.mp4,run,g\n")
    assert call(listed, "--out", tmp_path / "small", "--workers", 0) == 0 and len(quick) == 2
    rows = read_manifest(tmp_path / "small/manifest.csv").rows
    assert [(row.path, row.label, row.group) for row in rows] == [
        ("run/b.mp4", 1, "g"), ("jump/a.mp4", 0, None), ("run/b.mp4", 1, "g")
    ]  # fmt: skip


def test_too_many_failures_end_with_exit_code_3(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    message = fails(capsys, corpus, "--out", tmp_path / "small", "--workers", 0, "--max-bad", 0.1, code=3)
    assert "1 of 5" in message and (tmp_path / "small/manifest.csv").exists()


def test_a_decoder_that_hangs_is_a_reason_and_is_tried_again(
    corpus: Path, tmp_path: Path, quick: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def hangs(function: Any, copies: list[Copy], **_: object) -> Iterator[Made | Lost]:
        for copy in copies:
            yield Lost("timeout", "more than 3 s") if copy.source.endswith("b.mp4") else function(copy)

    monkeypatch.setattr(job, "each", hangs)
    for calls in (4, 4):
        assert call(corpus, "--out", tmp_path / "small") == 0
        assert len(quick) == calls and [row["status"] for row in table(tmp_path / "small")][2] == "timeout"
    monkeypatch.setattr(job, "each", lambda function, copies, **_: map(function, copies))
    assert call(corpus, "--out", tmp_path / "small") == 0
    assert quick[4:] == ["b.mp4"] and [row["status"] for row in table(tmp_path / "small")][2] == "ok"


def test_two_calls_do_not_work_in_one_folder(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    with job.open_folder(out, job.Recipe(), overwrite=False):
        assert "is using" in fails(capsys, corpus, "--out", out, "--workers", 0)
    assert not quick and call(corpus, "--out", out, "--workers", 0) == 0


@pytest.mark.parametrize("junk", [b"\xff\x00\n", b"[1]\n", b'{"source": "a"}\n', b'{"made": {"status": 1, "x": 2}}\n'])
def test_a_damaged_line_of_what_was_done_is_copied_again(
    junk: bytes, corpus: Path, tmp_path: Path, quick: list[str]
) -> None:
    out = tmp_path / "small"
    assert call(corpus, "--out", out, "--workers", 0) == 0 and len(quick) == 5
    ledger = out / ".prepare/done.jsonl"
    ledger.write_bytes(junk + b"".join(ledger.read_bytes().splitlines(keepends=True)[1:]))
    assert call(corpus, "--out", out, "--workers", 0) == 0 and len(quick) == 6
    assert len(ledger.read_bytes().splitlines()) == 5 and len(table(out)) == 5


def test_a_recipe_that_cannot_be_read_is_one_line(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "small"
    assert call(corpus, "--out", out, "--workers", 0) == 0
    (out / ".prepare/recipe.json").write_bytes(b'{"gop": ')
    assert "recipe.json is not JSON" in fails(capsys, corpus, "--out", out, "--workers", 0)


@pytest.mark.parametrize("name", ["done.jsonl", "prepare.parquet", "manifest.csv", "recipe.json", ".prepare"])
def test_a_full_disk_is_one_line_and_costs_no_copy(
    name: str, corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "small"

    def full(real: Callable[..., Any]) -> Callable[..., Any]:
        def refuse(*given: Any, **named: Any) -> Any:
            if name in Path(given[-1] if real is os.replace else given[0]).name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*given, **named)

        return refuse

    with monkeypatch.context() as patch:
        for module, function in ((os, "replace"), (os, "mkdir"), (io, "open")):
            patch.setattr(module, function, full(getattr(module, function)))
        assert "No space left on device; free some" in fails(capsys, corpus, "--out", out, "--workers", 0, code=4)
    assert call(corpus, "--out", out, "--workers", 0) == 0 and len(table(out)) == 5
    assert len(quick) == (6 if name == "done.jsonl" else 5)


def test_folders_of_splits_stay_folders_of_splits(
    corpus: Path, tmp_path: Path, quick: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "small"
    source.mkdir()
    corpus.rename(source / "train")
    (source / "val" / "run").mkdir(parents=True)
    write_video(source / "val/run/c.mp4", 3)
    assert call(source, "--out", out, "--workers", 0) == 0
    assert f"train --data.train {out}/train --data.val {out}/val" in capsys.readouterr().out
    assert read_manifest(out / "train").labels == ("jump", "run")


def test_a_name_that_is_not_text_is_a_row_with_a_reason(tmp_path: Path, quick: list[str]) -> None:
    source = tmp_path / "videos"
    source.mkdir()
    write_video(source / "a b ü.mp4", 3).rename(os.fsdecode(os.fsencode(source) + b"/\xff.mp4"))
    for _ in range(2):
        assert call(source, "--out", tmp_path / "small", "--workers", 0) == 0
        (row,) = table(tmp_path / "small")
        assert row["status"] == "unsupported" and row["path"] == "\\udcff.mp4"


def test_without_x264_it_advises_what_to_install(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(name: str, mode: str) -> None:
        raise av.codec.codec.UnknownCodecError(name)

    monkeypatch.setattr("hybridvideo.data.corpus.copies.av.Codec", without)
    assert "pip install av" in fails(capsys, corpus, "--out", tmp_path / "small", code=4)
    assert not (tmp_path / "small").exists()


def test_names_without_room_and_shapes_that_cannot_be_scaled_stop_nothing(tmp_path: Path, quick: list[str]) -> None:
    longest = "x" * 251 + ".mp4"
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / longest, 4)
    write_video(tmp_path / "videos" / "wide.mkv", 2, codec="ffv1", size=(40000, 400), pixel_format="gray")
    assert call(tmp_path / "videos", "--out", tmp_path / "out", "--workers", 0) == 0
    assert {Path(row["path"]).name: row["status"] for row in table(tmp_path / "out")} == {
        longest: "ok", "wide.mkv": "refused",
    }  # fmt: skip
    assert (tmp_path / "out" / longest).is_file()
