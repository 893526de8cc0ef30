"""Where the batches of a run come from: a feed for each phase, and one for validation.

The loop asks a batch for these facts, whatever else is in it:

    ok      bool (B,)     whether a clip could be read          index   int64 (B,)   its row in the list, -1 for padding
    status  B texts       the result of reading it              reason  B texts      why, if it failed
    padded  B shares, optional: how much of a clip is past the end of its video
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from accelerate import Accelerator
from torch import nn

from hybridvideo.config.jobs import Reading
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.loader import EpochOrder, Loader, train_loader
from hybridvideo.engine.training.frozen import FrozenDataset, frozen_loader
from hybridvideo.engine.training.objective import Batch
from hybridvideo.engine.training.phases import Phase
from hybridvideo.errors import UserError
from hybridvideo.models.contract import AfterFrozen

Data = ClipDataset | FrozenDataset


class Listed(Protocol):
    """A row of a list."""

    @property
    def path(self) -> str: ...


class Whole(nn.Module):
    """A network that is fed as it is, wrapped so that changes to the wrapper leave the network alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Return the network's output."""
        return self.network(*inputs, **named)


@dataclass(frozen=True)
class Feed:
    """Batches of one list, of this process.

    `loader` yields them in `order`; `rows` is the list, by index. `entry` makes of a network what takes these batches.
    """

    order: EpochOrder
    loader: Iterable[Mapping[str, Any]]
    rows: Sequence[Listed]
    entry: Callable[[nn.Module], nn.Module] = Whole

    def batches(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, from number `first`, with their facts in lists on the host."""
        self.order.set_epoch(epoch, first)
        for batch in self.loader:
            yield {**batch, "counts": batch["ok"].tolist(), "members": batch["index"].tolist()}

    def close(self) -> None:
        """End its decoding processes."""
        if isinstance(self.loader, Loader):
            self.loader.close()


class Feeds(Protocol):
    """All feeds of a run, for `fit`."""

    def batches(self, phase: Phase) -> int:
        """Return the number of batches in an epoch. Raises UserError if the phase's batches cannot be made."""

    def training(self, phase: Phase) -> Feed:
        """Return the feed of a phase."""

    def validation(self) -> Feed | None:
        """Return the feed of the validation list, in its order."""


class ListFeeds:
    """Feeds of clips, or of the outputs of a frozen part.

    Args:
        train: phase -> its data set.
        val: the data set of the validation list.
        batch_size: of validation, summed over processes.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        train: Callable[[Phase], Data],
        val: Data | None,
        *,
        seed: int,
        batch_size: int,
        reading: Reading,
    ) -> None:
        self.accelerator, self.train, self.val = accelerator, train, val
        self.seed, self.batch_size, self.reading = seed, batch_size, reading

    def batches(self, phase: Phase) -> int:
        return self.order(self.train(phase), phase.batch_size, shuffle=True).batches

    def training(self, phase: Phase) -> Feed:
        return self.feed(self.train(phase), phase.batch_size, shuffle=True)

    def validation(self) -> Feed | None:
        return self.feed(self.val, self.batch_size, shuffle=False) if self.val is not None else None

    def feed(self, data: Data, batch_size: int, *, shuffle: bool) -> Feed:
        """Return the feed of a data set."""
        order = self.order(data, batch_size, shuffle=shuffle)
        if isinstance(data, FrozenDataset):
            return Feed(order, frozen_loader(data, order), data.clips.manifest.rows, AfterFrozen)  # type: ignore[arg-type]
        loader = train_loader(data, order, workers=self.reading.workers, deadline=self.reading.deadline)
        return Feed(order, loader, data.manifest.rows)

    def order(self, data: Data, batch_size: int, *, shuffle: bool) -> EpochOrder:
        """Return the order of a list for this process."""
        return EpochOrder(
            len(data),
            self.seed,
            batch_size=videos_per_batch(data, batch_size),
            shuffle=shuffle,
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
        )


def videos_per_batch(data: Data, clips: int) -> int:
    """Return how many videos make a batch of repeated clips. Raises UserError if none do."""
    repeats = 1 if isinstance(data, FrozenDataset) else data.transform.augment.repeats
    if clips % repeats:
        raise UserError(f"train.batch_size {clips} is not a multiple of augment.repeats {repeats}; give one that is")
    return clips // repeats


class Timed:
    """An iterator that adds up how long its consumer waited."""

    def __init__(self, items: Iterator[Batch]) -> None:
        self.items, self.wait = items, 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        try:
            return next(self.items)
        finally:
            self.wait += time.perf_counter() - start

    def waited(self) -> float:
        """Return the seconds waited since the last call."""
        wait, self.wait = self.wait, 0.0
        return wait
