"""The cost of workers that can be killed: `python tools/bench_workers.py --video FILE`.

The same batches of decoded clips from torch's DataLoader and from this project's Loader, in alternating epochs, with
the same number of workers and an equivalent collate; the batches are compared once. Prints the ratio of their times.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, default_collate

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.loader import EpochOrder, train_loader
from hybridvideo.data.manifest import Manifest, Row
from hybridvideo.data.processes.worker import keep_memory
from hybridvideo.data.transforms import TrainTransform

BAR = 0.98  # batches per second, relative to DataLoader's


def collate(items: Sequence[Any]) -> dict[str, Any]:
    """Like dataset.collate_clips, by torch's own means: straight into shared memory, channels last."""
    clips_BTHWC = default_collate([item["clip"].permute(1, 2, 3, 0) for item in items])
    numbers = {name: torch.tensor([item[name] for item in items]) for name in ("contrast", "label", "index", "ok")}
    return {"clip": clips_BTHWC.permute(0, 4, 1, 2, 3), **numbers}


def prepare(worker: int) -> None:
    """Do what this project's workers do."""
    torch.set_num_threads(1)
    keep_memory()


def seconds(loader: Iterable[Any]) -> float:
    """Time one epoch, touching every batch."""
    start = time.perf_counter()
    for batch in loader:
        int(batch["clip"][:, :, ::4].sum())
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=96, help="per epoch")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    rows = tuple(Row(str(arguments.video.absolute()), 0) for _ in range(arguments.clips))
    transform = TrainTransform(FrameConfig(), AugmentConfig())
    dataset = ClipDataset(Manifest(rows, ("any",), Path()), ClipConfig(arguments.frames, stride=2), transform, seed=0)
    order = EpochOrder(len(dataset), 0, batch_size=arguments.batch_size)
    theirs = DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        num_workers=arguments.workers,
        persistent_workers=True,
        multiprocessing_context="forkserver",
        worker_init_fn=prepare,
    )
    with train_loader(dataset, order, workers=arguments.workers) as ours:
        for own, other in zip(ours, theirs, strict=True):
            assert torch.equal(own["clip"], other["clip"]), "the batches of the two differ"
        ratios = []
        for turn in range(arguments.rounds):
            pair = [seconds(loader) for loader in ((theirs, ours) if turn % 2 else (ours, theirs))]
            ratios.append(pair[0] / pair[1] if turn % 2 else pair[1] / pair[0])
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"batches per second, ours over DataLoader's: {middle:.3f} ({low:.3f} to {high:.3f}), {len(ratios)} rounds")
    print(f"bar {BAR}: {'met' if middle >= BAR else 'MISSED'}")
    return 0 if middle >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
