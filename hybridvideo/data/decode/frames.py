"""What a reader returns: facts about a video, and clips of frames with their times.

T frames, C channels (red, green, blue), H height, W width, U distinct frames of a request. Times are seconds from the
first presented frame, which is at 0.0 whatever the file's own clock shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from hybridvideo.data.decode import guard
from hybridvideo.errors import UserError, VideoError

FloatArray = npt.NDArray[np.float64]
ByteArray = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[int, int, int, int]  # top, left, height, width
Size: TypeAlias = tuple[int, int]  # height, width

# Containers round times, Matroska to a millisecond: a frame due up to this many seconds later counts as shown.
TICK = 0.0006
MOST_PIXELS_PER_SIDE = 16384  # of a scaled frame


@dataclass(frozen=True)
class VideoInfo:
    """Facts about one video stream, as the reader counted them.

    frames: frames that can be read, counted, never the header's claim. header_frames: that claim, None if the
    container makes none. fps: average over the frame times. duration: seconds to the end of the last frame. width,
    height: pixels after rotation. rotation: clockwise degrees (0, 90, 180, 270) that the reader applies. regular: the
    frame times are evenly spaced, up to the container's rounding. keyframes: frames that decoding can start at.
    """

    frames: int
    header_frames: int | None
    fps: float
    duration: float
    width: int
    height: int
    rotation: int
    codec: str
    pixel_format: str
    regular: bool
    keyframes: tuple[int, ...]


@dataclass(frozen=True)
class Clip:
    """Decoded frames and the time of each.

    frames_TCHW: uint8 RGB tensor, 0 to 255; its memory is channels last. times_T: seconds from the first frame of the
    video, in the order of the request.
    """

    frames_TCHW: torch.Tensor
    times_T: tuple[float, ...]

    def __post_init__(self) -> None:
        frames = self.frames_TCHW
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"a clip is uint8 (T, 3, H, W), not {frames.dtype} {tuple(frames.shape)}")
        if len(self.times_T) != frames.shape[0]:
            raise ValueError(f"{frames.shape[0]} frames need as many times, not {len(self.times_T)}")
        if not all(math.isfinite(time) for time in self.times_T):
            raise ValueError("a clip's times are finite seconds")

    def __len__(self) -> int:
        return len(self.times_T)


@dataclass(frozen=True)
class Framing:
    """What is done to each upright frame: crop `box` and scale it to `size`; None leaves out that step.

    A backend that decodes with FFmpeg scales before it converts to RGB, which is less work and has slightly different
    results than scaling RGB. box: within the frame. size: pixels.
    """

    box: Box | None = None
    size: Size | None = None

    def within(self, frame: Size) -> Framing:
        """Return itself if it fits a frame of this (height, width). Raises UserError."""
        top, left, height, width = self.box or (0, 0, *frame)
        if min(top, left) < 0 or min(height, width) < 1 or top + height > frame[0] or left + width > frame[1]:
            raise UserError(f"the box {self.box} (top, left, height, width) is not within a frame of {frame}")
        if self.size is not None and not 0 < min(self.size) <= max(self.size) <= MOST_PIXELS_PER_SIDE:
            raise UserError(f"frames cannot be scaled to {self.size}; give (height, width) in pixels")
        return self


WHOLE = Framing()
Framer: TypeAlias = Callable[[Size], Framing]  # from the upright size of the video's frames


def full_frames(size: Size) -> Framing:
    """The framer that leaves frames as they are."""
    return WHOLE


@dataclass(frozen=True)
class Shot:
    """Frames at distinct ascending indices, under one framing. A request is several of them, from one pass.

    exact: False if a backend may leave out what is hardly visible (`VideoReader.clips_at`).
    """

    indices: list[int]
    framer: Framer = full_frames
    exact: bool = True


def shoot(shots: Sequence[Shot], size: Size, decode_whole: Callable[[list[int]], ByteArray]) -> list[ByteArray]:
    """Make the shots with a backend that decodes full upright RGB frames (U, H, W, C) at ascending indices."""
    union = sorted({index for shot in shots for index in shot.indices})
    guard.check_request(len(union), *size[::-1])
    frames_UHWC = decode_whole(union)
    place = {index: position for position, index in enumerate(union)}
    return [framed(frames_UHWC[[place[i] for i in shot.indices]], shot.framer(size)) for shot in shots]


def framed(frames_UHWC: ByteArray, framing: Framing) -> ByteArray:
    """Apply a framing to RGB frames, for backends that only decode full frames; bilinear, antialiased."""
    if framing.box is not None:
        top, left, height, width = framing.box
        frames_UHWC = frames_UHWC[:, top : top + height, left : left + width]
    if framing.size is None or framing.size == frames_UHWC.shape[1:3]:
        return np.ascontiguousarray(frames_UHWC)
    images_UCHW = torch.from_numpy(frames_UHWC).permute(0, 3, 1, 2)
    scaled = torch.nn.functional.interpolate(images_UCHW, framing.size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(scaled.permute(0, 2, 3, 1).numpy())


class Backend(Protocol):
    """What one decoding library must offer; opening is `Backend(absolute_path, known)` and raises VideoError only.

    known: what an earlier reader found out about this file (known.Known), or None.
    """

    @property
    def info(self) -> VideoInfo: ...
    @property
    def times(self) -> FloatArray: ...
    @property
    def status(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def fps(self) -> float: ...
    @property
    def decoded(self) -> int: ...

    def decode(self, shots: Sequence[Shot]) -> list[ByteArray]:
        """Return frames (U, H, W, C) of each shot, whose indices are all within `times`; each frame is decoded once.

        Calls guard.check_request before it allocates memory.
        """

    def check(self) -> None:
        """Decode everything once and keep only the frames that come."""

    def known(self) -> Any:
        """Return what the next reader of this file may know: a known.Known, or None."""

    def close(self) -> None: ...


def shown_at(times: FloatArray, moments: FloatArray) -> list[int]:
    """For each moment the last frame whose time is not after it (within TICK); the first frame before all times."""
    found = np.searchsorted(times, moments + TICK, side="right") - 1
    return [int(index) for index in np.clip(found, 0, len(times) - 1)]


def between(times: FloatArray, end_of_video: float, start: float, end: float, fps: float | None) -> list[int]:
    """Indices of the frames with start <= time < end, or with `fps` of those shown at start, start + 1/fps, ...

    Ticks stop before `end` and before the end of the video. Raises VideoError `short` if there is no frame.
    """
    if fps is None:
        low, high = np.searchsorted(times, [start, end], side="left")
        found = list(range(int(low), int(high)))
    else:
        last = min(end, end_of_video)
        ticks = max(0, math.ceil((last - start) * fps - 1e-6))
        if ticks > guard.MAX_PACKETS:
            raise VideoError("refused", f"{ticks:,} frames from {start:g} to {last:g} s; ask for fewer")
        found = shown_at(times, start + np.arange(ticks) / fps)
    if not found:
        raise VideoError("short", f"no frame from {start:g} to {end:g} s in a video of {end_of_video:g} s")
    return found
