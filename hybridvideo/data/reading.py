"""Clips out of one video file: which frames, from one pass, at the size that is wanted; and what to do where it fails.

A damaged video is used as far as it can be read ("partial"): a clip that meets the damage is sampled anew within that.
Which frames a clip has does not depend on the others that are asked for: where one of several meets damage, each is
read by a reader of its own, as if it were asked for alone. Readers are opened and closed in here, so none ever crosses
a process.

C channels, T frames of a clip, H height, W width, U frames decoded, K clips of a video.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hybridvideo.config.data import ClipConfig
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
    """Frames of one video. frames: uint8 (T, C, H, W) of each clip, or (U, C, H, W) of all. size: of upright frames.

    sampled: where the status is `partial` clips may count frames differently, as far as each has met the damage.
    positions_KT: where in all frames those of each clip are.
    """

    frames: list[torch.Tensor]
    sampled: Sampled
    size: Size
    status: str  # "ok" or "partial"
    reason: str
    positions_KT: Indices


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

    try:
        return _decode(file, clip, starts, take, index, retry=retry and len(framers) == 1)
    except VideoError as error:
        if error.status != "partial" or not retry or len(framers) == 1:
            raise
    alone = [
        decode_clips(file, clip, _only(starts, k), [framer], index=index, exact=exact)
        for k, framer in enumerate(framers)
    ]
    return _joined(alone, [frames for decoded in alone for frames in decoded.frames])


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

    clips = len(starts(0.0, 0.0))
    try:
        return _decode(file, clip, starts, take, index, retry=clips == 1)
    except VideoError as error:
        if error.status != "partial" or clips == 1:
            raise
    alone = [decode_union(file, clip, _only(starts, k), framer, finish=finish, index=index) for k in range(clips)]
    return _joined(alone, [torch.cat([decoded.frames[0] for decoded in alone])])


def _only(starts: Starts, k: int) -> Starts:
    return lambda duration, span: [starts(duration, span)[k]]


def _joined(alone: Sequence[Decoded], frames: list[torch.Tensor]) -> Decoded:
    """The clips of a damaged video, each decoded alone, as one answer."""
    parts = [decoded.sampled for decoded in alone]
    sampled = Sampled(
        np.concatenate([part.indices_KT for part in parts]),
        *(tuple(getattr(part, name)[0] for part in parts) for name in ("start", "end", "padded")),
    )
    counts = [decoded.positions_KT.max() + 1 for decoded in alone]
    positions_KT = np.concatenate(
        [decoded.positions_KT + first for decoded, first in zip(alone, np.cumsum([0, *counts]), strict=False)]
    )
    said = next((decoded for decoded in alone if decoded.status == "partial"), alone[0])
    return Decoded(frames, sampled, alone[-1].size, said.status, said.reason, positions_KT)


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
            if reader.times is not times:  # damage met on the way, which the next reader may not meet
                reader.forget()


def _taken(reader: VideoReader, clip: ClipConfig, starts: Starts, take: Take) -> Decoded:
    seen: list[Size] = []
    sampled = sample(reader, clip, starts)
    frames = take(reader, sampled, seen)
    _, positions = np.unique(sampled.indices_KT, return_inverse=True)
    positions_KT = positions.reshape(sampled.indices_KT.shape)
    return Decoded(frames, sampled, seen[-1], reader.status, reader.reason, positions_KT)


def noting(framer: Framer, seen: list[Size]) -> Framer:
    """The framer, which also tells what size the frames have."""

    def frame(size: Size) -> Framing:
        seen.append(size)
        return framer(size)

    return frame


def whole_frames(size: Size) -> Framing:
    """For scaling that comes after decoding."""
    return WHOLE
