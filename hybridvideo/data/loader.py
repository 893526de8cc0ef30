"""Items in batches: a resumable order of epochs, and processes that read them.

The order of an epoch is a permutation that follows from (seed, epoch). Global batch b is order[b * B : (b + 1) * B].
Each process takes a contiguous share of it, so that any number of processes sees the same batches:

    order     7 2 9 4 | 0 8 1 3 | 6 5        B = 4, 10 samples; the last batch is short and is kept
    rank 0    7 2     | 0 8     | 6
    rank 1        9 4 |     1 3 |   5        a share without a sample holds one item of padding, of weight 0

A file that hangs or kills its decoder costs only its own place in the batch (processes/workers.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast

import torch
from torch.utils.data import Sampler

from hybridvideo.config.jobs import Reading
from hybridvideo.data.dataset import PADDING, ClipBatch, ClipDataset, collate_clips
from hybridvideo.data.processes.workers import Lost, Workers
from hybridvideo.data.sampling import hash_seed
from hybridvideo.data.views import ViewBatch, ViewDataset, collate_views
from hybridvideo.errors import UserError

B = TypeVar("B", bound=Mapping[str, Any])  # a batch


# ---- order


class EpochOrder(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) for one process; `set_epoch` moves to another epoch, or into the middle of one.

    Args:
        batch_size: samples of a batch, of all `world` processes together.
        start_batch: batches of the first epoch to leave out.

    Index PADDING fills a share without a sample. Raises UserError if the batch cannot be split evenly or there is no
    sample.
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
            raise UserError("there is nothing to load; give a list with at least one video")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; give 1 or more")
        if batch_size % world:
            raise UserError(
                f"train.batch_size {batch_size} cannot be split among {world} processes; give a multiple of {world}"
            )
        assert 0 <= rank < world, (rank, world)
        self.num_samples, self.seed, self.batch_size = num_samples, seed, batch_size
        self.rank, self.world, self.shuffle = rank, world, shuffle
        self.set_epoch(epoch, start_batch)

    @property
    def batches(self) -> int:
        """Batches of a complete epoch."""
        return -(-self.num_samples // self.batch_size)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Iterate over `epoch` next, without its first `start_batch` batches."""
        assert 0 <= start_batch <= self.batches, (start_batch, self.batches)
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        return self.batches - self.start_batch

    def indices(self) -> list[int]:
        """The order of the complete epoch, of all processes together."""
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


@dataclass(frozen=True)
class _Items(Generic[B]):
    """`workers.Work` of a data set. A key is an index or (epoch, index); a lost item is lost in every epoch."""

    dataset: ClipDataset | ViewDataset
    collate: Callable[[Any], B]

    def item(self, key: Any) -> Any:
        return self.dataset[key]

    def lost(self, key: Any, lost: Lost) -> Any:
        return self.dataset.blank(key, lost.status, lost.reason)

    def batch(self, items: list[Any]) -> B:
        return self.collate(items)

    def identity(self, key: Any) -> Hashable:
        return cast(Hashable, key[1] if isinstance(key, tuple) else key)


class Loader(Generic[B]):
    """Batches of a data set, in an order that is read again at each iteration; workers stay alive until `close`.

    workers=0 reads in this process, which nothing then protects from a file that hangs or kills.
    """

    def __init__(
        self,
        dataset: ClipDataset | ViewDataset,
        order: EpochOrder | Iterable[Sequence[Any]],
        collate: Callable[[Any], B],
        *,
        workers: int,
        deadline: float,
    ) -> None:
        self.dataset, self.order = dataset, order
        self._work = _Items(dataset, collate)
        self._workers = Workers(self._work, workers, deadline=deadline) if workers else None

    def __len__(self) -> int:
        assert isinstance(self.order, Sized), "an order that is taken as it comes has no length"
        return len(self.order)

    def __iter__(self) -> Iterator[B]:
        return self._workers.run(self.order) if self._workers else map(self._read_here, self.order)

    def _read_here(self, keys: Sequence[Any]) -> B:
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
    dataset: ClipDataset,
    order: EpochOrder | Sequence[Sequence[tuple[int, int]]],
    *,
    workers: int = Reading.workers,
    deadline: float = Reading.deadline,
) -> Loader[ClipBatch]:
    """Batches of clips in the order's order; call `order.set_epoch` before each iteration.

    deadline: seconds for one video. One that hangs or kills its worker twice becomes an item of status "timeout" or
    "crashed" for the rest of this loader's life.
    """
    return Loader(dataset, order, collate_clips, workers=workers, deadline=deadline)


def view_loader(
    dataset: ViewDataset,
    *,
    batch_videos: int = 1,
    workers: int = Reading.workers,
    rank: int = 0,
    world: int = 1,
    deadline: float = Reading.deadline,
    order: Iterable[int] | None = None,
) -> Loader[ViewBatch]:
    """Batches of views: process `rank` gets videos rank, rank + world, ..., each exactly once.

    deadline: as in `train_loader`. order: the videos of this process instead of its share, each taken when a worker is
    free for it; such a loader can be iterated over once.
    """
    share = range(rank, len(dataset), world)
    batches = list(_batched(share, batch_videos)) if order is None else _batched(order, batch_videos)
    return Loader(dataset, batches, collate_views, workers=workers, deadline=deadline)


def _batched(order: Iterable[int], size: int) -> Iterator[list[int]]:
    waiting = iter(order)
    while batch := list(itertools.islice(waiting, size)):
        yield batch
