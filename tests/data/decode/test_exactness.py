"""Every frame asked for is the frame given, whatever the container does with time."""

from __future__ import annotations

import itertools
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch

from hybridvideo.data.decode import Framing, VideoReader
from tests.videos import HEIGHT, WIDTH, numbers, write_video

EVEN = [512 * number for number in range(30)]
VIDEOS: dict[str, dict[str, Any]] = {
    "h264_b_frames.mp4": {"b_frames": 3},
    "h264_open_gop.mp4": {
        "b_frames": 3,
        "options": {"x264-params": "open-gop=1:scenecut=0:b-adapt=0:b-pyramid=2", "refs": "4"},
    },
    "h264_one_gop.mkv": {"gop": 250},
    "h264_intra.mov": {"gop": 1, "b_frames": 0},
    "h264_fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "h264_made_up_times.avi": {},
    "h264.ts": {},
    "h264_no_times.h264": {},
    "h264.flv": {},
    "hevc.mp4": {"codec": "libx265"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "mpeg4_no_b_frames.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg2_b_frames.mpg": {"codec": "mpeg2video"},
    "starts_at_5_s.mkv": {"ticks": [64000 + tick for tick in EVEN]},
    "variable_rate.mp4": {"ticks": [tick + 37 * number**2 for number, tick in enumerate(EVEN)]},
    "h264_odd_size_444.mp4": {"size": (101, 45), "pixel_format": "yuv444p"},
}


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_comes_back_exact_in_any_order(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, **VIDEOS[name])
    with VideoReader(path) as reader:
        assert (reader.info.frames, reader.status) == (30, "ok")
        for index in reversed(range(30)):  # each from its key frame
            assert numbers(reader.frames_at([index]).frames_TCHW) == [index]
        assert numbers(reader.frames_at(range(30)).frames_TCHW) == list(range(30))
        shuffled = np.random.default_rng(0).integers(0, 30, 40).tolist()
        clip = reader.frames_at(shuffled)
    assert numbers(clip.frames_TCHW) == shuffled
    assert clip.times_T == tuple(reader.times[shuffled])


@pytest.mark.parametrize("name", ["h264_b_frames.mp4", "h264_open_gop.mp4", "hevc.mp4", "mpeg4_b_frames.avi"])
def test_skipping_leaves_the_pixels_of_wanted_frames_alone(tmp_path: Path, name: str) -> None:
    path = write_video(tmp_path / name, **VIDEOS[name])
    with VideoReader(path) as reader:
        whole = reader.frames_at(range(30)).frames_TCHW
        for start, step in itertools.product((0, 1, 7), (2, 3, 5, 11)):
            wanted = list(range(start, 30, step))
            assert (reader.frames_at(wanted).frames_TCHW == whole[wanted]).all()


def test_reading_on_continues_where_the_last_call_stopped(tmp_path: Path) -> None:
    path = write_video(tmp_path / "long.mp4", 60, gop=60)
    with VideoReader(path) as reader:
        for start in range(0, 60, 7):
            wanted = list(range(start, min(60, start + 7)))
            assert numbers(reader.frames_at(wanted).frames_TCHW) == wanted


def test_frames_before_the_edit_list_are_not_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "edit.mp4", ticks=[tick - 5 * 512 for tick in EVEN])
    with VideoReader(path) as reader:
        assert (reader.info.frames, reader.info.header_frames, reader.status) == (25, 30, "ok")
        assert numbers(reader.frames_at([24, 0, 6]).frames_TCHW) == [29, 5, 11]
        assert reader.times[0] == 0.0


def test_a_vp8_packet_that_is_never_shown_is_not_a_frame(tmp_path: Path) -> None:
    source, target = write_video(tmp_path / "a.webm", codec="libvpx"), tmp_path / "b.webm"
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        for number, packet in enumerate(packet for packet in read.demux(video=0) if packet.size):
            data = bytearray(bytes(packet))
            data[0] &= 0xFF if number != 29 else ~0x10
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base, copy.stream = packet.pts, packet.dts, packet.time_base, stream
            copy.is_keyframe = packet.is_keyframe
            write.mux(copy)
    with VideoReader(target) as reader:
        assert numbers(reader.frames_at(range(reader.info.frames)).frames_TCHW) == list(range(29))
        assert reader.status == "ok"


def test_a_stream_that_changes_size_keeps_the_size_of_its_first_frame(tmp_path: Path) -> None:
    big, small = write_video(tmp_path / "a.h264", 12), write_video(tmp_path / "b.h264", 12, size=(48, 16))
    big.write_bytes(big.read_bytes() + small.read_bytes())
    with VideoReader(big) as reader:
        clip = reader.frames_at(range(24))
    assert clip.frames_TCHW.shape == (24, 3, 32, 96)
    assert numbers(clip.frames_TCHW) == [*range(12), *range(12)]


