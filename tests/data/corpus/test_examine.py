"""Every file of a corpus is a row that says what is wrong with it, and what a scan held back is not opened again."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig
from hybridvideo.data.corpus import examine as examine_module
from hybridvideo.data.corpus.examine import ScanSettings, examine, examine_file
from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.decode.known import index_beside
from hybridvideo.data.manifest import Manifest, Row, read_manifest
from hybridvideo.data.sampling import centre_starts
from hybridvideo.data.transforms import TrainTransform, ViewTransform
from hybridvideo.data.views import ViewDataset
from hybridvideo.errors import USABLE, UserError
from tests.videos import blank, cut, write_audio, write_video

EXPECTED = {
    "good.mp4": "ok",
    "größe 動画.mkv": "ok",
    "cut.mp4": "partial",
    "blanked.avi": "partial",
    "one.mp4": "short",
    "sound.mp4": "no_video",
    "empty.mp4": "unreadable",
    "text.mp4": "unreadable",
    "playlist.mp4": "refused",
    "pipe.mp4": "refused",
    "folder.mp4": "refused",
    "../outside.mp4": "refused",
    "gone.mp4": "missing",
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A good video and every kind of bad one, as a list would name them."""
    folder = tmp_path_factory.mktemp("scan") / "corpus"
    folder.mkdir()
    write_video(folder / "good.mp4", 30)
    write_video(folder / "größe 動画.mkv", 20)
    # The index at the front, so that what is left can be read.
    cut(write_video(folder / "cut.mp4", 60, container_options={"movflags": "faststart"}), 0.6)
    blank(write_video(folder / "blanked.avi", 60, codec="mpeg4"), 0.4, 0.6)
    write_video(folder / "one.mp4", 1)
    write_audio(folder / "sound.mp4")
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("this is no video, whatever its name says\n" * 100)
    (folder / "playlist.mp4").write_text("#EXTM3U\n#EXTINF:1,\ngood.mp4\n#EXT-X-ENDLIST\n")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    write_video(folder.parent / "outside.mp4", 5)
    return Manifest(tuple(Row(path, 0, "g") for path in EXPECTED), ("dance",), folder)


def rows_of(manifest: Manifest, workers: int = 0, **settings: Any) -> dict[str, dict[str, Any]]:
    return {row["path"]: row for row in examine(manifest, ScanSettings(**settings), workers=workers, deadline=60)}


def test_every_kind_of_file_has_its_status_and_reason(corpus: Manifest) -> None:
    rows = rows_of(corpus)
    assert {path: row["status"] for path, row in rows.items()} == EXPECTED
    assert all("\n" not in row["reason"] and bool(row["reason"]) == (row["status"] != "ok") for row in rows.values())
    assert all(row["label"] == "dance" and row["group"] == "g" for row in rows.values())


def test_a_row_tells_what_the_file_holds(corpus: Manifest) -> None:
    row = rows_of(corpus)["good.mp4"]
    assert (row["promised"], row["decoded"]) == (30, 30)
    assert (row["codec"], row["pixel_format"], row["width"], row["height"]) == ("h264", "yuv420p", 96, 32)
    assert row["fps"] == pytest.approx(25) and row["duration"] == pytest.approx(1.2)
    assert row["regular"] and row["rotation"] == 0 and row["seconds"] > 0
    assert row["bytes"] == (corpus.root / "good.mp4").stat().st_size and len(row["checksum"]) == 32


def test_damage_is_counted_by_decoding(corpus: Manifest) -> None:
    rows = rows_of(corpus)
    for path in ("cut.mp4", "blanked.avi"):
        assert 0 < rows[path]["decoded"] <= rows[path]["promised"] == 60
        assert str(rows[path]["decoded"]) in rows[path]["reason"] or "damaged" in rows[path]["reason"]
    assert rows["cut.mp4"]["decoded"] < 60


def test_reading_the_index_only_decodes_nothing(corpus: Manifest) -> None:
    rows = rows_of(corpus, decode="index")
    assert rows["good.mp4"]["decoded"] is None and rows["good.mp4"]["promised"] == 30
    assert rows["sound.mp4"]["status"] == "no_video"


def test_how_short_is_too_short_is_the_users_choice(corpus: Manifest) -> None:
    assert rows_of(corpus, short=1)["one.mp4"]["status"] == "ok"
    longer = rows_of(corpus, short=25)
    assert longer["größe 動画.mkv"]["reason"] == "20 frames, fewer than 25" and longer["good.mp4"]["status"] == "ok"
    with pytest.raises(UserError, match="short is 0"):
        ScanSettings(short=0)


def test_workers_do_not_change_a_row(corpus: Manifest) -> None:
    def timeless(rows: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "seconds": None} for row in rows.values()]

    assert timeless(rows_of(corpus)) == timeless(rows_of(corpus, workers=2))


def die_at_cut(root: str, strict: bool, settings: ScanSettings, task: tuple[int, str]) -> dict[str, Any]:
    if task[1] == "cut.mp4":
        os._exit(5)
    return examine_file(root, strict, settings, task)


def test_a_file_that_kills_its_decoder_is_a_row(corpus: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine_module, "examine_file", die_at_cut)
    rows = rows_of(corpus, workers=2)
    assert {path: row["status"] for path, row in rows.items()} == {**EXPECTED, "cut.mp4": "crashed"}
    assert "exit code 5" in rows["cut.mp4"]["reason"]
    assert rows["cut.mp4"]["bytes"] == (corpus.root / "cut.mp4").stat().st_size


# ---- quarantine


