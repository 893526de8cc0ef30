"""Items in batches: a resumable epoch order, worker processes, uint8 over the bus, normalised on the device.

The order of an epoch is a permutation from (seed, epoch). Global batch b is order[b * B : (b + 1) * B]; each
of the processes takes its contiguous share, so that any number of them sees the same batches:

    order     7 2 9 4 | 0 8 1 3 | 6 5        B = 4, 10 samples, the last batch is short and is kept
    rank 0    7 2     | 0 8     | 6
    rank 1        9 4 |     1 3 |   5        a share without a sample holds one item of padding, weight 0

A file that hangs or kills its decoder takes no more than its own place in the batch (workers.py).

B clips of a batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

import torch
from torch.utils.data import Sampler

from hybridvideo.config.data import Normalisation
from hybridvideo.config.jobs import Reading as Reading
from hybridvideo.data.dataset import PADDING, ClipDataset, ClipItem
from hybridvideo.data.processes import transport
from hybridvideo.data.processes.workers import DEADLINE, Lost, Workers
from hybridvideo.data.sampling import hash_seed
from hybridvideo.data.views import ViewDataset, collate_views
from hybridvideo.errors import UserError

Batch = dict[str, Any]


# ---- order


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one process; `set_epoch` moves it on, also to the middle of an epoch.

    batch_size: global, summed over the `world` processes. Index PADDING fills a share without a sample.
    Raises UserError where the batch cannot be split evenly or there is no sample.
    """

    def __init__(
        self,
        num_samples: int,
        seed: int,
        *,
        batch_size: int,
        epoch: int = 0,
        start_batch: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
    ) -> None:
        if num_samples < 1:
            raise UserError("there is no sample to load; give a list with at least one video")
        if batch_size < 1 or batch_size % world:
            raise UserError(
                f"train.batch_size {batch_size} cannot be shared by {world} processes; give a multiple of {world}"
            )
        assert 0 <= rank < world, (rank, world)
        self.num_samples, self.seed, self.batch_size = num_samples, seed, batch_size
        self.rank, self.world, self.shuffle = rank, world, shuffle
        self.set_epoch(epoch, start_batch)

    @property
    def batches(self) -> int:
        """Batches of a whole epoch."""
        return -(-self.num_samples // self.batch_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """The next iteration gives `epoch`, without its first `start_batch` batches."""
        assert 0 <= start_batch <= self.batches, (start_batch, self.batches)
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def indices(self) -> list[int]:
        """The whole epoch's order, of all processes together."""
        if not self.shuffle:
            return list(range(self.num_samples))
        generator = torch.Generator().manual_seed(hash_seed(self.seed, self.epoch))
        order: list[int] = torch.randperm(self.num_samples, generator=generator).tolist()
        return order

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = self.epoch, self.indices()
        for batch in range(self.start_batch, self.batches):
            members = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in self._share(members) or [PADDING]]

    def _share(self, members: Sequence[int]) -> Sequence[int]:
        """This process's contiguous part; parts differ by at most one sample."""
        share, more = divmod(len(members), self.world)
        start = self.rank * share + min(self.rank, more)
        return members[start : start + share + (self.rank < more)]


# ---- batches


def collate_clips(samples: Sequence[ClipItem | list[ClipItem]]) -> Batch:
    """clip uint8 (B, C, T, H, W), in memory (B, T, H, W, C); contrast float, label, index int64, ok bool (B,).

    padded, status, reason: lists of B. A sample of several clips counts as that many.
    """
    items = [item for sample in samples for item in (sample if isinstance(sample, list) else [sample])]
    clips_THWC = [item["clip"].permute(1, 2, 3, 0) for item in items]
    clip_BTHWC = transport.new_tensor((len(items), *clips_THWC[0].shape), torch.uint8)
    return {
        "clip": torch.stack(clips_THWC, out=clip_BTHWC).permute(0, 4, 1, 2, 3),
        "contrast": torch.tensor([item["contrast"] for item in items]),
        "label": torch.tensor([item["label"] for item in items]),
        "index": torch.tensor([item["index"] for item in items]),
        "ok": torch.tensor([item["ok"] for item in items]),
        "padded": [item["padded"] for item in items],
        "status": [item["status"] for item in items],
        "reason": [item["reason"] for item in items],
    }


@dataclass(frozen=True)
class _Items:
    """`workers.Work` of a data set. A key is an index, or (epoch, index): what is lost is lost in every epoch."""

    dataset: ClipDataset | ViewDataset
    collate: Callable[[Any], Batch]

    def item(self, key: Any) -> Any:
        return self.dataset[key]

    def lost(self, key: Any, lost: Lost) -> Any:
        return self.dataset.blank(key, lost.status, lost.reason)

    def batch(self, items: list[Any]) -> Batch:
        return self.collate(items)

    def identity(self, key: Any) -> Hashable:
        return cast(Hashable, key[1] if isinstance(key, tuple) else key)


