"""Clips lie where they should, in seconds and in frames."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from hybridvideo.config.data import ClipConfig
from hybridvideo.data import sampling


def frame_times(frames: int, fps: float = 10.0, digits: int | None = None) -> sampling.Times:
    times = np.arange(frames) / fps
    return times if digits is None else np.round(times, digits)


def indices(times: sampling.Times, start: float, clip: ClipConfig, fps: float = 10.0) -> list[int]:
    step = sampling.clip_step(clip=clip, fps=fps)
    wanted = sampling.clip_times(start=start, frames=clip.frames, step=step)
    return sampling.indices_at_times(frame_times=times, times=wanted, fps=fps, pad=clip.pad).tolist()


def test_stride_is_frames_and_interval_is_seconds() -> None:
    times = frame_times(50)
    assert indices(times, 0.0, ClipConfig(frames=4)) == [0, 1, 2, 3]
    assert indices(times, 0.3, ClipConfig(frames=4, stride=5)) == [3, 8, 13, 18]
    assert indices(times, 0.0, ClipConfig(frames=4, interval=0.25)) == [0, 2, 5, 7]


def test_the_frame_shown_is_the_last_one_not_later() -> None:
    times = np.array([0.0, 0.1, 0.5, 0.6])
    shown = sampling.indices_at_times(frame_times=times, times=[0.0, 0.09, 0.1, 0.49, 0.5, 0.65], fps=6.0)
    assert shown.tolist() == [0, 0, 1, 1, 2, 3]


@pytest.mark.parametrize("fps", [23.976, 29.97, 30.0, 59.94, 240.0])
def test_a_stride_stays_exact_where_the_container_rounds_to_milliseconds(fps: float) -> None:
    times = frame_times(300, fps, digits=3)
    measured = (len(times) - 1) / times[-1]
    assert indices(times, 0.0, ClipConfig(frames=64, stride=4), measured) == list(range(0, 256, 4))


def test_short_video_repeats_its_last_frame_or_starts_again() -> None:
    times = frame_times(3)
    assert indices(times, 0.0, ClipConfig(frames=8, pad="last")) == [0, 1, 2, 2, 2, 2, 2, 2]
    assert indices(times, 0.0, ClipConfig(frames=8, pad="loop")) == [0, 1, 2, 0, 1, 2, 0, 1]


@pytest.mark.parametrize("pad", ["last", "loop"])
def test_a_video_of_one_frame_fills_a_clip(pad: str) -> None:
    times = frame_times(1)
    assert indices(times, 0.0, ClipConfig(frames=4, stride=3, pad=pad), fps=10.0) == [0] * 4  # type: ignore[arg-type]
    assert indices(times, 0.0, ClipConfig(frames=4, pad=pad), fps=0.0) == [0] * 4  # type: ignore[arg-type]
    assert sampling.video_duration(frame_times=times, fps=10.0) == pytest.approx(0.1)


def test_duration_ends_with_the_last_frame() -> None:
    assert sampling.video_duration(frame_times=frame_times(50), fps=10.0) == pytest.approx(5.0)


def test_uniform_starts_are_the_centre_or_include_both_ends() -> None:
    assert sampling.uniform_starts(clips=1, duration=5.0, span=1.0) == (2.0,)
    assert sampling.uniform_starts(clips=3, duration=5.0, span=1.0) == (0.0, 2.0, 4.0)
    assert sampling.uniform_starts(clips=3, duration=1.0, span=5.0) == (0.0, 0.0, 0.0)


def test_the_last_uniform_clip_ends_on_the_last_frame() -> None:
    clip = ClipConfig(frames=8)
    last = sampling.uniform_starts(clips=4, duration=5.0, span=0.8)[-1]
    assert indices(frame_times(50), last, clip) == list(range(42, 50))


def test_random_starts_cover_the_video_and_stay_inside() -> None:
    starts = [sampling.random_start(duration=5.0, span=1.0, draw=k / 100) for k in range(100)]
    assert starts[0] == 0.0 and 3.9 < max(starts) < 4.0
    assert sampling.random_start(duration=1.0, span=5.0, draw=0.9) == 0.0
    assert sampling.STARTS["centre"](duration=5.0, span=1.0, draw=0.9) == 2.0
    assert sampling.STARTS["first"](duration=5.0, span=1.0, draw=0.9) == 0.0


def test_neighbouring_seeds_are_unrelated() -> None:
    seeds = {sampling.hash_seed(seed, epoch, index) for seed in range(8) for epoch in range(8) for index in range(8)}
    assert len({seed & 0xFFFFFFFF for seed in seeds}) == 512
    assert sampling.hash_seed(1, 23) != sampling.hash_seed(12, 3)


# ---- placements


def test_strided_clips_start_at_a_fixed_distance_and_fit_completely() -> None:
    assert sampling.strided_starts(10.0, 2.0, every=3.0) == (0.0, 3.0, 6.0)
    assert sampling.strided_starts(11.0, 2.0, every=3.0) == (0.0, 3.0, 6.0, 9.0)
    assert sampling.strided_starts(1.0, 2.0, every=3.0) == (0.0,)


def test_rounded_times_cost_no_strided_clip() -> None:
    assert len(sampling.strided_starts(10.9999, 2.0, every=3.0)) == 4


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("duration", [0.1, 2.0, 2.1, 9.7, 3600.0])
def test_sliding_windows_cover_all_of_the_video_and_the_last_ends_with_it(duration: float, overlap: float) -> None:
    starts = sampling.sliding_starts(duration, 2.0, overlap=overlap)
    assert starts[0] == 0.0 and starts[-1] == pytest.approx(max(duration - 2.0, 0.0))
    steps = np.diff(starts)
    assert (steps > 0).all() and (steps <= 2.0 * (1 - overlap) + 1e-9).all()


def test_windows_that_fill_the_video_exactly_are_not_one_more() -> None:
    assert sampling.sliding_starts(0.3 * 7, 0.3) == pytest.approx([0.3 * k for k in range(7)])


@pytest.mark.parametrize(
    "placement",
    [
        sampling.centre_starts,
        partial(sampling.uniform_starts, clips=4),
        partial(sampling.strided_starts, every=0.5),
        partial(sampling.sliding_starts, overlap=0.25),
    ],
)
def test_a_placement_reaches_a_worker_and_places_a_clip_in_any_video(placement: sampling.Placement) -> None:
    sent = pickle.loads(pickle.dumps(placement))
    for duration in (0.0, 0.04, 1.0, 1.6, 10.0):
        starts = sent(duration, 1.6)
        assert len(starts) >= 1 and list(starts) == sorted(starts) and starts == placement(duration, 1.6)
        assert all(0 <= start <= max(duration - 1.6, 0.0) + 1e-9 for start in starts)
