"""Which moments of a video make a clip: pure arithmetic on seconds; nothing is decoded here.

A clip of 4 frames, `step` seconds apart, spans 4 steps: each frame stands for the step that follows it.

    video   |0--1--2--3--4--5--6--7--8--9--10-11|      frames, and the `duration` to the end of the last one
    clip       ^start  ^       ^       ^      |        times start, start + step, ...
               |<----------- span ----------->|        span = frames * step

Starts run from 0 to `duration - span`; a video shorter than the span starts at 0 and is padded behind its
end. Training takes one start (STARTS), testing K of them:

    K = 1            |      [=======]      |           centre
    K = 3            [=======]     [=======]           evenly spaced, both ends of the video included
                          [=======]

All times are seconds from the video's first frame.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridvideo.config.data import ClipConfig

Times = NDArray[np.float64]
Indices = NDArray[np.int64]

ROUNDING = 1e-3  # seconds: containers round frame times to as little as a millisecond


def hash_seed(*parts: int) -> int:
    """A 63-bit seed from integers such as (seed, epoch, index); neighbouring inputs give unrelated seeds."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def frame_duration(*, frame_times: Times, fps: float) -> float:
    """Seconds that a frame is shown: the median step between frames, or 1 / fps of a video of one frame."""
    if len(frame_times) > 1:
        return float(np.median(np.diff(frame_times)))
    return 1.0 / fps if fps > 0 else 1.0


def video_duration(*, frame_times: Times, fps: float) -> float:
    """Seconds from the first frame to the end of the last one."""
    return float(frame_times[-1]) + frame_duration(frame_times=frame_times, fps=fps)


def clip_step(*, clip: ClipConfig, fps: float) -> float:
    """Seconds between the frames of a clip: its interval, or stride / fps (stride 1 where neither is set)."""
    if clip.interval is not None:
        return clip.interval
    return (clip.stride or 1) / (fps if fps > 0 else 1.0)


def clip_span(*, frames: int, step: float) -> float:
    """Seconds of video that a clip stands for."""
    return frames * step


def random_start(*, duration: float, span: float, draw: float) -> float:
    """Start of a clip anywhere in the video; `draw` is uniform in [0, 1)."""
    return draw * max(duration - span, 0.0)


def centre_start(*, duration: float, span: float, draw: float = 0.0) -> float:
    """Start of the clip in the middle of the video."""
    return max(duration - span, 0.0) / 2


def first_start(*, duration: float, span: float, draw: float = 0.0) -> float:
    """Start of the clip at the beginning of the video."""
    return 0.0


STARTS: dict[str, Callable[..., float]] = {
    "random": random_start,
    "centre": centre_start,
    "first": first_start,
}


def uniform_starts(*, clips: int, duration: float, span: float) -> tuple[float, ...]:
    """Starts of `clips` test clips: one in the centre, or evenly from 0 to duration - span, both included."""
    if clips == 1:
        return (centre_start(duration=duration, span=span),)
    last = max(duration - span, 0.0)
    return tuple(last * k / (clips - 1) for k in range(clips))


def clip_times(*, start: float, frames: int, step: float) -> Times:
    """(frames,) seconds: start, start + step, ..."""
    return start + step * np.arange(frames, dtype=np.float64)


def indices_at_times(
    *, frame_times: Times, times: Times | Sequence[float], fps: float, pad: Literal["last", "loop"] = "last"
) -> Indices:
    """Index of the frame shown at each time: the last one whose time is not later.

    frame_times: (N,) ascending, first 0. A frame up to 1 ms later (less where frames are closer) counts as
    shown, since containers round. Times behind the video's end show the last frame (`last`) or the video
    again (`loop`).
    """
    step = frame_duration(frame_times=frame_times, fps=fps)
    shifted = np.asarray(times, dtype=np.float64) + min(ROUNDING, step / 4)
    if pad == "loop":
        shifted = np.mod(shifted, video_duration(frame_times=frame_times, fps=fps))
    indices = np.searchsorted(frame_times, shifted, side="right") - 1
    return np.maximum(indices, 0).astype(np.int64)
