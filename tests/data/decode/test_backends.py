"""The three backends behind one reader: the same frames, times and orientation, whichever library decodes."""

from __future__ import annotations

import importlib
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hybridvideo.data.decode import AUTO, BACKENDS, Framing, VideoReader, fallback, pyav
from hybridvideo.data.decode.frames import Shot
from hybridvideo.data.decode.indexed import LUMA_BOUND, MEAN_BOUND, IndexedBackend
from hybridvideo.errors import EnvironmentFault, UserError, VideoError
from tests.data.decode.backends import need, working
from tests.videos import blank, cut, numbers, write_video

OTHERS = [name for name in BACKENDS if name != "pyav"]
EVEN = [512 * number for number in range(30)]
LUMA = np.array([0.299, 0.587, 0.114])
VIDEOS: dict[str, dict[str, Any]] = {
    "cfr.mp4": {"b_frames": 0},
    "b_frames.mp4": {"b_frames": 3},
    "open_gop.mp4": {
        "b_frames": 3,
        "options": {"x264-params": "open-gop=1:scenecut=0:b-adapt=0:b-pyramid=2", "refs": "4"},
    },
    "one_gop.mkv": {"gop": 250},
    "vfr.mp4": {"ticks": [tick + 37 * number**2 for number, tick in enumerate(EVEN)]},
    "starts_at_5_s.mkv": {"ticks": [64000 + tick for tick in EVEN]},
    "turned_90.mp4": {"rotation": 90},
    "turned_180.mp4": {"rotation": 180},
    "turned_270.mov": {"rotation": 270},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "h264_made_up_times.avi": {},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "hevc.mp4": {"codec": "libx265"},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "odd_size_444.mp4": {"size": (101, 45), "pixel_format": "yuv444p"},
    "narrow.mp4": {"size": (48, 32)},
}
# Real clips a library cannot read, and why. All others must come out the same.
EXCEPTIONS = {
    ("decord", "odd/av1_svt.mkv"): "no AV1 decoder",
    ("decord", "odd/av1_svt.mp4"): "no AV1 decoder",
    ("decord", "torchcodec/av1_video.mkv"): "no AV1 decoder",
    ("decord", "torchcodec/testsrc2_av1_10bit.mp4"): "no AV1 decoder",
    ("decord", "odd/h264_interlaced.ts"): "loses its place in transport streams",
    ("decord", "decord/tests__test_data__corrupted.mp4"): "does not say which frames of a damaged file it gives",
    ("torchcodec", "decord/tests__test_data__corrupted.mp4"): "gives a concealed picture for the damaged one",
}


@pytest.fixture(params=OTHERS)
def other(request: pytest.FixtureRequest) -> str:
    return need(request.param)


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_comes_back_exact_in_any_order(tmp_path: Path, other: str, name: str) -> None:
    path = write_video(tmp_path / name, **VIDEOS[name])
    shuffled = np.random.default_rng(0).integers(0, 30, 20).tolist()
    with VideoReader(path, backend=other) as reader, VideoReader(path, backend="pyav") as ours:
        assert (reader.backend, reader.info, reader.status) == (other, ours.info, "ok")
        np.testing.assert_array_equal(reader.times, ours.times)
        for index in (29, 17, 9, 10, 0, 28):
            assert numbers(reader.frames_at([index]).frames_TCHW) == [index]
        assert numbers(reader.frames_at(range(30)).frames_TCHW) == list(range(30))
        clip = reader.frames_at(shuffled)
        assert numbers(clip.frames_TCHW) == shuffled
        assert clip.times_T == ours.frames_at(shuffled).times_T
        assert numbers(reader.frames_at_times(ours.times[[3, 21]].tolist()).frames_TCHW) == [3, 21]


def test_frames_before_the_edit_list_are_not_frames(tmp_path: Path, other: str) -> None:
    path = write_video(tmp_path / "edit.mp4", ticks=[tick - 5 * 512 for tick in EVEN])
    with VideoReader(path, backend=other) as reader:
        assert (reader.info.frames, reader.times[0]) == (25, 0.0)
        assert numbers(reader.frames_at([24, 0, 6]).frames_TCHW) == [29, 5, 11]


