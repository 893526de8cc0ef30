"""Clips for your own training loop: `hv.dataset` and `hv.loader`.

    clips = hv.dataset("videos/train", frames=16, size=112, stride=2, train=True)
    loader = hv.loader(clips, batch_size=8, workers=4, normalise=model)
    for epoch in range(10):
        for batch in loader:
            logits = model(batch["clip"])

C channels (RGB), T frames of a clip, H height, W width, B clips of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypedDict

import torch
from torch.utils.data import Dataset

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig, Normalisation
from hybridvideo.config.jobs import Reading
from hybridvideo.data import loader as loading
from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.dataset import ClipBatch, ClipDataset
from hybridvideo.data.device import device_batches, normalise
from hybridvideo.data.manifest import Manifest, Names, Row, read_manifest
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.errors import UserError

Source = str | Path | Iterable[str | Path] | Manifest


class Clip(TypedDict):
    """An item of `hv.dataset`; torch's `default_collate` makes batches of it.

    `clip`: uint8 RGB (C, T, H, W), zeros if not `ok`. `label`: index into `classes`, -1 for none. `index`: of the
    video. `ok`: whether the clip shows the video. `status`: "ok", "partial" (a readable part was used) or why nothing
    could be read. `reason`: one line.
    """

    clip: torch.Tensor
    label: int
    index: int
    ok: bool
    status: str
    reason: str
    path: str


class ClipsOfVideos(Dataset[Clip]):
    """One clip of each video, made by `hv.dataset`. It can be pickled and used with torch's DataLoader."""

    def __init__(self, clips: ClipDataset, train: bool) -> None:
        self.clips, self.train = clips, train
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by the workers of a DataLoader

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the labels; empty for videos without labels."""
        return self.clips.manifest.labels

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw other clips and crops from now on; the same ones whenever `epoch` is the same."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, index: int) -> Clip:
        place = range(len(self))[index]  # negative ones count from the end; IndexError for others
        item = self.clips[self.epoch, place]
        assert not isinstance(item, list)
        return Clip(
            clip=item["clip"],
            label=item["label"],
            index=place,
            ok=item["ok"],
            status=item["status"],
            reason=item["reason"],
            path=self.clips.manifest.rows[place].path,
        )


def dataset(
    source: Source,
    *,
    frames: int = 16,
    size: int | tuple[int, int] = 224,
    interval: float | None = None,
    stride: int | None = None,
    train: bool = False,
    augment: AugmentConfig | None = None,
    seed: int = 0,
    labelled: bool = True,
    labels: Names | None = None,
    root: str | Path | None = None,
    quarantine: str | None = None,
) -> ClipsOfVideos:
    """Make a data set of one clip per video of a folder or list, for your own training loop.

    Args:
        source: a folder with one folder per class, a list file (CSV, Parquet, `path label` lines), or, without labels,
            several paths.
        frames: T, frames of a clip. A shorter video repeats its last one.
        size: of the frames in pixels, the side of a square or (H, W).
        interval: seconds between frames.
        stride: frames between frames, instead of `interval`; default: every frame.
        train: a random clip and crop of each video, another one in each epoch, determined by (seed, epoch, index)
            alone. Otherwise the clip and crop in the middle, always the same.
        augment: what is random in training, `hybridvideo.config.AugmentConfig`; default: resized crop, random flip.
        labelled: False for videos without labels.
        labels: names of the classes in order; default: sorted.
        root: where relative paths start; default: the folder of the list.
        quarantine: table of a scan; what it found unusable is not opened.

    Returns:
        A map-style data set: `dataset[i]` is a `Clip`, uint8 (C, T, H, W). A video that cannot be read is an item that
        is not `ok` and has a reason; no other video takes its place, and no exception is raised.

    Raises:
        UserError: for a wrong list or setting.
    """
    manifest = _manifest(source, labelled, labels, root)
    height, width = (size, size) if isinstance(size, int) else size
    chosen = augment or AugmentConfig() if train else AugmentConfig(crop="none", flip=0.0)
    if chosen.repeats > 1 or chosen.mixup or chosen.cutmix:
        raise UserError("hv.dataset has one unmixed clip per video; leave out augment.repeats, mixup and cutmix")
    clip = ClipConfig(frames, interval, stride, "random" if train else "centre")
    transform = TrainTransform(FrameConfig(height, width), chosen)
    clips = ClipDataset(manifest, clip, transform, seed, quarantine=quarantined(quarantine, manifest))
    return ClipsOfVideos(clips, train)


def _manifest(source: Source, labelled: bool, labels: Names | None, root: str | Path | None) -> Manifest:
    if isinstance(source, Manifest):
        return source
    if isinstance(source, str | Path):
        return read_manifest(source, root=root, labels=labels, labelled=labelled)
    rows = tuple(Row(str(path)) for path in source)
    return Manifest(rows, (), Path(root or ""), confined=False)


class Batch(TypedDict):
    """What `hv.loader` yields, for B clips.

    `clip`: (B, C, T, H, W), uint8 or normalised float32, black where not `ok`: leave those out of the loss. `label`,
    `index`: int64 (B,). `ok`: bool (B,). `padded`: share of the frames that lie after the end of the video. `padded`,
    `status`, `reason`, `path`: lists of B.
    """

    clip: torch.Tensor
    label: torch.Tensor
    index: torch.Tensor
    ok: torch.Tensor
    padded: list[float]
    status: list[str]
    reason: list[str]
    path: list[str]


class Normalised(Protocol):
    """Anything that knows the normalisation of its input, as every model does."""

    @property
    def normalisation(self) -> Normalisation: ...


class ClipLoader:
    """Batches of a dataset, in an order that changes from epoch to epoch; made by `hv.loader`."""

    def __init__(
        self,
        dataset: ClipsOfVideos,
        loader: loading.Loader[ClipBatch],
        order: loading.EpochOrder,
        device: torch.device,
        normalisation: Normalisation | None,
    ) -> None:
        self.dataset, self.device, self.normalisation = dataset, device, normalisation
        self._loader, self._order, self._next_epoch = loader, order, 0

    def set_epoch(self, epoch: int) -> None:
        """Iterate over this epoch next; without it, each iteration moves on to the next epoch."""
        self._next_epoch = epoch

    def __len__(self) -> int:
        return self._order.batches

    def __iter__(self) -> Iterator[Batch]:
        self._order.set_epoch(self._next_epoch)
        self._next_epoch += 1
        return map(self._finished, device_batches(self._loader, self.device))

    def _finished(self, batch: ClipBatch) -> Batch:
        clip, rows = batch["clip"], self.dataset.clips.manifest.rows
        if self.normalisation is not None:
            clip = normalise(clip, self.normalisation, batch["contrast"])
        paths = [rows[index].path if index >= 0 else "" for index in batch["index"].tolist()]
        return Batch(
            clip=clip,
            label=batch["label"],
            index=batch["index"],
            ok=batch["ok"],
            padded=batch["padded"],
            status=batch["status"],
            reason=batch["reason"],
            path=paths,
        )

    def close(self) -> None:
        """End the workers; the next iteration starts new ones. They also end with the loader."""
        self._loader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def loader(
    dataset: ClipsOfVideos,
    *,
    batch_size: int = 8,
    workers: int = Reading.workers,
    shuffle: bool | None = None,
    normalise: Normalisation | Normalised | None = None,
    device: str | torch.device = "cpu",
    deadline: float = Reading.deadline,
    rank: int = 0,
    world: int = 1,
) -> ClipLoader:
    """Make batches of clips, decoded by worker processes that no video can hang or kill; one epoch per iteration.

    Args:
        dataset: from `hv.dataset`.
        batch_size: clips of a batch, of all `world` processes together; the last batch of an epoch may be smaller.
        workers: decoding processes; 0 decodes in this one.
        shuffle: use another order in each epoch; default: if the data set is for training.
        normalise: a model, or `hybridvideo.config.Normalisation`: clips are then float32, (x / 255 - mean) / std, as
            the model takes them. Default: uint8, 0 to 255.
        device: where the tensors go.
        deadline: seconds for one video; one that hangs or kills its worker twice is not `ok`, with status "timeout" or
            "crashed".
        rank, world: this process gets its share of each batch. A share without a video is one item of index -1 that is
            not `ok`.

    Yields:
        `Batch`: a dict of `clip` (B, C, T, H, W), `label`, `index` and `ok` (B,), and lists of B.

    Raises:
        UserError: for a wrong setting. EnvironmentFault: if workers cannot work.
    """
    if workers < 0:
        raise UserError(f"workers is {workers}; give 0 or more")
    seed = dataset.clips.seed
    shuffled = dataset.train if shuffle is None else shuffle
    order = loading.EpochOrder(len(dataset), seed, batch_size=batch_size, rank=rank, world=world, shuffle=shuffled)
    target = torch.device(device)
    batches = loading.train_loader(dataset.clips, order, workers=workers, deadline=deadline)
    statistics = normalise if normalise is None or isinstance(normalise, Normalisation) else normalise.normalisation
    return ClipLoader(dataset, batches, order, target, statistics)
