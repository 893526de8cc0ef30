"""What is known of a file is kept, moves with it, counts only while the file is the same, and is never in the way."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch

from hybridvideo.data.decode import IndexCache, VideoReader, cursor
from hybridvideo.errors import VideoError
from tests.videos import blank, cut, numbers, write_video

FAST = {"movflags": "faststart"}


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / "video.mp4", 60)


@pytest.fixture
def demuxed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the files that were demuxed to their end."""
    paths: list[str] = []
    demux = cursor.Cursor.demux

    def noting(self: cursor.Cursor) -> object:
        paths.append(self.path)
        return demux(self)

    monkeypatch.setattr(cursor.Cursor, "demux", noting)
    return paths


def read(path: Path, index: IndexCache | None, indices: tuple[int, ...] = (40, 3, 17)) -> torch.Tensor:
    with VideoReader(path, index=index) as reader:
        return reader.frames_at(indices).frames_TCHW


def test_a_file_is_demuxed_once(video: Path, tmp_path: Path, demuxed: list[str]) -> None:
    first = read(video, IndexCache(tmp_path / "list.index"))
    again = read(video, IndexCache(tmp_path / "list.index"))
    assert torch.equal(first, again) and numbers(again) == [40, 3, 17]
    assert demuxed == [str(video)]


def test_memory_alone_does_too(video: Path, demuxed: list[str]) -> None:
    cache = IndexCache()
    assert torch.equal(read(video, cache), read(video, cache))
    assert len(demuxed) == 1


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".ts", ".webm"])
def test_every_fact_and_frame_is_the_same_from_what_is_known(tmp_path: Path, suffix: str) -> None:
    codec = {".avi": "mpeg4", ".webm": "libvpx-vp9"}.get(suffix, "libx264")
    path = write_video(tmp_path / f"video{suffix}", 50, codec=codec)
    with VideoReader(path, index=IndexCache(tmp_path / "x.index")) as reader:
        info, times, clip = reader.info, reader.times, reader.frames_at(range(50))
    with VideoReader(path, index=IndexCache(tmp_path / "x.index")) as reader:
        assert reader.info == info and (reader.times == times).all()
        assert torch.equal(reader.frames_at(range(50)).frames_TCHW, clip.frames_TCHW)


def test_a_changed_file_is_looked_at_again(video: Path, tmp_path: Path, demuxed: list[str]) -> None:
    cache = IndexCache(tmp_path / "list.index")
    read(video, cache)
    write_video(video, 30)
    with VideoReader(video, index=cache) as reader:
        assert reader.info.frames == 30
    assert len(demuxed) == 2


