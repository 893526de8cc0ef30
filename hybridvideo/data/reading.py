"""Clips out of one video file: which frames, from one pass, at the size that is wanted; and what to do where it fails.

A damaged video is used as far as it can be read ("partial"): it is sampled anew within that. Readers are opened and
closed in here, so none ever crosses a process.

C channels, T frames of a clip, H height, W width, U frames decoded, K clips of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hybridvideo.config import ClipConfig
from hybridvideo.data.decode import WHOLE, IndexCache, VideoReader, guard
from hybridvideo.data.decode.frames import Framer, Framing, Size
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.sampling import (
    Indices,
    clip_span,
    clip_step,
    clip_times,
    indices_at_times,
    video_duration,
)
from hybridvideo.errors import VideoError

Starts = Callable[[float, float], Sequence[float]]  # (duration, span) -> start of each clip, in seconds


Finish = Callable[[torch.Tensor], torch.Tensor]  # of frames (T, C, H, W)
PART = 64  # frames of a video that are decoded before they are finished


@dataclass(frozen=True)
class Sampled:
    """Which frames make the clips of a video. indices_KT: of the frames. start, end: seconds, one per clip.

    padded: share of a clip's frames that lie behind the end of the video, one per clip.
    """

    indices_KT: Indices
    start: tuple[float, ...]
    end: tuple[float, ...]
    padded: tuple[float, ...]


@dataclass(frozen=True)
class Decoded:
    """Frames of one video. frames: uint8 (T or U, C, H, W) for each framing. size: of its upright frames."""

    frames: list[torch.Tensor]
    sampled: Sampled
    size: Size
    status: str  # "ok" or "partial"
    reason: str


def listed_file(manifest: Manifest, index: int) -> Path:
    """The file of a row. Raises VideoError `refused` for one that a relative path or a link has outside the root."""
    if not manifest.confined:
        return manifest.file(index)
    return Path(guard.inside(manifest.rows[index].path, manifest.root, strict=manifest.root_given))


def sample(reader: VideoReader, clip: ClipConfig, starts: Starts) -> Sampled:
    """The frames of the clips that begin at `starts(duration, span)`."""
    times, fps = reader.times, reader.fps
    step = clip_step(clip=clip, fps=fps)
    span = clip_span(frames=clip.frames, step=step)
    duration = video_duration(frame_times=times, fps=fps)
    chosen = tuple(starts(duration, span))
    moments = [clip_times(start=start, frames=clip.frames, step=step) for start in chosen]
    return Sampled(
        np.stack([indices_at_times(frame_times=times, times=of_clip, fps=fps, pad=clip.pad) for of_clip in moments]),
        chosen,
        tuple(min(start + span, duration) for start in chosen),
        tuple(float(np.mean(of_clip >= duration)) for of_clip in moments),
    )


def decode_clips(
    file: Path, clip: ClipConfig, starts: Starts, framers: Sequence[Framer], *,
    index: IndexCache | None = None, exact: bool = True, retry: bool = True,
) -> Decoded:  # fmt: skip
    """The clips of a video, the k-th under the k-th framer, each frame decoded once. Raises VideoError.

    exact: as in VideoReader.clips_at. retry: a video that turns out to be damaged on the way is sampled anew within
    what is readable.
    """

    def take(reader: VideoReader, sampled: Sampled, seen: list[Size]) -> list[torch.Tensor]:
        shots = [(row.tolist(), noting(framer, seen)) for row, framer in zip(sampled.indices_KT, framers, strict=True)]
        return [clip.frames_TCHW for clip in reader.clips_at(shots, exact)]

    return _decode(file, clip, starts, take, index, retry)


def decode_union(
    file: Path,
    clip: ClipConfig,
    starts: Starts,
    framer: Framer,
    *,
    finish: Finish | None = None,
    index: IndexCache | None = None,
) -> Decoded:
    """All frames of the clips of a video, once each, ascending, under one framing, finished. Raises VideoError.

    finish: what is left to do with some of the frames, so that all whole ones need not be in memory together.
    """

    def take(reader: VideoReader, sampled: Sampled, seen: list[Size]) -> list[torch.Tensor]:
        wanted = np.unique(sampled.indices_KT).tolist()
        if finish is None:
            return [reader.frames_at(wanted, noting(framer, seen)).frames_TCHW]
        parts = [wanted[start : start + PART] for start in range(0, len(wanted), PART)]
        return [torch.cat([finish(reader.frames_at(part, noting(framer, seen)).frames_TCHW) for part in parts])]

    return _decode(file, clip, starts, take, index, True)


Take = Callable[[VideoReader, Sampled, list[Size]], list[torch.Tensor]]


def _decode(file: Path, clip: ClipConfig, starts: Starts, take: Take, index: IndexCache | None, retry: bool) -> Decoded:
    with VideoReader(file, index=index) as reader:
        times = reader.times
        try:
            return _taken(reader, clip, starts, take)
        except VideoError as error:
            if error.status != "partial" or not retry:
                raise
            return _taken(reader, clip, starts, take)
        finally:
            if reader.times is not times:  # damage met on the way: had another clip met it first, this one would differ
                reader.forget()


def _taken(reader: VideoReader, clip: ClipConfig, starts: Starts, take: Take) -> Decoded:
    seen: list[Size] = []
    sampled = sample(reader, clip, starts)
    frames = take(reader, sampled, seen)
    return Decoded(frames, sampled, seen[-1], reader.status, reader.reason)


def noting(framer: Framer, seen: list[Size]) -> Framer:
    """The framer, which also tells what size the frames have."""

    def frame(size: Size) -> Framing:
        seen.append(size)
        return framer(size)

    return frame


def whole_frames(size: Size) -> Framing:
    """For scaling that comes after decoding."""
    return WHOLE
