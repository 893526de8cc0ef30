"""Test items: all fixed views of each video, clips in time by crops in space; nothing is random.

The frames of a video are decoded, scaled and sent once for all its views: a view is cut out of them only when it is
used, on the device. A placement decides how many clips a video has and where they start; videos may differ in it.

C channels, T frames of a clip, H height, W width, U frames of a video, K clips, N crops, V = K x N views.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict

import torch
from torch.utils.data import Dataset

from hybridvideo.config.data import ClipConfig
from hybridvideo.data.dataset import Failures
from hybridvideo.data.decode import IndexCache
from hybridvideo.data.decode.frames import Size
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.reading import Decoded, decode_union, full_frames, listed_file
from hybridvideo.data.sampling import Placement
from hybridvideo.data.transforms import ViewTransform
from hybridvideo.errors import VideoError


class ViewItem(TypedDict):
    """A test item.

    `frames`: uint8 (U, H, W, C), each frame once, scaled; U = 0 if nothing could be read. `positions`: int64 (K, T), of
    each clip's frames. `corners`: int64 (N, 2), top and left of each crop. `size`: (height, width) of a crop. `start`,
    `end`: seconds from the first frame, one per clip.
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
    """All views of each video, the clips of one in the order of their starts.

    placement: where the clips of a video start; a function that can be pickled, such as
    `functools.partial(uniform_starts, clips=4)`. index: what is known about the files. quarantine: videos that are not
    opened, by index.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: ClipConfig,
        transform: ViewTransform,
        placement: Placement,
        *,
        index: IndexCache | None = None,
        quarantine: Failures | None = None,
    ) -> None:
        self.manifest, self.clip, self.transform, self.placement = manifest, clip, transform, placement
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
        """The item of a video without views."""
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
        transform = self.transform
        decode = partial(decode_union, listed_file(self.manifest, index), self.clip, self.placement, index=self.index)
        if transform.frame.scaling == "rgb":
            return decode(full_frames, finish=transform.scaled)
        return decode(transform.framing)

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


# ---- batches


class ViewBatch(TypedDict):
    """A batch of B videos: lists of B, as in ViewItem; `label`, `index`: int64 (B,).

    `counts`: int64 (B,), views of each video, 0 if it is unreadable.
    """

    frames: list[torch.Tensor]
    positions: list[torch.Tensor]
    corners: list[torch.Tensor]
    size: list[Size]
    label: torch.Tensor
    index: torch.Tensor
    status: list[str]
    reason: list[str]
    start: list[tuple[float, ...]]
    end: list[tuple[float, ...]]
    counts: torch.Tensor


def collate_views(items: Sequence[ViewItem]) -> ViewBatch:
    """Return the items as one batch; videos keep their own frame size and number of views."""
    return ViewBatch(
        frames=[item["frames"] for item in items],
        positions=[item["positions"] for item in items],
        corners=[item["corners"] for item in items],
        size=[item["size"] for item in items],
        label=torch.tensor([item["label"] for item in items]),
        index=torch.tensor([item["index"] for item in items]),
        status=[item["status"] for item in items],
        reason=[item["reason"] for item in items],
        start=[item["start"] for item in items],
        end=[item["end"] for item in items],
        counts=torch.tensor([len(item["positions"]) * len(item["corners"]) for item in items]),
    )


def views_of(batch: Mapping[str, Any]) -> Iterator[torch.Tensor]:
    """Yield each view of a ViewBatch as uint8 (T, H, W, C), video after video, in (clip, crop) order.

    If its frames are evenly spaced, it is a view in torch's sense too: nothing is copied.
    """
    for frames_UHWC, positions_KT, corners_N2, (height, width) in zip(
        batch["frames"], batch["positions"], batch["corners"], batch["size"], strict=True
    ):
        for positions_T in positions_KT:
            clip_THWC = _chosen(frames_UHWC, positions_T.tolist())
            for top, left in corners_N2.tolist():
                yield clip_THWC[:, top : top + height, left : left + width]


def _chosen(frames_UHWC: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """The frames at these positions; a slice if they ascend evenly."""
    step = positions[1] - positions[0] if len(positions) > 1 else 1
    if step > 0 and positions == list(range(positions[0], positions[-1] + 1, step)):
        return frames_UHWC[positions[0] : positions[-1] + 1 : step]
    return frames_UHWC[positions]
