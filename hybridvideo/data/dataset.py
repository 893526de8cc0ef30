"""Videos as items: a random clip for training, all fixed views for testing; one policy for a bad file.

What a file gives depends on the file and on (seed, epoch, index) alone. A video that cannot be read is an
item whose status says why: nothing takes its place, and no exception leaves the dataset for it. A damaged
video is used as far as it can be read ("partial"). Readers are opened and closed inside an item, so none ever
crosses a process.

C channels, T frames of a clip, H height, W width, U frames decoded, K clips of a video, V = K x crops views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch.utils.data import Dataset

from hybridvideo.config import ClipConfig
from hybridvideo.data.decode import VideoReader
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.sampling import (
    STARTS,
    Indices,
    clip_span,
    clip_step,
    clip_times,
    hash_seed,
    indices_at_times,
    uniform_starts,
    video_duration,
)
from hybridvideo.data.transforms import TrainTransform, ViewTransform
from hybridvideo.errors import VideoError

PADDING = -1  # the index of an item that only fills the share of a process without one

Starts = Callable[[float, float], Sequence[float]]  # (duration, span) -> start of each clip, in seconds


class ClipItem(TypedDict):
    """A training item. `clip`: uint8 (C, T, H, W), zeros where not `ok`. `label`, `index`: -1 for none.

    `contrast`: factor for the clip once it is normalised, on the device.
    """

    clip: torch.Tensor
    contrast: float
    label: int
    index: int
    ok: bool
    status: str
    reason: str


class ViewItem(TypedDict):
    """A test item. `views`: uint8 (V, C, T, H, W) in (clip, crop) order, V = 0 where nothing could be read.

    `start`, `end`: seconds from the first frame, one per clip.
    """

    views: torch.Tensor
    label: int
    index: int
    status: str
    reason: str
    start: tuple[float, ...]
    end: tuple[float, ...]


def sample_generator(seed: int, epoch: int, index: int) -> torch.Generator:
    """All randomness of one sample, on the CPU; neighbouring seeds, epochs and indices are unrelated."""
    return torch.Generator().manual_seed(hash_seed(seed, epoch, index))


def uniform(generator: torch.Generator) -> float:
    """A number from 0 to 1, 1 left out."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


# ---- reading


@dataclass(frozen=True)
class DecodedClips:
    """The clips of one video before any transform: each frame once, and which of them make each clip."""

    frames_UCHW: torch.Tensor
    positions_KT: Indices  # of the clips' frames, in 0..U-1
    start: tuple[float, ...]  # seconds
    end: tuple[float, ...]
    status: str  # "ok" or "partial"
    reason: str


def decode_clips(file: Path, clip: ClipConfig, starts: Starts) -> DecodedClips:
    """Decode the clips of a video that begin at `starts(duration, span)`, each needed frame once.

    A video that turns out to be damaged on the way is sampled anew within what is readable. Raises
    VideoError.
    """
    with VideoReader(file) as reader:
        try:
            return _decode(reader, clip, starts, "ok", "")
        except VideoError as error:
            if error.status != "partial":
                raise
            return _decode(reader, clip, starts, "partial", error.reason)


def _decode(reader: VideoReader, clip: ClipConfig, starts: Starts, status: str, reason: str) -> DecodedClips:
    times, fps = reader.times, reader.info.fps
    step = clip_step(clip=clip, fps=fps)
    span = clip_span(frames=clip.frames, step=step)
    duration = video_duration(frame_times=times, fps=fps)
    chosen = tuple(starts(duration, span))
    indices_KT = np.stack(
        [
            indices_at_times(
                frame_times=times,
                times=clip_times(start=start, frames=clip.frames, step=step),
                fps=fps,
                pad=clip.pad,
            )
            for start in chosen
        ]
    )
    wanted, positions = np.unique(indices_KT, return_inverse=True)
    frames_UCHW = reader.frames_at(wanted.tolist()).frames_TCHW
    if status == "ok":
        status, reason = reader.status, reader.reason
    end = tuple(min(start + span, duration) for start in chosen)
    return DecodedClips(frames_UCHW, positions.reshape(indices_KT.shape), chosen, end, status, reason)


# ---- training