def test_it_moves_with_the_videos(tmp_path: Path, demuxed: list[str]) -> None:
    (tmp_path / "here" / "videos").mkdir(parents=True)
    video = write_video(tmp_path / "here" / "videos" / "a.mp4", 60)
    read(video, IndexCache(tmp_path / "here" / "list.index"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    read(tmp_path / "there" / "videos" / "a.mp4", IndexCache(tmp_path / "there" / "list.index"))
    assert len(demuxed) == 1


def test_damage_is_known_the_second_time(tmp_path: Path, demuxed: list[str]) -> None:
    path = blank(write_video(tmp_path / "holed.mp4", 60, container_options=FAST), 0.5, 0.6)
    cache = IndexCache(tmp_path / "list.index")
    with VideoReader(path, index=cache) as reader:
        with pytest.raises(VideoError, match="partial"):
            reader.frames_at(range(60))
        info, reason = reader.info, reader.reason
    with VideoReader(path, index=IndexCache(tmp_path / "list.index")) as reader:
        assert (reader.status, reader.reason, reader.info) == ("partial", reason, info)
        assert len(reader.frames_at(range(reader.info.frames))) == info.frames
    assert len(demuxed) == 1


def test_damage_behind_what_was_read_is_noticed_though_the_file_is_known(tmp_path: Path) -> None:
    path = blank(write_video(tmp_path / "holed.mp4", 60, container_options=FAST), 0.5, 0.6)
    cache = IndexCache()
    assert numbers(read(path, cache, (0, 1, 2))) == [0, 1, 2]
    with VideoReader(path, index=cache) as reader:
        with pytest.raises(VideoError, match="partial"):
            reader.frames_at(range(60))
        assert 10 < reader.info.frames < 60


def test_a_cut_file_stays_partial(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "cut.mp4", 60, container_options=FAST), 0.7)
    cache = IndexCache(tmp_path / "list.index")
    read(path, cache, (0,))
    with VideoReader(path, index=IndexCache(tmp_path / "list.index")) as reader:
        assert reader.status == "partial" and "of 60 frames" in reader.reason


@pytest.mark.parametrize("content", [b"no database at all" * 100, b""])
def test_a_broken_index_is_done_without(video: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "list.index").write_bytes(content)
    assert numbers(read(video, IndexCache(tmp_path / "list.index"))) == [40, 3, 17]


def test_a_row_that_cannot_be_read_is_done_without(video: Path, tmp_path: Path) -> None:
    read(video, IndexCache(tmp_path / "list.index"))
    with sqlite3.connect(tmp_path / "list.index") as connection:
        connection.execute("update files set numbers = 'x'")
    connection.close()
    assert numbers(read(video, IndexCache(tmp_path / "list.index"))) == [40, 3, 17]


HOSTILE: dict[str, tuple[str, Any]] = {
    "deep": ("facts", "[" * 100_000),
    "a vast number": ("facts", '{"packets": 1' + "0" * 4000 + "}"),
    "infinity": ("facts", lambda facts: {**facts, "last": 1e999}),
    "no such status": ("facts", lambda facts: {**facts, "status": "x\x1b[2J"}),
    "a status of a file that is not used": ("facts", lambda facts: {**facts, "status": "refused"}),
    "a reason that is a list": ("facts", lambda facts: {**facts, "reason": [[]]}),
    "turned a thousand times": ("facts", lambda facts: {**facts, "quarter_turns": 1001}),
    "a vast picture": ("facts", lambda facts: {**facts, "stored": [10**9, 10**9]}),
    "no frames": ("facts", lambda facts: {**facts, "frames": 0, "packets": 120, "keys": 0}),
    "fewer packets than frames": ("facts", lambda facts: {**facts, "packets": 10}),
    "a bomb": ("numbers", zlib.compress(bytes(2**28))),
    "frames of one packet": ("numbers", zlib.compress(bytes(60 * 2 + 8 * (60 + 60 + 1 + 1 + 1)))),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_row_that_no_reader_wrote_is_done_without(what: str, video: Path, tmp_path: Path) -> None:
    cache = IndexCache(tmp_path / "list.index")
    assert numbers(read(video, cache)) == [40, 3, 17]
    column, content = HOSTILE[what]
    with sqlite3.connect(tmp_path / "list.index") as connection:
        if callable(content):
            (facts,) = connection.execute("select facts from files").fetchone()
            content = json.dumps(content(json.loads(facts)))
        connection.execute(f"update files set {column} = ?", (content,))
    connection.close()
    again = IndexCache(tmp_path / "list.index")
    assert again.get(str(video)) is None and numbers(read(video, again)) == [40, 3, 17]


@pytest.mark.parametrize(
    "program",
    [
        "create view files as with recursive n(i) as (select 1 union all select i + 1 from n) "
        "select i path, i bytes, i mtime_ns, i layout, i facts, i numbers from n",
        "create table files (path text primary key, bytes integer, mtime_ns integer, layout integer, facts text, "
        "numbers blob); create trigger t before insert on files begin select randomblob(1000000000); end",
    ],
)
def test_a_program_in_the_index_is_not_run(program: str, video: Path, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "list.index") as connection:
        connection.executescript(program)
    connection.close()
    assert numbers(read(video, IndexCache(tmp_path / "list.index"))) == [40, 3, 17]


def test_a_known_file_is_no_less_guarded(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(video, IndexCache(tmp_path / "list.index"))

    def refuse(path: str) -> None:
        raise VideoError("refused", "it promises too much")

    monkeypatch.setattr("hybridvideo.data.decode.sample_tables.check", refuse)
    with pytest.raises(VideoError, match="promises"):
        read(video, IndexCache(tmp_path / "list.index"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_index_that_may_only_be_read_is_read(video: Path, tmp_path: Path, demuxed: list[str]) -> None:
    read(video, IndexCache(tmp_path / "list.index"))
    (tmp_path / "list.index").chmod(0o400)
    read(video, IndexCache(tmp_path / "list.index"))
    assert len(demuxed) == 1


def test_a_cache_crosses_a_process_as_its_path(video: Path, tmp_path: Path, demuxed: list[str]) -> None:
    cache = IndexCache(tmp_path / "list.index")
    read(video, cache)
    read(video, pickle.loads(pickle.dumps(cache)))
    assert len(demuxed) == 1
