"""Training items: a random clip of each video, or several from one pass over its file.

An item depends on its file and on (seed, epoch, index) alone. A video that cannot be read is an item whose status
and reason describe the fault: no other video takes its place, and no exception is raised for it.

C channels, T frames of a clip, H height, W width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

import torch
from torch.utils.data import Dataset

from hybridvideo.config.data import ClipConfig
from hybridvideo.data.decode import IndexCache
from hybridvideo.data.decode.frames import Framing, Size, full_frames
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.processes import transport
from hybridvideo.data.reading import Decoded, decode_clips, listed_file
from hybridvideo.data.sampling import STARTS, hash_seed
from hybridvideo.data.stages import stage
from hybridvideo.data.transforms import Planner, TrainTransform
from hybridvideo.errors import VideoError

PADDING = -1  # index of an item that only fills the share of a process without a sample

Failures = Mapping[int, tuple[str, str]]  # index -> (status, reason) of videos that must not be opened


class ClipItem(TypedDict):
    """A training item. `clip`: uint8 (C, T, H, W), in memory (T, H, W, C), zeros if not `ok`.

    `label`, `index`: -1 for none. `contrast`: factor for the clip once it is normalised, on the device. `padded`: share
    of its frames that lie after the end of the video.
    """

    clip: torch.Tensor
    contrast: float
    padded: float
    label: int
    index: int
    ok: bool
    status: str
    reason: str


def sample_generator(seed: int, epoch: int, index: int, *repeat: int) -> torch.Generator:
    """Return one sample's generator, on the CPU; neighbouring seeds, epochs, indices and repeats are unrelated."""
    return torch.Generator().manual_seed(hash_seed(seed, epoch, index, *repeat))


def uniform(generator: torch.Generator) -> float:
    """Return a number in [0, 1)."""
    return float(torch.rand((), generator=generator, dtype=torch.float64))


class Draws:
    """Everything random about one clip: its start, its contrast, how its frames are cropped."""

    def __init__(self, generator: torch.Generator, transform: TrainTransform) -> None:
        self.start = uniform(generator)
        choices = transform.augment.contrast
        self.contrast = choices[int(uniform(generator) * len(choices))]
        state = generator.get_state()
        self.flipped = bool(torch.rand((), generator=generator) < transform.augment.flip)
        generator.set_state(state)  # the planner draws it again
        self.plan: Planner = transform.planner(generator)

    def framing(self, size: Size) -> Framing:
        """Return what the decoder does with frames of this size."""
        return self.plan(size).framing


