"""Clips from one video file: which frames, from one pass, at the wanted size; and what to do if it is damaged.

A damaged video is used as far as it can be read ("partial"): a clip that meets the damage is sampled again within the
readable part. The frames of a clip do not depend on the other clips requested: if one of several meets damage,
each is read by its own reader, as if it had been requested alone. Readers are opened and closed here, so none ever
crosses a process boundary.

C channels, T frames of a clip, H height, W width, U frames decoded, K clips of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hybridvideo.config.data import ClipConfig
from hybridvideo.data.decode import IndexCache, VideoReader, guard
from hybridvideo.data.decode.frames import Framer, Framing, Size
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.sampling import (
    Indices,
    Placement,
    clip_span,
    clip_step,
    clip_times,
    indices_at_times,
    video_duration,
)
from hybridvideo.errors import VideoError

Finish = Callable[[torch.Tensor], torch.Tensor]  # of frames (T, C, H, W)
PART = 64  # frames of a video that are decoded before they are finished


@dataclass(frozen=True)
class Sampled:
    """Which frames make up the clips of a video.

    indices_KT: of the frames. start, end: seconds, one per clip. padded: share of a clip's frames that lie after the
    end of the video, one per clip.
    """

    indices_KT: Indices
    start: tuple[float, ...]
    end: tuple[float, ...]
    padded: tuple[float, ...]


@dataclass(frozen=True)
class Decoded:
    """Frames of one video.

    frames: uint8 (T, C, H, W) of each clip, or (U, C, H, W) of all clips. sampled: if the status is `partial`, clips
    may count frames differently, as far as each has met the damage. size: (height, width) of upright frames.
    positions_KT: where in all frames those of each clip are.
    """

    frames: list[torch.Tensor]
    sampled: Sampled
    size: Size
    status: str  # "ok" or "partial"
    reason: str
    positions_KT: Indices


def listed_file(manifest: Manifest, index: int) -> Path:
    """Return the file of a row. Raises VideoError `refused` if a relative path or a link leads out of the root."""
    if not manifest.confined:
        return manifest.file(index)
    return Path(guard.inside(manifest.rows[index].path, manifest.root, strict=manifest.root_given))


def sample(reader: VideoReader, clip: ClipConfig, placement: Placement) -> Sampled:
    """Choose the frames of the clips that start at `placement(duration, span)`."""
    times, fps = reader.times, reader.fps
    step = clip_step(clip=clip, fps=fps)
    span = clip_span(frames=clip.frames, step=step)
    duration = video_duration(frame_times=times, fps=fps)
    starts = tuple(placement(duration, span))
    moments = [clip_times(start=start, frames=clip.frames, step=step) for start in starts]
    return Sampled(
        np.stack([indices_at_times(frame_times=times, times=of_clip, fps=fps, pad=clip.pad) for of_clip in moments]),
        starts,
        tuple(min(start + span, duration) for start in starts),
        tuple(float(np.mean(of_clip >= duration)) for of_clip in moments),
    )


def decode_clips(
    file: Path,
    clip: ClipConfig,
    placement: Placement,
    framers: Sequence[Framer],
    *,
    index: IndexCache | None = None,
    exact: bool = True,
    retry: bool = True,
) -> Decoded:
    """Decode the clips of a video, the k-th under the k-th framer, each frame once. Raises VideoError.

    placement: returns as many starts as there are framers. exact: as in VideoReader.clips_at. retry: sample a video
    that turns out to be damaged again, within what is readable.
    """

    def take(reader: VideoReader, sampled: Sampled, seen: list[Size]) -> list[torch.Tensor]:
        shots = [(row.tolist(), noting(framer, seen)) for row, framer in zip(sampled.indices_KT, framers, strict=True)]
        return [clip.frames_TCHW for clip in reader.clips_at(shots, exact)]

    def alone(k: int) -> Decoded:
        return decode_clips(file, clip, _only(placement, k), [framers[k]], index=index, exact=exact)

    try:
        return _decode(file, clip, placement, take, index, retry=retry)
    except _DamagedTogether as damaged:
        parts = [alone(k) for k in range(damaged.clips)]
    return _joined(parts, [frames for decoded in parts for frames in decoded.frames])


def decode_union(
    file: Path,
    clip: ClipConfig,
    placement: Placement,
    framer: Framer,
    *,
    finish: Finish | None = None,
    index: IndexCache | None = None,
) -> Decoded:
    """Decode all frames of the clips of a video, each once, ascending, under one framing. Raises VideoError.

    finish: what is left to do with some of the frames, so that full-size ones need not all be in memory together.
    If damage makes the video shorter, clips that no longer fit into it are left out.
    """

    def take(reader: VideoReader, sampled: Sampled, seen: list[Size]) -> list[torch.Tensor]:
        wanted = np.unique(sampled.indices_KT).tolist()
        if finish is None:
            return [reader.frames_at(wanted, noting(framer, seen)).frames_TCHW]
        parts = [wanted[start : start + PART] for start in range(0, len(wanted), PART)]
        return [torch.cat([finish(reader.frames_at(part, noting(framer, seen)).frames_TCHW) for part in parts])]

    def alone(k: int) -> Decoded | None:
        try:
            return decode_union(file, clip, _only(placement, k), framer, finish=finish, index=index)
        except _Gone:
            return None

    try:
        return _decode(file, clip, placement, take, index)
    except _DamagedTogether as damaged:
        parts = [decoded for k in range(damaged.clips) if (decoded := alone(k)) is not None]
    return _joined(parts, [torch.cat([decoded.frames[0] for decoded in parts])])


# ---- one pass over a file

Take = Callable[[VideoReader, Sampled, list[Size]], list[torch.Tensor]]


class _DamagedTogether(Exception):
    """Damage was met while several clips were decoded together: each has to be decoded alone."""

    def __init__(self, clips: int) -> None:
        self.clips = clips


class _Gone(Exception):
    """The readable part of a damaged video is too short for this clip."""


def _decode(
    file: Path, clip: ClipConfig, placement: Placement, take: Take, index: IndexCache | None, retry: bool = True
) -> Decoded:
    """Decode in one pass. A damaged video is sampled again if `retry`; raises _DamagedTogether for several clips."""
    with VideoReader(file, index=index) as reader:
        times = reader.times
        sampled = sample(reader, clip, placement)
        try:
            return _taken(reader, sampled, take)
        except VideoError as error:
            if error.status != "partial" or not retry:
                raise
            if len(sampled.start) > 1:
                raise _DamagedTogether(len(sampled.start)) from None
            return _taken(reader, sample(reader, clip, placement), take)
        finally:
            if reader.times is not times:  # damage met on the way, which the next reader may not meet
                reader.forget()


def _taken(reader: VideoReader, sampled: Sampled, take: Take) -> Decoded:
    seen: list[Size] = []
    frames = take(reader, sampled, seen)
    _, positions = np.unique(sampled.indices_KT, return_inverse=True)
    positions_KT = positions.reshape(sampled.indices_KT.shape)
    return Decoded(frames, sampled, seen[-1], reader.status, reader.reason, positions_KT)


def noting(framer: Framer, seen: list[Size]) -> Framer:
    """The framer, which also appends the size of the frames to `seen`."""

    def frame(size: Size) -> Framing:
        seen.append(size)
        return framer(size)

    return frame


# ---- clips decoded alone


def _only(placement: Placement, k: int) -> Placement:
    """The k-th clip alone. Raises _Gone if the placement has fewer clips in what is left of a damaged video."""

    def one(duration: float, span: float) -> Sequence[float]:
        starts = placement(duration, span)
        if k >= len(starts):
            raise _Gone
        return [starts[k]]

    return one


def _joined(alone: Sequence[Decoded], frames: list[torch.Tensor]) -> Decoded:
    """The clips of a damaged video, each decoded alone, as one result."""
    parts = [decoded.sampled for decoded in alone]
    sampled = Sampled(
        np.concatenate([part.indices_KT for part in parts]),
        *(tuple(getattr(part, name)[0] for part in parts) for name in ("start", "end", "padded")),
    )
    counts = [decoded.positions_KT.max() + 1 for decoded in alone]
    positions_KT = np.concatenate(
        [decoded.positions_KT + first for decoded, first in zip(alone, np.cumsum([0, *counts]), strict=False)]
    )
    damaged = next((decoded for decoded in alone if decoded.status == "partial"), alone[0])
    return Decoded(frames, sampled, alone[-1].size, damaged.status, damaged.reason, positions_KT)
