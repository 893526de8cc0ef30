"""Items in batches: a resumable epoch order, worker processes, uint8 over the bus, normalised on the device.

The order of an epoch is a permutation from (seed, epoch). Global batch b is order[b * B : (b + 1) * B]; each
of the processes takes its contiguous share, so that any number of them sees the same batches:

    order     7 2 9 4 | 0 8 1 3 | 6 5        B = 4, 10 samples, the last batch is short and is kept
    rank 0    7 2     | 0 8     | 6
    rank 1        9 4 |     1 3 |   5        a share without a sample holds one item of padding, weight 0

B clips of a batch, N videos of a batch, V views of all of them, C channels, T frames, H height, W width.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler, default_collate

from hybridvideo.config import Normalisation
from hybridvideo.data.dataset import PADDING, ClipDataset, ClipItem, ViewDataset, ViewItem
from hybridvideo.data.sampling import hash_seed
from hybridvideo.errors import EnvironmentFault, UserError

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


# ---- collating


def collate_clips(items: Sequence[ClipItem]) -> Batch:
    """clip uint8 (B, C, T, H, W); contrast float (B,); label, index int64 (B,); ok bool (B,); status, reason: lists."""
    return {
        "clip": default_collate([item["clip"] for item in items]),  # in a worker: straight into shared memory
        "contrast": torch.tensor([item["contrast"] for item in items]),
        "label": torch.tensor([item["label"] for item in items]),
        "index": torch.tensor([item["index"] for item in items]),
        "ok": torch.tensor([item["ok"] for item in items]),
        "status": [item["status"] for item in items],
        "reason": [item["reason"] for item in items],
    }


def collate_views(items: Sequence[ViewItem]) -> Batch:
    """views uint8 (V, C, T, H, W), video after video; counts int64 (N,): views of each, 0 if unreadable.

    label, index int64 (N,); status, reason: lists of N strings; start, end: lists of N tuples of seconds.
    """
    views = [view for item in items for view in item["views"]]
    return {
        "views": default_collate(views) if views else items[0]["views"],
        "counts": torch.tensor([len(item["views"]) for item in items]),
        "label": torch.tensor([item["label"] for item in items]),
        "index": torch.tensor([item["index"] for item in items]),
        "status": [item["status"] for item in items],
        "reason": [item["reason"] for item in items],
        "start": [item["start"] for item in items],
        "end": [item["end"] for item in items],
    }


# ---- workers


def train_loader(
    dataset: ClipDataset, order: EpochOrder, *, workers: int = 2, pin_memory: bool = False
) -> DataLoader[Any]:
    """Batches of `collate_clips` in the order's order; call `order.set_epoch` before each iteration.

    Workers stay alive from epoch to epoch.
    """
    options = _worker_options(workers, pin_memory)
    return DataLoader(dataset, batch_sampler=order, collate_fn=collate_clips, **options)


def view_loader(
    dataset: ViewDataset,
    *,
    batch_videos: int = 1,
    workers: int = 2,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> DataLoader[Any]:
    """Batches of `collate_views`: process `rank` gets videos rank, rank + world, ..., each exactly once."""
    share = range(rank, len(dataset), world)
    options = _worker_options(workers, pin_memory)
    return DataLoader(dataset, batch_videos, sampler=share, collate_fn=collate_views, **options)


def _worker_options(workers: int, pin_memory: bool) -> dict[str, Any]:
    if workers == 0:
        return {"num_workers": 0, "pin_memory": pin_memory}
    return {
        "num_workers": workers,
        "pin_memory": pin_memory,
        "persistent_workers": True,
        "multiprocessing_context": _context(),
        "worker_init_fn": _prepare_worker,
    }


def _context() -> BaseContext:
    """How workers start: from a clean server process that has imported this package once.

    A fork of the training process would copy locks held by its threads (BLAS, trackers, CUDA); a fresh
    interpreter for each worker would import torch again.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _prepare_worker(worker: int) -> None:
    """In each worker: one thread; deaf to Ctrl-C, since the main process decides when workers stop."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _worker_failures() -> Iterator[None]:
    """Turns the death of a worker process into one EnvironmentFault that says what to look at.

    torch says "DataLoader worker ... exited"; a batch that the dead worker had still announced ends in a broken
    connection. What a worker raised itself arrives as "Caught ..." and passes through.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
        died = what.startswith("DataLoader worker") or not isinstance(error, RuntimeError)
        if not died or what.startswith("Caught "):
            raise
        raise EnvironmentFault(
            f"a decoding process died ({what}); it may have run out of memory or of shared memory (/dev/shm), "
            "or a video crashed the decoder: lower data.workers, or set it to 0 to see where"
        ) from error


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
    """The loader's batches with their tensors on `device`; on CUDA the next batch is copied ahead of its use.

    Raises EnvironmentFault where a worker process died.
    """
    with _worker_failures():
        if device.type == "cuda":
            yield from _copied_ahead(loader, device)
        else:
            for batch in loader:
                yield _moved(batch, device)


def _moved(batch: Mapping[str, Any], device: torch.device) -> Batch:
    ahead = device.type == "cuda"
    return {
        name: value.to(device, non_blocking=ahead) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
    }


def _copied_ahead(loader: Iterable[Mapping[str, Any]], device: torch.device) -> Iterator[Batch]:
    """One batch ahead on a stream of its own, so that copying runs beside computing."""
    stream = torch.cuda.Stream(device)
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in loader:
        with torch.cuda.stream(stream):
            copied = _moved(batch, device), stream.record_event()
        if waiting is not None:
            yield _arrived(*waiting)
        waiting = copied
    if waiting is not None:
        yield _arrived(*waiting)


def _arrived(batch: Batch, copied: torch.cuda.Event) -> Batch:
    """The batch, once the computing stream may read it."""
    computing = torch.cuda.current_stream()
    computing.wait_event(copied)
    for value in batch.values():
        if isinstance(value, torch.Tensor):
            value.record_stream(computing)  # its memory is not given away while computing still reads it
    return batch