def test_one_frame_is_a_video(tmp_path: Path, other: str) -> None:
    with VideoReader(write_video(tmp_path / "one.mp4", 1), backend=other) as reader:
        assert numbers(reader.frames_at([0, 0]).frames_TCHW) == [0, 0]


def test_a_framing_cuts_and_scales(tmp_path: Path, other: str) -> None:
    path = write_video(tmp_path / "video.mp4", 4)
    framing = Framing(box=(0, 16, 32, 48), size=(16, 24))
    with VideoReader(path, backend=other) as reader, VideoReader(path, backend="pyav") as ours:
        cut_TCHW = reader.frames_at([3, 1], framing).frames_TCHW
        assert cut_TCHW.shape == (2, 3, 16, 24)
        difference = cut_TCHW.float() - ours.frames_at([3, 1], framing).frames_TCHW.float()
        assert difference.abs().mean() < 5


def test_frames_of_another_size_are_scaled_to_that_of_the_first(tmp_path: Path) -> None:
    class Growing(IndexedBackend):
        library = "growing"

        def _open(self) -> None: ...
        def _release(self) -> None: ...
        def _images(self, indices: list[int]) -> Any:
            return (np.full((32 * (1 + index), 96, 3), index, np.uint8) for index in indices)

    reader = Growing(str(write_video(tmp_path / "video.mp4", 3)))
    (frames_UHWC,) = reader.decode([Shot([0, 2])])
    assert frames_UHWC.shape == (2, 32, 96, 3)
    assert frames_UHWC[1].min() == frames_UHWC[1].max() == 2
    reader.close()