@pytest.mark.parametrize("indices", [[20], [30, 40], [5, 30]])
def test_the_first_frame_gives_the_size_whichever_is_asked_for_first(tmp_path: Path, indices: list[int]) -> None:
    path = sizes_change(tmp_path)
    with VideoReader(path) as reader:
        clip = reader.frames_at(indices)
        assert clip.frames_TCHW.shape[2:] == (HEIGHT, WIDTH)
        assert (reader.info.width, reader.info.height) == (WIDTH, HEIGHT)
    with VideoReader(path) as reader:
        assert torch.equal(reader.frames_at(range(48)).frames_TCHW[indices], clip.frames_TCHW)


def sizes_change(folder: Path) -> Path:
    """A Matroska file of 48 frames whose second half is larger."""
    parts = [write_video(folder / f"{side}.h264", 24, size=(side, side // 3), b_frames=0) for side in (WIDTH, 192)]
    (folder / "both.h264").write_bytes(b"".join(part.read_bytes() for part in parts))
    with av.open(str(folder / "both.h264")) as raw, av.open(str(folder / "changes.mkv"), "w") as container:
        stream = container.add_stream_from_template(raw.streams.video[0])
        for number, packet in enumerate(packet for packet in raw.demux(video=0) if packet.size):
            packet.pts = packet.dts = number * 40
            packet.time_base, packet.stream = Fraction(1, 1000), stream
            container.mux(packet)
    return folder / "changes.mkv"


def test_a_clock_that_starts_again_midway_takes_no_frame_for_another(tmp_path: Path) -> None:
    path = write_video(tmp_path / "twice.mkv", 30)
    path.write_bytes(path.read_bytes() * 2)
    with VideoReader(path) as reader:
        assert numbers(reader.frames_at([3, 13, 47, 54]).frames_TCHW) == [3, 13, 17, 24]
        assert numbers(reader.frames_at([24, 45]).frames_TCHW) == [24, 15]


@pytest.mark.parametrize("turn", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0), (0, -1, -1, 0), (0, 0, 0, 0)])
def test_a_matrix_that_flips_is_applied_and_one_of_zeros_is_not(tmp_path: Path, turn: tuple[int, ...]) -> None:
    path = write_video(tmp_path / "plain.mp4", 4)
    with VideoReader(path) as reader:
        plain_TCHW = reader.frames_at(range(4)).frames_TCHW
    a, b, c, d = (65536 * number for number in turn)
    data = bytearray(path.read_bytes())
    struct.pack_into(">5i", data, data.index(b"tkhd") + 44, a, b, 0, c, d)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        shown_TCHW = reader.frames_at(range(4)).frames_TCHW
        part_TCHW = reader.frames_at(range(4), Framing(box=(4, 8, 16, 20))).frames_TCHW
    transposed_TCHW = plain_TCHW.transpose(2, 3)
    expected_TCHW = {
        (-1, 0, 0, 1): plain_TCHW.flip(3), (1, 0, 0, -1): plain_TCHW.flip(2), (0, 1, 1, 0): transposed_TCHW,
        (0, -1, -1, 0): transposed_TCHW.flip(2, 3), (0, 0, 0, 0): plain_TCHW,
    }[turn]  # fmt: skip
    assert torch.equal(shown_TCHW, expected_TCHW)
    assert torch.equal(part_TCHW, shown_TCHW[:, :, 4:20, 8:28])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_the_display_matrix_is_applied(tmp_path: Path, rotation: int) -> None:
    path = write_video(tmp_path / "turned.mp4", 4, rotation=rotation)
    with VideoReader(path) as reader:
        clip = reader.frames_at(range(4))
        assert (reader.info.width, reader.info.height, reader.info.rotation) == (96, 32, rotation)
    assert numbers(clip.frames_TCHW) == [0, 1, 2, 3]


def test_opening_tells_the_facts(tmp_path: Path) -> None:
    path = write_video(tmp_path / "facts.mp4", 30, fps=25, gop=10, audio=True)
    with VideoReader(path) as reader:
        info = reader.info
    assert (info.frames, info.header_frames, info.regular, info.keyframes) == (30, 30, True, (0, 10, 20))
    assert (info.codec, info.pixel_format) == ("h264", "yuv420p")
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(1.2)
    np.testing.assert_allclose(reader.times, np.arange(30) / 25)


def test_uneven_times_are_reported_as_they_are(tmp_path: Path) -> None:
    ticks = [0, 512, 1024, 6000, 6512, 12800]
    path = write_video(tmp_path / "uneven.mp4", 6, ticks=ticks)
    with VideoReader(path) as reader:
        assert not reader.info.regular
        assert reader.info.fps == pytest.approx(5)
        np.testing.assert_allclose(reader.times, np.array(ticks) / 12800)


def test_a_single_frame_has_a_rate_and_a_duration(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "one.mp4", 1, fps=20)) as reader:
        assert reader.info.frames == 1
        assert (reader.info.fps, reader.info.duration) == pytest.approx((20, 0.05))
