"""Damaged, cut off and hostile files: noticed, named, and readable as far as they go."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import av
import numpy as np
import pytest

from hybridvideo.data.decode import VideoReader, guard
from hybridvideo.errors import VideoError
from tests.videos import blank, cut, numbers, picture, write_audio, write_video

FAST = {"movflags": "faststart"}


def refusal(path: str | Path) -> VideoError:
    with pytest.raises(VideoError) as caught:
        VideoReader(path).info  # noqa: B018  (looks at the first frame)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_cut_file_is_partial_and_readable_as_far_as_it_goes(tmp_path: Path) -> None:
    path = cut(write_video(tmp_path / "cut.mp4", 60, container_options=FAST), 0.7)
    with VideoReader(path) as reader:
        promised = reader.info.frames
        assert reader.status == "partial"
        assert reader.reason == f"{promised} of 60 frames are in the file"
        with pytest.raises(VideoError, match=r"partial: \d+ of 60 frames decode"):
            reader.frames_at(range(promised))
        left = reader.info.frames
        assert 10 < left < promised
        assert len(reader.times) == left
        assert reader.info.duration == pytest.approx(left / 25, abs=0.2)
        assert reader.reason.startswith(f"{left} of 60 frames decode")
        moments = np.round(reader.times * 25).astype(int).tolist()  # frames that lean on lost ones are lacking
        assert numbers(reader.frames_at(range(left)).frames_TCHW)[:-1] == moments[:-1]


@pytest.mark.parametrize(("name", "codec"), [("cut.mkv", "libx264"), ("cut.webm", "libvpx-vp9"), ("cut.avi", "mpeg4")])
def test_a_cut_file_without_an_index_is_partial_by_its_duration(tmp_path: Path, name: str, codec: str) -> None:
    path = cut(write_video(tmp_path / name, 90, codec=codec), 0.5)
    with VideoReader(path) as reader:
        assert reader.status == "partial"
        assert "of 3.60 s" in reader.reason or "of 90 frames decode" in reader.reason
        assert 10 < reader.info.frames < 80
        first = list(range(10))
        assert numbers(reader.frames_at(first).frames_TCHW) == first


def test_a_cut_flash_video_is_partial_by_its_duration(tmp_path: Path) -> None:
    with VideoReader(cut(write_video(tmp_path / "cut.flv", 90), 0.5)) as reader:
        assert reader.status == "partial" and "s" in reader.reason.split()


def test_an_avi_that_counts_more_pictures_than_it_holds_is_partial(tmp_path: Path) -> None:
    path = write_video(tmp_path / "few.avi", 40, codec="mjpeg", pixel_format="yuvj420p")
    with VideoReader(blank(path, 0.4, 0.5)) as reader:
        info = reader.check()
        assert reader.status == "partial" and reader.reason.startswith(f"{info.frames} of 40 frames")


def test_what_follows_long_junk_in_a_transport_stream_is_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "gap.ts", 40, b_frames=0)
    data = path.read_bytes()
    middle = len(data) // 2 // 188 * 188
    path.write_bytes(data[:middle] + bytes(200_000) + data[middle:])
    with VideoReader(path) as reader:
        shown = numbers(reader.frames_at([0, reader.info.frames - 1]).frames_TCHW)
    assert shown == [0, 39]


def test_asking_for_facts_of_a_video_that_is_damaged_from_its_start_tells_what_is_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "late.mp4", 60, gop=10)
    headless = blank(path, 0.0, 0.15)
    with VideoReader(headless) as reader:
        info = reader.info
        assert reader.status == "partial" and info.frames == len(reader.times) < 60


def test_damage_in_the_middle_is_noticed_when_it_is_met(tmp_path: Path) -> None:
    path = blank(write_video(tmp_path / "hole.mp4", 60, container_options=FAST), 0.6, 0.7)
    with VideoReader(path) as reader:
        assert (reader.info.frames, reader.status, reader.reason) == (60, "ok", "")
        assert numbers(reader.frames_at([0, 5]).frames_TCHW) == [0, 5]
        with pytest.raises(VideoError) as caught:
            reader.frames_at(range(60))
        assert (caught.value.status, caught.value.reason) == ("partial", reader.reason)
        left = reader.info.frames
        assert left < 60
        shown = numbers(reader.frames_at(range(left)).frames_TCHW)
        moments = np.round(reader.times * 25).astype(int).tolist()
        wrong = [moment for number, moment in zip(shown, moments, strict=True) if number != moment]
        assert not wrong or max(wrong) - min(wrong) < 20  # only pictures of the damaged groups of ten can be off


def test_check_finds_damage_without_being_asked_for_frames(tmp_path: Path) -> None:
    path = blank(write_video(tmp_path / "hole.mp4", 60, container_options=FAST), 0.6, 0.7)
    with VideoReader(path) as reader:
        info = reader.check()
        assert info.frames == len(reader.times) < 60
        assert reader.status == "partial"
        assert len(reader.frames_at(range(info.frames))) == info.frames


def test_check_finds_nothing_in_a_good_file(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "good.mp4")) as reader:
        before = reader.info
        assert reader.check() == before
        assert (reader.status, reader.reason) == ("ok", "")


def test_a_video_of_which_nothing_decodes_is_unreadable(tmp_path: Path) -> None:
    path = write_video(tmp_path / "void.mp4", 30, container_options=FAST)
    error = refusal(blank(path, 0.0, 1.0))
    assert error.status == "unreadable"
    assert "no frame can be decoded" in error.reason


def test_a_file_without_its_index_is_unreadable(tmp_path: Path) -> None:
    assert refusal(cut(write_video(tmp_path / "tail.mp4"), 0.8)).status == "unreadable"


def test_what_is_not_a_file_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    expected = {
        str(tmp_path / "nothing.mp4"): "missing",
        str(tmp_path / "gone.mp4"): "missing",
        str(tmp_path / "a.mp4" / "b.mp4"): "missing",
        "x" * 5000: "missing",
        str(tmp_path): "refused",
        str(tmp_path / "pipe.mp4"): "refused",
        "/dev/zero": "refused",
        "bad\0name.mp4": "refused",
        "http://127.0.0.1:9/a.mp4": "refused",
    }
    assert {path: refusal(path).status for path in expected} == expected


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s.mp4")
        assert "a socket" in refusal("s.mp4").reason


def test_what_is_not_a_video_is_named(tmp_path: Path) -> None:
    contents = {
        "empty.mp4": (b"", "unreadable", "file is empty"),
        "text.mp4": (b"some words, no pictures\n" * 40, "unreadable", "not a video container FFmpeg knows"),
        "text.txt": (b"some words, no pictures\n" * 40, "unreadable", "not a video container FFmpeg knows"),
        "noise.mp4": (np.random.default_rng(0).bytes(5000), "unreadable", "not a video container FFmpeg knows"),
        "list.mp4": (b"#EXTM3U\n#EXTINF:5,\n/etc/hostname\n", "refused", "playlist"),
        "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://127.0.0.1:9/a.ts\n", "refused", "list"),
        "concat.mp4": (b"ffconcat version 1.0\nfile 'video.mp4'\n", "refused", "playlist"),
    }
    for name, (data, status, words) in contents.items():
        (tmp_path / name).write_bytes(data)
        error = refusal(tmp_path / name)
        assert error.status == status, name
        assert words in error.reason


def test_sound_and_cover_pictures_are_not_video(tmp_path: Path) -> None:
    assert refusal(write_audio(tmp_path / "sound.mp4")).status == "no_video"
    assert refusal(write_audio(tmp_path / "sound.mkv")).status == "no_video"
    cover = tmp_path / "cover.mp4"
    with av.open(str(cover), "w") as container:
        sound = container.add_stream("aac", rate=16000, layout="mono")
        image = container.add_stream("mjpeg", rate=1, options={"strict": "unofficial"})
        image.width, image.height, image.pix_fmt = 96, 32, "yuv420p"
        image.disposition = av.stream.Disposition.attached_pic
        frame = av.VideoFrame.from_ndarray(picture(5), format="rgb24").reformat(format="yuv420p")
        container.mux(image.encode(frame))
        container.mux(image.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    error = refusal(cover)
    assert (error.status, error.reason) == ("no_video", "the file has only a cover picture")


@pytest.mark.parametrize("name", ["-y.mp4", "concat:a|b.mp4", "file:x.mp4", "http:x.mp4", "späß 'x' %d.mp4"])
def test_odd_names_are_only_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    with VideoReader(name) as reader:
        assert numbers(reader.frames_at([0, 1, 2]).frames_TCHW) == [0, 1, 2]


def test_a_symbolic_link_to_a_video_is_read(tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(write_video(tmp_path / "plain.mp4", 3))
    with VideoReader(tmp_path / "link.mp4") as reader:
        assert reader.info.frames == 3


def test_a_name_that_is_not_utf8_is_answered_with_advice(tmp_path: Path) -> None:
    name = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
    os.rename(write_video(tmp_path / "plain.mp4", 3), name)
    error = refusal(os.fsdecode(name))
    assert error.status == "unsupported"
    assert "rename" in error.reason


def test_frames_above_the_limit_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "big.mp4", 3, size=(192, 64))
    monkeypatch.setattr(guard, "MAX_FRAME_PIXELS", 192 * 64 - 1)
    error = refusal(path)
    assert (error.status, error.reason.split(";")[0]) == ("refused", "frames of 192x64")


def test_a_slide_show_is_not_taken_for_a_cut_file(tmp_path: Path) -> None:
    path = write_video(tmp_path / "slides.mkv", 4, ticks=[0, 12800, 64000, 128000])
    with VideoReader(path) as reader:
        assert reader.status == "ok"
        assert not reader.info.regular
