"""A file that no demuxer takes is called what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridvideo.data.decode import VideoReader
from hybridvideo.errors import VideoError
from tests.videos import cut, write_video


def refusal(path: Path) -> VideoError:
    with pytest.raises(VideoError) as caught:
        VideoReader(path)
    return caught.value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404 Not Found</html>", "a web page"),
        (b'  {"error": "not found"}', "JSON text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "a PNG picture"),
        (b"PK\x03\x04" + bytes(range(256)), "a ZIP archive"),
        (b"1\n00:00:00,000 --> 00:00:01,000\nwords\n", "it is text"),
        (bytes(5000), "only zeros"),
    ],
)
def test_what_is_called_a_video_and_is_none_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    error = refusal(tmp_path / "a.mp4")
    assert error.status == "unreadable" and words in error.reason


def test_an_mp4_without_its_index_is_called_that(tmp_path: Path) -> None:
    assert "index (moov) is missing" in refusal(cut(write_video(tmp_path / "tail.mp4"), 0.8)).reason


def test_a_playlist_behind_a_byte_order_mark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"\xef\xbb\xbf#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n")
    assert refusal(tmp_path / "a.mp4").status == "refused"


def test_an_encrypted_video_is_unsupported_and_not_a_grey_one(tmp_path: Path) -> None:
    key = "76a6c65c5ea762046bd748a2e632ccbb"
    path = write_video(
        tmp_path / "secret.mp4",
        container_options={
            "encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key,
        },
    )  # fmt: skip
    error = refusal(path)
    assert error.status == "unsupported" and "encrypted" in error.reason


def test_a_file_that_ends_before_its_first_frame_is_reported_as_such(tmp_path: Path) -> None:
    path = write_video(tmp_path / "head.ts")
    path.write_bytes(path.read_bytes()[:400])
    assert "before its first frame" in refusal(path).reason
