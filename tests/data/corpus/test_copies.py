"""Copies hold what the originals do: every frame, its time, upright, in its colours; and they decode to their end."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from hybridvideo.data.corpus.copies import (
    Copy,
    Made,
    Pairs,
    Recipe,
    copy_size,
    loading_seconds,
    target_names,
    transcode,
)
from hybridvideo.data.decode import VideoReader
from hybridvideo.errors import EnvironmentFault, UserError
from tests.videos import blank, cut, numbers, write_audio, write_video

EVEN = (192, 64)
PLAIN = Recipe()


def copied(source: Path, recipe: Recipe = PLAIN, name: str = "copy.mp4") -> tuple[Made, Path]:
    """A copy beside its original, which stays as it is."""
    before = hashlib.sha256(source.read_bytes()).hexdigest()
    target = source.parent / "copies" / name
    made = transcode(Copy(str(source), str(target), recipe))
    assert hashlib.sha256(source.read_bytes()).hexdigest() == before
    left = list(target.parent.iterdir()) if target.parent.exists() else []
    assert left == ([target] if made.status in ("ok", "partial") else [])
    return made, target


def read(path: Path) -> tuple[torch.Tensor, list[float]]:
    """All frames and their times."""
    with VideoReader(path) as reader:
        clip = reader.frames_at(range(reader.info.frames))
        return clip.frames_TCHW, list(clip.times_T)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"gop": 250, "b_frames": 3}),
        ("a.mkv", {"codec": "libx265", "pixel_format": "yuv420p10le"}),
        ("a.webm", {"codec": "libvpx-vp9"}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.ts", {}),
        ("b.mp4", {"ticks": [0, 512, 600, 2000, 2001, 9000, 12800, 20000], "frames": 8}),
        ("c.mp4", {"frames": 1}),
        ("d.mp4", {"rotation": 90}),
        ("e.mp4", {"rotation": 180}),
    ],
)
def test_every_frame_keeps_its_number_and_its_time(tmp_path: Path, name: str, options: dict[str, object]) -> None:
    source = write_video(tmp_path / name, **{"size": EVEN, **options})  # type: ignore[arg-type]
    made, target = copied(source)
    (before, times), (after, copied_times) = read(source), read(target)
    assert made.status == "ok" and made.frames == len(times) == len(copied_times)
    assert numbers(after) == numbers(before) == list(range(len(times)))
    assert np.allclose(times, copied_times, atol=1e-6, rtol=0)
    assert (made.width, made.height) == EVEN and after.shape == before.shape


def test_a_copy_is_plain_h264_with_regular_key_frames_and_its_index_first(tmp_path: Path) -> None:
    _, target = copied(write_video(tmp_path / "a.mp4", 40, gop=250), Recipe(gop=8))
    with VideoReader(target) as reader:
        info = reader.info
        assert (info.codec, info.pixel_format, info.rotation) == ("h264", "yuv420p", 0)
        assert info.keyframes == (0, 8, 16, 24, 32)
    data = target.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(target)) as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_range) == (5, 1)  # BT.601, limited


def test_sizes_are_even_scaled_by_the_short_side_and_never_enlarged(tmp_path: Path) -> None:
    assert copy_size((720, 1280), 256) == (256, 456) and copy_size((1280, 720), 256) == (456, 256)
    assert copy_size((257, 341), 256) == (256, 340) and copy_size((75, 101), 256) == (74, 100)
    made, target = copied(write_video(tmp_path / "a.mp4", 5, size=(384, 128)), Recipe(short_side=64))
    frames, _ = read(target)
    assert tuple(frames.shape[2:]) == (64, 192) == (made.height, made.width) and numbers(frames) == list(range(5))


def test_an_odd_row_and_column_are_cut_not_scaled(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mkv", 3, size=(193, 65), pixel_format="yuv444p", codec="libx264")
    _, target = copied(source, Recipe(crf=4))
    (before, _), (after, _) = read(source), read(target)
    difference = (before[:, :, :64, :192].float() - after.float()).abs()
    assert tuple(after.shape[2:]) == (64, 192) and difference.mean() < 2


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuvj420p", "yuv444p", "yuv420p10le"])
def test_colours_stay_what_they_are(tmp_path: Path, pixel_format: str) -> None:
    source = tmp_path / "a.mkv"
    colours = np.array([[200, 30, 40], [20, 180, 60], [30, 50, 220], [250, 250, 250]], dtype=np.uint8)
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 128, 64, pixel_format
        image = np.repeat(np.repeat(colours[None], 32, axis=1), 64, axis=0)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    _, target = copied(source)
    (before, _), (after, _) = read(source), read(target)
    for column in range(4):
        patch = slice(column * 32 + 8, column * 32 + 24)
        there, here = (frames[..., patch].float().mean((0, 2, 3)) for frames in (before, after))
        assert (there - here).abs().max() < 4


def test_sound_is_dropped_or_kept_by_choice(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 25, audio=True)
    for container in ("a.mp4", "b.mkv", "c.ts"):  # copied, copied, encoded
        source = write_video(tmp_path / container, 25, audio=True)
        assert sound(copied(source)[1]) == 0
        made, target = copied(source, Recipe(audio="keep"))
        assert made.status == "ok" and abs(sound(target) - sound(source)) < 0.08
    made, target = copied(write_video(tmp_path / "mute.mp4", 5), Recipe(audio="keep"))
    assert made.status == "ok" and sound(target) == 0


def sound(path: Path) -> float:
    """Seconds of sound."""
    with av.open(str(path)) as container:
        streams = container.streams.audio
        return sum(frame.samples / frame.rate for frame in container.decode(streams[0])) if streams else 0.0


def test_of_a_damaged_video_the_readable_part_is_kept(tmp_path: Path) -> None:
    start_first = {"movflags": "+faststart"}
    short = cut(write_video(tmp_path / "a.mp4", 60, container_options=start_first), 0.5)
    hole = blank(write_video(tmp_path / "b.mp4", 60), 0.4, 0.6)
    for source in (short, hole):
        made, target = copied(source)
        with VideoReader(source) as reader:
            reader.check()
            readable, times = reader.info.frames, reader.times
        assert made.status == "partial" and made.reason and 0 < made.frames == readable < 60
        assert np.allclose(times, read(target)[1], atol=1e-6, rtol=0)


def test_what_cannot_be_read_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    assert copied(tmp_path / "text.mp4")[0].status == "unreadable"
    assert copied(write_audio(tmp_path / "sound.mp4"))[0].status == "no_video"
    gone = transcode(Copy(str(tmp_path / "gone.mp4"), str(tmp_path / "copies/gone.mp4"), Recipe()))
    assert gone.status == "missing" and gone.bytes_after == 0


def test_a_disk_that_refuses_is_not_a_fault_of_the_video(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EnvironmentFault, match="cannot be written"):
        transcode(Copy(str(source), str(tmp_path / "file" / "a.mp4"), Recipe()))


@pytest.mark.parametrize("wrong", [{"short_side": 0}, {"gop": 0}, {"crf": 60}])
def test_an_impossible_recipe_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="not possible"):
        Recipe(**wrong)  # type: ignore[arg-type]


def test_loading_is_timed_for_the_same_clips_of_both(tmp_path: Path) -> None:
    source = write_video(tmp_path / "a.mp4", 5)
    before, after = loading_seconds(Pairs(((str(source), str(copied(source)[1])),), clips=3))
    assert len(before) == len(after) == 3 and min(before + after) > 0


# ---- names


def test_copies_are_where_the_originals_are() -> None:
    assert target_names(["run/a.mkv", "b.mp4", "run/a.mkv"]) == ["run/a.mp4", "b.mp4", "run/a.mp4"]


def test_names_that_would_meet_are_distinguished_whatever_the_order() -> None:
    names = ["a.mp4", "a.mkv", "A.avi", "b.mp4"]
    assert target_names(names) == ["a.mp4.mp4", "a.mkv.mp4", "A.avi.mp4", "b.mp4"]
    assert target_names(names[::-1]) == ["b.mp4", "A.avi.mp4", "a.mkv.mp4", "a.mp4.mp4"]
    crowded = target_names(["a.mkv.mp4", "a.mkv", "a.avi", "a/./b.mp4", "a//b.mp4"])
    assert len({name.casefold() for name in crowded}) == 5
    assert target_names(["a.mp4/b.mkv", "a.avi"]) == ["a.mp4/b.mp4", "a-2.mp4"]


def test_no_name_leads_out() -> None:
    assert target_names(["../x/a.mp4", "/etc/b.mp4", "c/../../d.mp4"]) == ["__/x/a.mp4", "etc/b.mp4", "c/__/__/d.mp4"]


@pytest.mark.shared
@pytest.mark.parametrize(
    "name",
    [
        "odd/h264_opengop_b3.mp4", "odd/h264_interlaced.ts", "odd/start_negative_edit.mp4", "odd/start_offset_5s.mkv",
        "torchcodec/nasa_13013_rotated.mp4", "torchcodec/testsrc2_odd_height_and_width_444_10bit.mp4",
        "decord/tests__test_data__unordered.mov", "odd/tiny_16x16.mp4",
    ],
)  # fmt: skip
def test_real_files_keep_frames_times_and_pictures(shared: Path, tmp_path: Path, name: str) -> None:
    source = shared / "data" / "clips" / name
    made = transcode(Copy(str(source), str(tmp_path / "a.mp4"), Recipe(short_side=128, crf=10)))
    with VideoReader(source) as before, VideoReader(tmp_path / "a.mp4") as after:
        assert made.status == "ok" and np.allclose(before.times, after.times, atol=1e-6, rtol=0)
        middle = [before.info.frames // 2]
        there = before.frames_at(middle).frames_TCHW.float()
        here = after.frames_at(middle).frames_TCHW.float()
        small = torch.nn.functional.interpolate(there, here.shape[2:], mode="bilinear", antialias=True)
        assert (small - here).abs().mean() < 6
