"""Which moments of a video make up a clip: pure arithmetic on seconds; nothing is decoded here.

A clip of 4 frames, `step` seconds apart, spans 4 steps: each frame stands for the step that follows it.

    video   |0--1--2--3--4--5--6--7--8--9--10-11|      frames, and the `duration` to the end of the last one
    clip       ^start  ^       ^       ^      |        times start, start + step, ...
               |<----------- span ----------->|        span = frames * step

Starts run from 0 to `duration - span`; in a video shorter than the span a clip starts at 0 and is padded at its end.
Training draws one start (STARTS). Testing uses those that a placement returns:

    centre_starts                 |      [=======]      |     one, in the middle
    uniform_starts, clips=3       [=======]     [=======]     evenly spaced, both ends of the video included
                                       [=======]
    strided_starts, every=4 s     [=======]             |     every N seconds, as often as the clip fits
                                  |   [=======]         |
                                  |       [=======]     |
    sliding_starts, overlap=0.5   [=======]             |     windows over all of the video; the last ends with it
                                  |   [=======]         |
                                  ...         [=======]

All times are seconds from the video's first frame.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hybridvideo.config.data import ClipConfig

Times = NDArray[np.float64]
Indices = NDArray[np.int64]

ROUNDING = 1e-3  # seconds: containers round frame times to as little as a millisecond


def hash_seed(*parts: int) -> int:
    """A 63-bit seed from integers such as (seed, epoch, index); neighbouring inputs have unrelated seeds."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def frame_duration(*, frame_times: Times, fps: float) -> float:
    """Seconds for which a frame is shown: the median step between frames, or 1 / fps if the video has one frame."""
    if len(frame_times) > 1:
        return float(np.median(np.diff(frame_times)))
    return 1.0 / fps if fps > 0 else 1.0


def video_duration(*, frame_times: Times, fps: float) -> float:
    """Seconds from the first frame to the end of the last one."""
    return float(frame_times[-1]) + frame_duration(frame_times=frame_times, fps=fps)


def clip_step(*, clip: ClipConfig, fps: float) -> float:
    """Seconds between the frames of a clip: its interval, or stride / fps (stride 1 if neither is set)."""
    if clip.interval is not None:
        return clip.interval
    return (clip.stride or 1) / (fps if fps > 0 else 1.0)


def clip_span(*, frames: int, step: float) -> float:
    """Seconds of video that a clip covers."""
    return frames * step


# ---- one random clip, for training


def random_start(*, duration: float, span: float, draw: float) -> float:
    """Start of a clip anywhere in the video; `draw` is uniform in [0, 1)."""
    return draw * last_start(duration, span)


def centre_start(*, duration: float, span: float, draw: float = 0.0) -> float:
    """Start of the clip in the middle of the video."""
    return last_start(duration, span) / 2


def first_start(*, duration: float, span: float, draw: float = 0.0) -> float:
    """Start of the clip at the beginning of the video."""
    return 0.0


STARTS: dict[str, Callable[..., float]] = {
    "random": random_start,
    "centre": centre_start,
    "first": first_start,
}


def last_start(duration: float, span: float) -> float:
    """Start of the clip that ends with the video; 0 if the video is shorter than the clip."""
    return max(duration - span, 0.0)


# ---- fixed clips, for testing

Placement = Callable[[float, float], Sequence[float]]
"""(duration, span) -> start of each clip, ascending, at least one. Their number may depend on the video."""


def centre_starts(duration: float, span: float) -> tuple[float, ...]:
    """The clip in the middle."""
    return (centre_start(duration=duration, span=span),)


def uniform_starts(duration: float, span: float, *, clips: int) -> tuple[float, ...]:
    """`clips` clips: one in the middle, or evenly from 0 to duration - span, both included."""
    if clips == 1:
        return centre_starts(duration, span)
    last = last_start(duration, span)
    return tuple(last * k / (clips - 1) for k in range(clips))


def strided_starts(duration: float, span: float, *, every: float) -> tuple[float, ...]:
    """A clip every `every` seconds from 0 on, as often as a complete clip fits."""
    assert every > 0, every
    return tuple(every * k for k in range(math.floor(last_start(duration, span) / every + ROUNDING) + 1))


def sliding_starts(duration: float, span: float, *, overlap: float = 0.0) -> tuple[float, ...]:
    """Windows that cover all of the video, each sharing `overlap` of its span with the next; the last ends with it."""
    assert 0 <= overlap < 1, overlap
    step, last = span * (1 - overlap), last_start(duration, span)
    windows = math.ceil(last / step - ROUNDING) + 1 if step > 0 else 1
    return tuple(min(step * k, last) for k in range(windows))


# ---- frames


def clip_times(*, start: float, frames: int, step: float) -> Times:
    """(frames,) seconds: start, start + step, ..."""
    return start + step * np.arange(frames, dtype=np.float64)


def indices_at_times(
    *, frame_times: Times, times: Times | Sequence[float], fps: float, pad: Literal["last", "loop"] = "last"
) -> Indices:
    """Index of the frame shown at each time: the last one that is not later.

    frame_times: (N,) ascending, first 0. A frame up to 1 ms later (less if frames are closer together) counts as
    shown, since containers round. Times after the video's end show the last frame (`last`) or the video again
    (`loop`).
    """
    step = frame_duration(frame_times=frame_times, fps=fps)
    shifted = np.asarray(times, dtype=np.float64) + min(ROUNDING, step / 4)
    if pad == "loop":
        shifted = np.mod(shifted, video_duration(frame_times=frame_times, fps=fps))
    indices = np.searchsorted(frame_times, shifted, side="right") - 1
    return np.maximum(indices, 0).astype(np.int64)