class Loader:
    """Batches of a data set in an order that is asked for at each iteration; workers stay alive until `close`.

    workers=0 reads in this process, where nothing protects from a file that hangs or kills.
    """

    def __init__(
        self, dataset: ClipDataset | ViewDataset, order: EpochOrder | Iterable[Sequence[Any]],
        collate: Callable[[Any], Batch], *, workers: int, deadline: float, pin_memory: bool,
    ) -> None:  # fmt: skip
        self.dataset, self.order, self.pin_memory = dataset, order, pin_memory
        self._work = _Items(dataset, collate)
        self._workers = Workers(self._work, workers, deadline=deadline) if workers else None

    def __len__(self) -> int:
        assert isinstance(self.order, Sized), "how long an order is that is taken as it comes, nobody knows"
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        batches = self._workers.run(self.order) if self._workers else map(self._read_here, self.order)
        return map(_pinned, batches) if self.pin_memory else batches

    def _read_here(self, keys: Sequence[Any]) -> Batch:
        return self._work.batch([self._work.item(key) for key in keys])

    def close(self) -> None:
        """End the workers; the next iteration starts new ones."""
        if self._workers:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def train_loader(
    dataset: ClipDataset, order: EpochOrder | Sequence[Sequence[tuple[int, int]]], *, workers: int = 2,
    deadline: float = DEADLINE, pin_memory: bool = False,
) -> Loader:  # fmt: skip
    """Batches of `collate_clips` in the order's order; call `order.set_epoch` before each iteration.

    deadline: seconds for one video; one that hangs or kills its worker twice is an item of status timeout or crashed,
    for the rest of this loader's life.
    """
    return Loader(dataset, order, collate_clips, workers=workers, deadline=deadline, pin_memory=pin_memory)


def view_loader(
    dataset: ViewDataset, *, batch_videos: int = 1, workers: int = 2, rank: int = 0, world: int = 1,
    deadline: float = DEADLINE, pin_memory: bool = False, order: Iterable[int] | None = None,
) -> Loader:  # fmt: skip
    """Batches of `collate_views`: process `rank` gets videos rank, rank + world, ..., each exactly once.

    deadline: as in `train_loader`. order: the videos of this process in place of its share, taken one by one when a
    worker is free for them; such a loader is gone through once.
    """
    share = range(rank, len(dataset), world)
    batches = list(_batched(share, batch_videos)) if order is None else _batched(order, batch_videos)
    return Loader(dataset, batches, collate_views, workers=workers, deadline=deadline, pin_memory=pin_memory)


def _batched(order: Iterable[int], size: int) -> Iterator[list[int]]:
    waiting = iter(order)
    while batch := list(itertools.islice(waiting, size)):
        yield batch


# ---- device


def normalise(
    clip_BCTHW: torch.Tensor, normalisation: Normalisation, contrast_B: torch.Tensor | None = None
) -> torch.Tensor:
    """uint8 (B, C, T, H, W) -> float32, (x / 255 - mean) / std [* contrast], on the clip's device; one new tensor."""
    mean = torch.tensor(normalisation.mean, dtype=torch.float64)
    std = torch.tensor(normalisation.std, dtype=torch.float64)
    scale, offset = (
        constant.float().view(-1, 1, 1, 1).to(clip_BCTHW.device, non_blocking=True)
        for constant in (1.0 / (255.0 * std), -mean / std)
    )
    # on a CPU twice as fast as addcmul on uint8
    normalised = clip_BCTHW.to(torch.float32, copy=True).mul_(scale).add_(offset)
    return normalised if contrast_B is None else normalised.mul_(contrast_B.view(-1, 1, 1, 1, 1))


def device_batches(loader: Iterable[Mapping[str, Any]], device: torch.device) -> Iterator[Batch]:
    """The loader's batches with their tensors on `device`; on CUDA the next batch is copied ahead of its use."""
    if device.type == "cuda":
        yield from _copied_ahead(loader, device)
    else:
        for batch in loader:
            yield _moved(batch, device)


def _on_tensors(change: Callable[[torch.Tensor], torch.Tensor], batch: Mapping[str, Any]) -> Batch:
    """The batch with its tensors, and pictures that stand in lists, changed."""

    def changed(value: Any) -> Any:
        if isinstance(value, list) and value and isinstance(value[0], torch.Tensor) and value[0].dtype == torch.uint8:
            return [change(picture) for picture in value]
        return change(value) if isinstance(value, torch.Tensor) else value

    return {name: changed(value) for name, value in batch.items()}


def _pinned(batch: Mapping[str, Any]) -> Batch:
    return _on_tensors(lambda tensor: tensor.pin_memory(), batch)


def _moved(batch: Mapping[str, Any], device: torch.device) -> Batch:
    ahead = device.type == "cuda"
    return _on_tensors(lambda tensor: tensor.to(device, non_blocking=ahead), batch)


def _copied_ahead(loader: Iterable[Mapping[str, Any]], device: torch.device) -> Iterator[Batch]:
    """One batch ahead on a stream of its own, so that copying runs beside computing."""
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in loader:
        with torch.cuda.stream(stream):
            copied = _moved(batch, stream.device), stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting, stream.device)
        waiting = copied
    if waiting is not None:
        yield _arrived(*waiting, stream.device)


def _arrived(batch: Batch, copied: torch.cuda.Event, device: torch.device) -> Batch:
    """The batch, once the stream that computes on its device may read it; the current device may be another."""
    computing = torch.cuda.current_stream(device)
    computing.wait_event(copied)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        tensor.record_stream(computing)  # its memory is not given away while computing still reads it
        return tensor

    return _on_tensors(keep, batch)