class ClipDataset(Dataset[ClipItem | list[ClipItem]]):
    """Clips of each video, chosen and transformed in ways that (seed, epoch, index) determines.

    Keys are (epoch, index), as from `loader.EpochOrder`; with `augment.repeats` above 1 an item is a list of that many.
    Index PADDING is an item of status "padding", which like an unreadable video is not `ok`: it has weight 0 in the
    loss. bad: as in `DataConfig`. index: what is known about the files. quarantine: videos that are not opened, by
    index, with status and reason.
    """

    def __init__(
        self,
        manifest: Manifest,
        clip: ClipConfig,
        transform: TrainTransform,
        seed: int,
        *,
        bad: Literal["retry", "skip", "fail"] = "retry",
        index: IndexCache | None = None,
        quarantine: Failures | None = None,
    ) -> None:
        self.manifest, self.clip, self.transform, self.seed = manifest, clip, transform, seed
        self.bad, self.index = bad, index or IndexCache()
        self.quarantine = dict(quarantine or {})

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, key: tuple[int, int]) -> ClipItem | list[ClipItem]:
        epoch, index = key
        if index == PADDING:
            return self.blank(key, "padding", "fills an empty share of the last batch")
        if index in self.quarantine:
            return self.blank(key, *self.quarantine[index])
        draws = [self.draws(epoch, index, repeat) for repeat in range(self.transform.augment.repeats)]
        try:
            decoded = self._decode(index, draws)
        except VideoError as error:
            return self.blank(key, error.status, error.reason)
        items = [self._item(index, decoded, place, draw) for place, draw in enumerate(draws)]
        return items if len(items) > 1 else items[0]

    def draws(self, epoch: int, index: int, repeat: int = 0) -> Draws:
        """Return the random choices for one clip."""
        more = (repeat,) if repeat else ()
        return Draws(sample_generator(self.seed, epoch, index, *more), self.transform)

    def variant(self, epoch: int, index: int) -> tuple[bool, float]:
        """Return whether this sample is flipped in this epoch, and its contrast."""
        draws = self.draws(epoch, index)
        return draws.flipped, draws.contrast

    def blank(self, key: tuple[int, int], status: str, reason: str) -> ClipItem | list[ClipItem]:
        """Return black items in place of those of `key`, with the shapes and types of good ones."""
        repeats = self.transform.augment.repeats
        items = [self._labelled(key[1], status, reason) for _ in range(repeats)]
        return items if repeats > 1 else items[0]

    def _decode(self, index: int, draws: list[Draws]) -> Decoded:
        start = STARTS[self.clip.train_start]
        inside = self.transform.frame.scaling == "decoder"

        def placement(duration: float, span: float) -> list[float]:
            return [start(duration=duration, span=span, draw=draw.start) for draw in draws]

        return decode_clips(
            listed_file(self.manifest, index),
            self.clip,
            placement,
            [draw.framing if inside else full_frames for draw in draws],
            index=self.index,
            exact=not inside,
            retry=self.bad == "retry",
        )

    def _item(self, index: int, decoded: Decoded, place: int, draw: Draws) -> ClipItem:
        plan, frames_TCHW = draw.plan(decoded.size), decoded.frames[place]
        inside = self.transform.frame.scaling == "decoder"
        with stage("transform"):
            clip_TCHW = plan.finished(frames_TCHW) if inside else plan.on_rgb(frames_TCHW)
            clip = clip_TCHW.contiguous(memory_format=torch.channels_last).transpose(0, 1)
        item = self._labelled(index, decoded.status, decoded.reason, clip)
        return {**item, "contrast": draw.contrast, "padded": decoded.sampled.padded[place], "ok": True}

    def _labelled(self, index: int, status: str, reason: str, clip: torch.Tensor | None = None) -> ClipItem:
        """An item with its label, and not `ok`."""
        if clip is None:
            clip = torch.zeros((self.clip.frames, *self.transform.size, 3), dtype=torch.uint8).permute(3, 0, 1, 2)
        label = None if index == PADDING else self.manifest.rows[index].label
        return ClipItem(
            clip=clip,
            contrast=1.0,
            padded=0.0,
            label=-1 if label is None else label,
            index=index,
            ok=False,
            status=status,
            reason=reason,
        )


# ---- batches


class ClipBatch(TypedDict):
    """A batch of B clips; a sample of several clips counts as that many.

    `clip`: uint8 (B, C, T, H, W), in memory (B, T, H, W, C). `contrast`: float (B,). `label`, `index`: int64 (B,).
    `ok`: bool (B,). `padded`, `status`, `reason`: lists of B.
    """

    clip: torch.Tensor
    contrast: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    ok: torch.Tensor
    padded: list[float]
    status: list[str]
    reason: list[str]


def collate_clips(samples: Sequence[ClipItem | list[ClipItem]]) -> ClipBatch:
    """Return the items as one batch; in a worker its clips lie in memory that other processes can share."""
    items = [item for sample in samples for item in (sample if isinstance(sample, list) else [sample])]
    clips_THWC = [item["clip"].permute(1, 2, 3, 0) for item in items]
    clip_BTHWC = transport.new_tensor((len(items), *clips_THWC[0].shape), torch.uint8)
    return ClipBatch(
        clip=torch.stack(clips_THWC, out=clip_BTHWC).permute(0, 4, 1, 2, 3),
        contrast=torch.tensor([item["contrast"] for item in items]),
        label=torch.tensor([item["label"] for item in items]),
        index=torch.tensor([item["index"] for item in items]),
        ok=torch.tensor([item["ok"] for item in items]),
        padded=[item["padded"] for item in items],
        status=[item["status"] for item in items],
        reason=[item["reason"] for item in items],
    )
