"""Asking by index, time and range; what a wrong question gets; nothing stays open."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hybridvideo.data.decode import BACKENDS, Clip, Framing, VideoReader, guard
from hybridvideo.data.decode.pyav import PyAVBackend
from hybridvideo.errors import EnvironmentFault, UserError, VideoError
from tests.videos import cut, numbers, write_audio, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 frames, 25 a second."""
    return write_video(tmp_path_factory.mktemp("reader") / "video.mp4")


def test_duplicates_and_order_of_the_request_are_honoured(video: Path) -> None:
    with VideoReader(video) as reader:
        clip = reader.frames_at(np.array([7, 7, 3, 29, 3]))
    assert numbers(clip.frames_TCHW) == [7, 7, 3, 29, 3]
    assert clip.times_T == pytest.approx((0.28, 0.28, 0.12, 1.16, 0.12))
    assert clip.frames_TCHW.dtype == torch.uint8
    assert clip.frames_TCHW.shape == (5, 3, 32, 96)


def test_frames_between_takes_the_start_and_leaves_the_end(video: Path) -> None:
    with VideoReader(video) as reader:
        assert numbers(reader.frames_between(0.2, 0.4).frames_TCHW) == [5, 6, 7, 8, 9]
        assert numbers(reader.frames_between(1.1, 9).frames_TCHW) == [28, 29]


@pytest.mark.parametrize(
    ("start", "end", "fps", "expected"),
    [
        (0.0, 1.0, 5, [0, 5, 10, 15, 20]),
        (0.2, 0.4, 50, [5, 5, 6, 6, 7, 7, 8, 8, 9, 9]),
        (0.0, 9.0, 10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22, 25, 27]),
        (-0.2, 0.1, 10, [0, 0, 0]),
    ],
)
def test_frames_between_with_a_rate_gives_the_frame_shown_at_each_tick(
    video: Path, start: float, end: float, fps: float, expected: list[int]
) -> None:
    with VideoReader(video) as reader:
        assert numbers(reader.frames_between(start, end, fps=fps).frames_TCHW) == expected


def test_rounded_times_do_not_shift_ticks(tmp_path: Path) -> None:
    path = write_video(tmp_path / "thirty.mkv", 30, fps=30)  # Matroska says 0.033, 0.067, 0.1 s
    with VideoReader(path) as reader:
        assert numbers(reader.frames_between(0, 1, fps=30).frames_TCHW) == list(range(30))


def test_frames_at_times_gives_the_frame_on_screen(video: Path) -> None:
    with VideoReader(video) as reader:
        assert numbers(reader.frames_at_times([0.0, 0.039, 0.04, 5.0, -1.0]).frames_TCHW) == [0, 0, 1, 29, 0]


def test_a_range_without_frames_is_short(video: Path) -> None:
    with VideoReader(video) as reader, pytest.raises(VideoError, match=r"short: no frame from 2 to 3 s") as caught:
        reader.frames_between(2, 3)
    assert caught.value.status == "short"


@pytest.mark.parametrize("indices", [[30], [0, -1], []])
def test_indices_outside_the_video_are_the_callers_mistake(video: Path, indices: list[int]) -> None:
    with VideoReader(video) as reader, pytest.raises(UserError):
        reader.frames_at(indices)


def test_impossible_ranges_are_the_callers_mistake(video: Path) -> None:
    with VideoReader(video) as reader:
        for start, end, fps in [(1, 1, None), (2, 1, None), (0, float("nan"), None), (0, 1, 0), (0, 1, -3)]:
            with pytest.raises(UserError):
                reader.frames_between(start, end, fps=fps)
        with pytest.raises(UserError, match="finite"):
            reader.frames_at_times([float("inf")])


def test_a_wrong_backend_is_answered_with_the_right_names(video: Path) -> None:
    with pytest.raises(UserError, match=r"'pyva'.*did you mean 'pyav'.*allowed: auto, pyav"):
        VideoReader(video, backend="pyva")


def test_a_backend_that_is_not_installed_is_the_installations_fault(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, "absent", ("hybridvideo.data.decode.absent", "Reader"))
    with pytest.raises(EnvironmentFault, match="absent"):
        VideoReader(video, backend="absent")


def test_a_request_beyond_memory_is_refused(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "MAX_REQUEST_BYTES", 96 * 32 * 3 * 10)
    with VideoReader(video) as reader:
        assert len(reader.frames_at(range(10))) == 10
        with pytest.raises(VideoError, match="refused: 11 frames of 96x32"):
            reader.frames_at([0] * 11)


def test_a_video_that_claims_to_last_for_weeks_takes_no_memory(tmp_path: Path) -> None:
    weeks = write_video(tmp_path / "weeks.mkv", 3, ticks=(0, 512, 12800 * 86400 * 30))
    with VideoReader(weeks) as reader:
        assert reader.info.duration > 86400 * 29 and not reader.info.regular
        assert len(reader.frames_at([0, 2])) == 2
        with pytest.raises(VideoError, match=r"refused: .* frames from 0 to"):
            reader.frames_between(0, 1e9, fps=1000)


def test_a_shape_that_no_framing_fits_is_the_files_fault(video: Path) -> None:
    with VideoReader(video) as reader, pytest.raises(VideoError, match="refused"):
        reader.frames_at([0], lambda size: Framing(size=(16, 32768)))


def test_a_closed_reader_is_reported_as_such(video: Path) -> None:
    reader = VideoReader(video)
    reader.close()
    reader.close()
    with pytest.raises(UserError, match="closed"):
        reader.frames_at([0])


def test_nothing_stays_open(video: Path, tmp_path: Path) -> None:
    broken = cut(write_video(tmp_path / "a.mp4", container_options={"movflags": "faststart"}), 0.7)
    bad = [tmp_path / "text.mp4", write_audio(tmp_path / "audio.mp4"), broken]
    bad[0].write_text("no video")
    gc.collect()  # what earlier tests left to it
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with VideoReader(video) as reader:
            reader.frames_at([20, 0, 29])
        for path in bad:
            with pytest.raises(VideoError), VideoReader(path) as reader:
                reader.frames_at(range(reader.info.frames))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_clip_checks_what_it_is_made_of() -> None:
    frames = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert len(Clip(frames, (0.0, 0.1))) == 2
    for wrong in (frames.float(), frames[:, :1], frames[0], frames[:1]):
        with pytest.raises(ValueError, match=r"clip|times"):
            Clip(wrong, (0.0, 0.1))
    with pytest.raises(ValueError, match="finite"):
        Clip(frames, (0.0, float("nan")))


def test_what_nobody_foresaw_is_a_fault_of_the_file_and_out_of_memory_is_not(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Any:
        def decode(self: object, shots: object) -> None:
            raise error

        return decode

    with VideoReader(video) as reader:
        monkeypatch.setattr(PyAVBackend, "decode", failing(LookupError("no\nsuch stream")))
        with pytest.raises(VideoError, match="unreadable: the decoder failed: LookupError: no such stream"):
            reader.frames_at([0])
        monkeypatch.setattr(PyAVBackend, "decode", failing(MemoryError()))
        with pytest.raises(MemoryError):
            reader.frames_at([0])