def write_table(path: Path, corpus: Manifest, rows: list[dict[str, Any]]) -> Path:
    columns = ["path", "status", "reason", "bytes", "mtime_ns", "checksum"]
    table = pa.Table.from_pylist([{name: row[name] for name in columns} for row in rows])
    notes = json.dumps({"root": str(corpus.root)})
    pq.write_table(table.replace_schema_metadata({"hybridvideo": notes}), path)
    return path


@pytest.fixture
def table(corpus: Manifest, tmp_path: Path) -> Iterator[Path]:
    yield write_table(tmp_path / "scan.parquet", corpus, list(rows_of(corpus).values()))


def held(table: Path, manifest: Manifest) -> set[str]:
    return {manifest.rows[index].path for index in quarantined(table, manifest)}


UNUSABLE = {path for path, status in EXPECTED.items() if status not in USABLE}


def test_what_cannot_be_used_is_held_with_its_reason(corpus: Manifest, table: Path) -> None:
    found = quarantined(table, corpus)
    assert {corpus.rows[index].path: status for index, (status, _) in found.items()} == {
        path: EXPECTED[path] for path in UNUSABLE
    }
    assert all(reason for _, reason in found.values())
    assert quarantined(None, corpus) == {}


def test_a_file_is_known_by_whatever_way_its_folder_is_reached(corpus: Manifest, table: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(corpus.root)
    linked = dataclasses.replace(corpus, root=tmp_path / "link")
    inside = UNUSABLE - {"../outside.mp4"}
    assert held(table, linked) >= inside
    absolute = Manifest(tuple(Row(str(corpus.root / path)) for path in EXPECTED), (), Path())
    assert {os.path.relpath(path, corpus.root) for path in held(table, absolute)} >= inside


def test_a_file_that_was_repaired_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    good = write_video(tmp_path / "good.mp4", 10).read_bytes()
    (folder / "text.mp4").write_bytes(b"?" * len(good))  # of the same size
    (folder / "empty.mp4").touch()
    (folder / "same.mp4").write_text("no video")
    manifest = Manifest(tuple(Row(name) for name in ("text.mp4", "empty.mp4", "gone.mp4", "same.mp4")), (), folder)
    table = write_table(tmp_path / "scan.parquet", manifest, list(rows_of(manifest).values()))
    assert held(table, manifest) == {"text.mp4", "empty.mp4", "gone.mp4", "same.mp4"}
    for name in ("text.mp4", "empty.mp4", "gone.mp4"):
        (folder / name).write_bytes(good)
    os.utime(folder / "same.mp4", (0, 0))  # touched, but of the same content
    assert held(table, manifest) == {"same.mp4"}


def test_what_is_held_is_not_opened(corpus: Manifest, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridvideo.data.reading.VideoReader", refuse)
    index = list(EXPECTED).index("sound.mp4")
    bad = quarantined(table, corpus)
    clips = ClipDataset(corpus, ClipConfig(frames=4), TrainTransform(FrameConfig(16, 16), AugmentConfig()), 0,
                        quarantine=bad)  # fmt: skip
    views = ViewDataset(
        corpus, ClipConfig(frames=4), ViewTransform(FrameConfig(16, 16), 1), centre_starts, quarantine=bad
    )
    clip, view = clips[0, index], views[index]
    assert isinstance(clip, dict)
    assert (clip["status"], clip["reason"], clip["ok"]) == (*bad[index], False)
    assert (view["status"], view["reason"]) == bad[index]


def refuse(*arguments: object, **options: object) -> None:
    raise AssertionError("a file in quarantine was opened")


def test_a_table_that_is_not_a_scan_is_refused_in_one_line(tmp_path: Path) -> None:
    other = tmp_path / "other.parquet"
    pq.write_table(pa.table({"path": ["a"]}), other)
    text = tmp_path / "text.parquet"
    text.write_text("text")
    manifest = Manifest((Row("a"),), (), tmp_path)
    for table in (other, text, tmp_path / "absent.parquet"):
        with pytest.raises(UserError, match="hybridvideo scan") as caught:
            quarantined(table, manifest)
        assert "\n" not in str(caught.value)


# ---- real files


@pytest.mark.shared
def test_real_files_have_the_status_that_is_known_of_them(shared: Path) -> None:
    rows = rows_of(read_manifest(shared / "data/clips", labelled=False), workers=2)
    statuses = {path: row["status"] for path, row in rows.items() if row["status"] != "ok"}
    assert statuses.pop("odd/audio_only.mp4") == "no_video"
    assert statuses.pop("decord/tests__test_data__corrupted.mp4") == "partial"
    assert set(statuses.values()) == {"short"} and "odd/one_frame.mp4" in statuses
    with (shared / "data/MANIFEST.csv").open(newline="") as file:
        known = {line["file"]: line["frames_decoded"] for line in csv.DictReader(file)}
    assert {path: row["decoded"] for path, row in rows.items()} == {
        path: int(known[f"clips/{path}"] or 0) or None for path in rows
    }
    corrupted = rows["decord/tests__test_data__corrupted.mp4"]
    assert corrupted["promised"] == 50 and "49 of 50" in corrupted["reason"]


def test_a_scan_leaves_an_index_that_saves_readers_the_search(corpus: Manifest, tmp_path: Path) -> None:
    settings = ScanSettings(index=str(tmp_path / "scan.parquet.index"))
    list(examine(corpus, settings, workers=0, deadline=60.0))
    index = index_beside(tmp_path / "scan.parquet")
    good = corpus.file([row.path for row in corpus.rows].index("good.mp4"))
    known = index.get(str(good))
    assert known is not None and known.counted and not known.by_decoding and known.status == "ok"