@pytest.mark.parametrize(("name", "flags"), [("a.flv", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_frames_due_after_zero_are_right_or_left_to_another_backend(
    tmp_path: Path, other: str, name: str, flags: dict[str, str]
) -> None:
    path = write_video(tmp_path / name, 40, container_options=flags)
    try:
        with VideoReader(path, backend=other) as reader:
            assert numbers(reader.frames_at([0, 1, 20, 39]).frames_TCHW) == [0, 1, 20, 39]
    except VideoError as error:
        assert (other, error.status) == ("decord", "unsupported")


def test_mirrored_frames_are_left_to_pyav(tmp_path: Path, other: str) -> None:
    path = write_video(tmp_path / "mirrored.mp4", 4)
    data = bytearray(path.read_bytes())
    struct.pack_into(">i", data, data.index(b"tkhd") + 44, -65536)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="unsupported"), VideoReader(path, backend=other) as reader:
        reader.frames_at([0])


def test_a_cut_file_gives_right_frames_or_a_reason(tmp_path: Path, other: str) -> None:
    path = cut(write_video(tmp_path / "cut.mp4", 60, container_options={"movflags": "faststart"}), 0.7)
    try:
        with VideoReader(path, backend=other) as reader:
            assert (reader.status, reader.reason) == ("partial", f"{reader.info.frames} of 60 frames are in the file")
            assert numbers(reader.frames_at([0, 7, 12]).frames_TCHW) == [0, 7, 12]
    except VideoError as error:
        assert (other, error.status) == ("decord", "unsupported")
        assert "backend='auto'" in error.reason


HOLES = """
import sys
from hybridvideo.data.decode import VideoReader
from hybridvideo.errors import VideoError
from tests.videos import numbers

backend, *paths = sys.argv[1:]
for path in paths:
    for wanted in ([0, 1], [59], [30, 45], list(range(60))):
        with VideoReader(path, backend=backend) as reader:
            try:
                there = [index for index in wanted if index < reader.info.frames] or [0]
                shown = numbers(reader.frames_at(there).frames_TCHW)
                assert wanted != [0, 1] or shown == wanted, shown
            except VideoError as error:
                assert error.status in ("partial", "unsupported"), error
    with VideoReader(path, backend=backend) as reader:
        reader.check()
        assert reader.status == "partial", path
"""


def test_no_hole_in_a_file_makes_a_backend_hang(tmp_path: Path, other: str) -> None:
    """In a process of its own: a library that waits for ever must not take the suite with it."""
    faststart = {"movflags": "faststart"}
    made = [
        write_video(tmp_path / "h264.mp4", 60, gop=12, container_options=faststart),
        write_video(tmp_path / "mpeg4.avi", 60, codec="mpeg4", gop=12),
        write_video(tmp_path / "vp9.mp4", 60, codec="libvpx-vp9", gop=12, container_options=faststart),
    ]
    paths = [str(blank(path, 0.4, 0.5)) for path in made]
    command = [sys.executable, "-c", HOLES, other, *paths]
    done = subprocess.run(command, timeout=90, capture_output=True, text=True, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr[-2000:]


def test_check_is_the_same_for_every_backend(tmp_path: Path, other: str) -> None:
    path = blank(write_video(tmp_path / "hole.mp4", 60, container_options={"movflags": "faststart"}), 0.6, 0.7)
    with VideoReader(path, backend=other) as reader, VideoReader(path, backend="pyav") as ours:
        assert reader.check() == ours.check()
        assert (reader.status, reader.reason) == (ours.status, ours.reason)


def test_a_closed_reader_is_reported_as_such(tmp_path: Path, other: str) -> None:
    reader = VideoReader(write_video(tmp_path / "video.mp4", 3), backend=other)
    reader.close()
    reader.close()
    with pytest.raises(UserError, match="closed"):
        reader.frames_at([0])


def test_decord_works_with_a_bridge_another_library_has_set(tmp_path: Path) -> None:
    bridge = pytest.importorskip("decord").bridge
    path = write_video(tmp_path / "video.mp4", 5, size=(48, 32))
    bridge.set_bridge("torch")
    try:
        with VideoReader(path, backend="decord") as reader:
            assert numbers(reader.frames_at([4, 2]).frames_TCHW) == [4, 2]
    finally:
        bridge.set_bridge("native")


def test_torchcodec_without_ffmpeg_advises_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("hybridvideo.data.decode.torchcodec")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed")

    monkeypatch.setattr(module, "VideoDecoder", fail)
    with pytest.raises(EnvironmentFault, match="install FFmpeg"):
        VideoReader(write_video(tmp_path / "video.mp4", 3), backend="torchcodec")


def test_a_frame_of_another_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("torchcodec")
    module = importlib.import_module("hybridvideo.data.decode.torchcodec")
    monkeypatch.setattr(module.TorchcodecBackend, "_moment", lambda self, index: 0.04 * index + 0.011)
    reader = VideoReader(write_video(tmp_path / "video.mp4", 5), backend="torchcodec")
    with reader, pytest.raises(VideoError, match=r"unsupported: torchcodec returns the frame of 0\.0800 s"):
        reader.frames_at([2])


# -------------------------------------------------------------------- colour

# What a stream may say of its colours: FFmpeg's number, and the share of red and blue in brightness.
MATRICES = {"bt709": (1, 0.2126, 0.0722), "bt601": (5, 0.299, 0.114), "bt2020": (9, 0.2627, 0.0593)}


def plain_colour(path: Path, matrix: int, full: bool, bits: int, levels: tuple[int, int, int]) -> Path:
    """Two frames of one colour, given as 8-bit Y, Cb and Cr, stored with more bits where asked."""
    kind = "yuv420p" if bits == 8 else f"yuv420p{bits}le"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 32, kind
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, 2 if full else 1
        for number in range(2):
            frame = av.VideoFrame(64, 32, kind)
            for plane, level in zip(frame.planes, levels, strict=True):
                value = np.array([level << (bits - 8)], np.uint8 if bits == 8 else np.uint16)
                plane.update(np.tile(value, plane.buffer_size // value.itemsize).tobytes())
            frame.colorspace, frame.color_range, frame.pts = matrix, 2 if full else 1, number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_what_the_stream_says(tmp_path: Path, matrix: str, full: bool, bits: int) -> None:
    number, red, blue = MATRICES[matrix]
    luma, cb, cr = 120, 100, 160
    path = plain_colour(tmp_path / "plain.mp4", number, full, bits, (luma, cb, cr))
    y, u, v = (
        (luma, cb - 128, cr - 128)
        if full
        else ((luma - 16) * 255 / 219, (cb - 128) * 255 / 224, (cr - 128) * 255 / 224)
    )
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    expected = np.array([r, (y - red * r - blue * b) / (1 - red - blue), b])
    for name in working():
        with VideoReader(path, backend=name) as reader:
            found = reader.frames_at([1]).frames_TCHW[0].permute(1, 2, 0).numpy()
        assert np.abs(found - expected).max() <= 3, name  # swscale rounds; another matrix is 8 off


# -------------------------------------------------------------------- auto


def test_auto_is_pyav_and_never_the_library_for_trusted_files_only(tmp_path: Path) -> None:
    assert AUTO[0] == "pyav" and "decord" not in AUTO
    with VideoReader(write_video(tmp_path / "video.mp4", 3)) as reader:
        assert reader.backend == "pyav"


def test_auto_switches_if_pyav_cannot_and_reports_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("torchcodec")
    path = write_video(tmp_path / "video.mp4", 5)

    def cannot(self: pyav.PyAVBackend, shots: Any) -> Any:
        raise VideoError("unsupported", "zebra pixels cannot be converted")

    monkeypatch.setattr(pyav.PyAVBackend, "decode", cannot)
    with VideoReader(path) as reader:
        assert reader.backend == "pyav"
        assert numbers(reader.frames_at([4, 1]).frames_TCHW) == [4, 1]
        assert (reader.backend, reader.info.frames) == ("torchcodec", 5)
    with pytest.raises(VideoError, match="zebra"), VideoReader(path, backend="pyav") as reader:
        reader.frames_at([0])


def test_where_no_backend_can_the_first_error_is_raised(tmp_path: Path) -> None:
    path = write_video(tmp_path / "video.mp4", 3)

    def load(name: str) -> Any:
        def opened(path: str, known: Any) -> Any:
            if name == "absent":
                raise EnvironmentFault("not here")
            raise VideoError("unsupported" if name != "damage" else "unreadable", f"{name} cannot")

        return opened

    with pytest.raises(VideoError, match="first cannot"):
        fallback.Fallback(str(path), None, ("first", "absent", "last"), load)
    with pytest.raises(VideoError, match="damage cannot"):
        fallback.Fallback(str(path), None, ("damage", "last"), load)


# -------------------------------------------------------------------- real clips


def clips(shared: Path) -> list[Path]:
    return [path for path in sorted((shared / "data" / "clips").rglob("*")) if path.is_file()]


def sampled(path: Path, backend: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Info, times and five frames (T, H, W, C), asked for backwards."""
    with VideoReader(path, backend=backend) as reader:
        last = reader.info.frames - 1
        indices = sorted({0, last, *np.random.default_rng(0).integers(0, last + 1, 3).tolist()}, reverse=True)
        frames_TCHW = reader.frames_at(indices).frames_TCHW
        return reader.info, reader.times, frames_TCHW.permute(0, 2, 3, 1).numpy()


@pytest.mark.shared
def test_real_clips_come_out_the_same_by_every_backend(shared: Path, other: str) -> None:
    folder, compared = shared / "data" / "clips", 0
    for path in clips(shared):
        name = path.relative_to(folder).as_posix()
        try:
            info, times, ours_THWC = sampled(path, "pyav")
        except VideoError as error:
            assert error.status in ("partial", "no_video"), name
            continue
        if (other, name) in EXCEPTIONS:
            with pytest.raises(VideoError, match="unsupported"):
                sampled(path, other)
            continue
        their_info, their_times, theirs_THWC = sampled(path, other)
        assert their_info == info, name
        np.testing.assert_array_equal(their_times, times)
        difference = np.abs(theirs_THWC.astype(np.int16) - ours_THWC).mean(axis=(1, 2, 3)).max()
        luma = np.abs(theirs_THWC @ LUMA - ours_THWC @ LUMA).mean(axis=(1, 2)).max()
        quartered, even = "420p" in info.pixel_format, info.width % 2 == info.height % 2 == 0
        plain = not quartered or (even and info.pixel_format.endswith("420p"))
        identical = plain and info.codec != "mpeg4" and not name.endswith(".ts")
        assert difference <= (0 if identical else MEAN_BOUND), name
        assert luma <= LUMA_BOUND, name
        compared += 1
    assert compared > 85
