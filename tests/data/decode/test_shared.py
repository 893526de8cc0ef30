"""Real clips of many codecs, containers and habits against a plain decode from first frame to last."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from hybridvideo.data.decode import VideoReader
from hybridvideo.errors import VideoError

pytestmark = pytest.mark.shared

GOOD = [
    "decord/examples__flipping_a_pancake.mkv",
    "decord/tests__test_data__unordered.mov",
    "decord/tests__test_data__video_90.mov",
    "hiera/dog.mp4",
    "mmaction2_tests/rawvideo_dataset__part_0.mp4",
    "mmaction2_tests/test.avi",
    "odd/--looks-like-flag.mp4",
    "odd/av1_svt.mp4",
    "odd/gray.mkv",
    "odd/h264_interlaced.ts",
    "odd/h264_opengop_b3.mp4",
    "odd/hevc_opengop.mp4",
    "odd/mpeg2.mpg",
    "odd/mpeg4_asp_b2.avi",
    "odd/rgb_lossless.mkv",
    "odd/start_offset_5s.mkv",
    "odd/vp8.webm",
    "torchcodec/discard_first_keyframe.mp4",
    "torchcodec/test_non_zero_start.mp4",
    "torchcodec/testsrc2_444_10bit_hevc.mp4",
    "torchcodec/testsrc2_odd_width_vp9_10bit.mp4",
]


def plain_decode(path: Path, wanted: set[int]) -> tuple[int, dict[int, np.ndarray]]:
    """The number of frames, and the upright RGB pictures (H, W, 3) of those wanted, decoded one after another."""
    kept: dict[int, np.ndarray] = {}
    count = 0
    with av.open(str(path), metadata_errors="replace") as container:
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            if count in wanted:
                turns = {0: 0, 90: 1, -90: 3, 180: 2, -180: 2}[frame.rotation]
                kept[count] = np.rot90(frame.to_ndarray(format="rgb24", threads=1), turns)
            count += 1
    return count, kept


@pytest.mark.parametrize("name", GOOD)
def test_real_clips_come_out_as_a_plain_decode_gives_them(shared: Path, name: str) -> None:
    path = shared / "data" / "clips" / name
    with VideoReader(path) as reader:
        frames = reader.info.frames
        indices = np.random.default_rng(0).integers(0, frames, 6).tolist()
        indices += [frames - 1]
        clip = reader.frames_at(indices)
        assert reader.status == "ok"
    count, pictures = plain_decode(path, set(indices))
    assert count == frames
    for index, image_CHW in zip(indices, clip.frames_TCHW.numpy(), strict=True):
        np.testing.assert_array_equal(image_CHW.transpose(1, 2, 0), pictures[index])


def test_a_corrupt_clip_shrinks_to_the_frames_that_decode(shared: Path) -> None:
    with VideoReader(shared / "data" / "clips" / "decord" / "tests__test_data__corrupted.mp4") as reader:
        assert (reader.info.frames, reader.info.header_frames) == (50, 50)
        with pytest.raises(VideoError, match="partial: 49 of 50 frames decode"):
            reader.frames_at(range(50))
        assert len(reader.frames_at(range(reader.info.frames))) == 49


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_turned_clips_show_the_same_upright_scene_as_decord(shared: Path, degrees: int) -> None:
    decord = pytest.importorskip("decord")
    path = shared / "data" / "clips" / "decord" / f"tests__test_data__video_{degrees}.mov"
    batch = decord.VideoReader(str(path)).get_batch([0, 1, 2])
    with VideoReader(path) as reader:
        ours_THWC = reader.frames_at([0, 1, 2]).frames_TCHW.permute(0, 2, 3, 1).numpy()
    theirs = batch.asnumpy() if hasattr(batch, "asnumpy") else batch.numpy()
    assert ours_THWC.shape == theirs.shape
    assert np.abs(ours_THWC.astype(int) - theirs).mean() < 2


def test_no_good_clip_is_called_partial(shared: Path) -> None:
    found = {}
    for path in sorted((shared / "data").rglob("*")):
        if path.suffix in {".mp4", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mpg"} and path.stat().st_size < 300_000:
            try:
                with VideoReader(path) as reader:
                    found[path.name] = reader.status
            except VideoError as error:
                found[path.name] = error.status
    assert {name: status for name, status in found.items() if status != "ok"} == {"audio_only.mp4": "no_video"}