class ClipDataset(Dataset[ClipItem]):
    """One clip of each video, cut at a place and transformed in a way that follow from (seed, epoch, index).

    Items are asked for by (epoch, index), as `loader.EpochOrder` does. Index PADDING gives an item of status
    "padding", which like an unreadable video is not `ok`: it has weight 0 in the loss.
    """

    def __init__(self, manifest: Manifest, clip: ClipConfig, transform: TrainTransform, seed: int) -> None:
        self.manifest, self.clip, self.transform, self.seed = manifest, clip, transform, seed

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: tuple[int, int]) -> ClipItem:
        epoch, index = key
        if index == PADDING:
            return self._blank(PADDING, "padding", "fills an empty share of the last batch")
        generator = sample_generator(self.seed, epoch, index)
        draw = uniform(generator)
        contrast = self._contrast(generator)
        start = STARTS[self.clip.train_start]
        try:
            decoded = decode_clips(
                self.manifest.file(index),
                self.clip,
                lambda duration, span: [start(duration=duration, span=span, draw=draw)],
            )
        except VideoError as error:
            return self._blank(index, error.status, error.reason)
        frames_TCHW = _take(decoded.frames_UCHW, decoded.positions_KT[0])
        clip_CTHW = self.transform(frames_TCHW, generator).transpose(0, 1).contiguous()
        item = self._blank(index, decoded.status, decoded.reason)
        return {**item, "clip": clip_CTHW, "contrast": contrast, "ok": True}

    def variant(self, epoch: int, index: int) -> tuple[bool, float]:
        """Whether this sample is flipped in this epoch, and its contrast: the draws that `__getitem__` makes."""
        generator = sample_generator(self.seed, epoch, index)
        uniform(generator)  # of the clip's start
        contrast = self._contrast(generator)
        return bool(torch.rand((), generator=generator) < self.transform.augment.flip), contrast

    def _contrast(self, generator: torch.Generator) -> float:
        choices = self.transform.augment.contrast
        return choices[int(uniform(generator) * len(choices))]

    def _blank(self, index: int, status: str, reason: str) -> ClipItem:
        """An item without a picture; shapes and types are those of a good one."""
        height, width = self.transform.size
        label = None if index == PADDING else self.manifest.rows[index].label
        return ClipItem(
            clip=torch.zeros((3, self.clip.frames, height, width), dtype=torch.uint8),
            contrast=1.0,
            label=-1 if label is None else label,
            index=index,
            ok=False,
            status=status,
            reason=reason,
        )


def _take(frames_UCHW: torch.Tensor, positions_T: Indices) -> torch.Tensor:
    """The frames at `positions_T`; no copy where these are all frames in order."""
    if np.array_equal(positions_T, np.arange(len(frames_UCHW))):
        return frames_UCHW
    return frames_UCHW[torch.from_numpy(positions_T)]


# ---- testing


class ViewDataset(Dataset[ViewItem]):
    """All views of each video: `clips` in time by the transform's crops in space; nothing is random.

    The frames of a video are decoded once and scaled once for all its views.
    """

    def __init__(self, manifest: Manifest, clip: ClipConfig, transform: ViewTransform, clips: int) -> None:
        self.manifest, self.clip, self.transform, self.clips = manifest, clip, transform, clips

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> ViewItem:
        label = self.manifest.rows[index].label
        try:
            decoded = decode_clips(self.manifest.file(index), self.clip, self._starts)
            views = self._views(decoded)
            status, reason, start, end = decoded.status, decoded.reason, decoded.start, decoded.end
        except VideoError as error:
            height, width = self.transform.size
            views = torch.empty((0, 3, self.clip.frames, height, width), dtype=torch.uint8)
            status, reason, start, end = error.status, error.reason, (), ()
        return ViewItem(
            views=views,
            label=-1 if label is None else label,
            index=index,
            status=status,
            reason=reason,
            start=start,
            end=end,
        )

    def _starts(self, duration: float, span: float) -> Sequence[float]:
        return uniform_starts(clips=self.clips, duration=duration, span=span)

    def _views(self, decoded: DecodedClips) -> torch.Tensor:
        """uint8 (V, C, T, H, W) in (clip, crop) order."""
        crops_NUCHW = self.transform(decoded.frames_UCHW)
        positions_KT = torch.from_numpy(decoded.positions_KT)
        views_NKTCHW = crops_NUCHW[:, positions_KT]
        return views_NKTCHW.permute(1, 0, 3, 2, 4, 5).flatten(0, 1).contiguous()
