"""Test items: all fixed views of each video, `clips` in time by crops in space; nothing is random.

The frames of a video are decoded once and scaled once for all its views, and travel once: a view is cut out of them
where it is used, on the device.

C channels, T frames of a clip, H height, W width, U frames of a video, K clips, N crops, V = K x N views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch.utils.data import Dataset

from hybridvideo.config.data import ClipConfig
from hybridvideo.data.dataset import Failures
from hybridvideo.data.decode import IndexCache
from hybridvideo.data.decode.frames import Size
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.reading import Decoded, decode_union, listed_file, whole_frames
from hybridvideo.data.sampling import uniform_starts
from hybridvideo.data.transforms import ViewTransform
from hybridvideo.errors import VideoError


class ViewItem(TypedDict):
    """A test item. `frames`: uint8 (U, H, W, C), each frame once, scaled; U = 0 where nothing could be read.

    `positions`: int64 (K, T) of each clip's frames. `corners`: int64 (N, 2), top and left of each crop of `size` (2,).
    `start`, `end`: seconds from the first frame, one per clip.
    """

    frames: torch.Tensor
    positions: torch.Tensor
    corners: torch.Tensor
    size: Size
    label: int
    index: int
    status: str
    reason: str
    start: tuple[float, ...]
    end: tuple[float, ...]


class ViewDataset(Dataset[ViewItem]):
    """All views of each video. index: what is known of the files. quarantine: videos by index that are not opened."""

    def __init__(
        self, manifest: Manifest, clip: ClipConfig, transform: ViewTransform, clips: int, *,
        index: IndexCache | None = None, quarantine: Failures | None = None,
    ) -> None:  # fmt: skip
        self.manifest, self.clip, self.transform, self.clips = manifest, clip, transform, clips
        self.index, self.quarantine = index or IndexCache(), dict(quarantine or {})

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> ViewItem:
        if index in self.quarantine:
            return self.blank(index, *self.quarantine[index])
        try:
            return self._item(index, self._decode(index))
        except VideoError as error:
            return self.blank(index, error.status, error.reason)

    def blank(self, index: int, status: str, reason: str) -> ViewItem:
        """The item of a video that gives no view."""
        label = self.manifest.rows[index].label
        return ViewItem(
            frames=torch.empty((0, *self.transform.size, 3), dtype=torch.uint8),
            positions=torch.empty((0, self.clip.frames), dtype=torch.int64),
            corners=torch.empty((0, 2), dtype=torch.int64),
            size=self.transform.size,
            label=-1 if label is None else label,
            index=index,
            status=status,
            reason=reason,
            start=(),
            end=(),
        )

    def _decode(self, index: int) -> Decoded:
        def starts(duration: float, span: float) -> Sequence[float]:
            return uniform_starts(clips=self.clips, duration=duration, span=span)

        file = listed_file(self.manifest, index)
        if self.transform.frame.scaling == "rgb":
            return decode_union(file, self.clip, starts, whole_frames, finish=self.transform.scaled, index=self.index)
        return decode_union(file, self.clip, starts, self.transform.framing, index=self.index)

    def _item(self, index: int, decoded: Decoded) -> ViewItem:
        frames_UCHW, sampled = decoded.frames[0], decoded.sampled
        item = self.blank(index, decoded.status, decoded.reason)
        return {
            **item,
            "frames": frames_UCHW.permute(0, 2, 3, 1).contiguous(),
            "positions": torch.from_numpy(decoded.positions_KT),
            "corners": torch.tensor(self.transform.corners(decoded.size)),
            "start": sampled.start,
            "end": sampled.end,
        }


def collate_views(items: Sequence[ViewItem]) -> dict[str, Any]:
    """frames, positions, corners: lists of tensors, one per video; counts int64: views of each, 0 if unreadable.

    label, index: int64 tensors; size, status, reason, start, end: lists.
    """
    columns = {name: [item[name] for item in items] for name in ViewItem.__annotations__}  # type: ignore[literal-required]
    counts = [len(item["positions"]) * len(item["corners"]) for item in items]
    numbers = {name: torch.tensor(columns[name]) for name in ("label", "index")}
    return {**columns, **numbers, "counts": torch.tensor(counts)}


def views_of(batch: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Each view of a collated batch as uint8 (T, H, W, C), video after video, in (clip, crop) order.

    Where its frames are evenly spaced it is a view in torch's sense too: nothing is copied.
    """
    for frames_UHWC, positions_KT, corners_N2, (height, width) in zip(
        batch["frames"], batch["positions"], batch["corners"], batch["size"], strict=True
    ):
        for positions_T in positions_KT:
            clip_THWC = _chosen(frames_UHWC, positions_T.tolist())
            for top, left in corners_N2.tolist():
                yield clip_THWC[:, top : top + height, left : left + width]


def _chosen(frames_UHWC: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """The frames at these positions; a slice where they ascend evenly."""
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and positions == list(range(positions[0], positions[-1] + 1, step)):
        return frames_UHWC[positions[0] : positions[-1] + 1 : step]
    return frames_UHWC[positions]
