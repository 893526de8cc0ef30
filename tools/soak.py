"""Does loading leak? `python tools/soak.py --videos ../shared/data/clips ../shared/data/surv_fight`.

Training clips are read again and again, with two workers, from videos of every kind; some are truncated, have holes,
contain no video or do not exist. Prints resident memory of the loader's process and its workers, open descriptors and
processes on the way; at the end the growth since warm-up, and what is left after closing.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.loader import EpochOrder, train_loader
from hybridvideo.data.manifest import Manifest, Row, videos_under
from hybridvideo.data.processes.worker import keep_memory
from hybridvideo.data.transforms import TrainTransform

MOST_GROWTH = 0.02  # of resident memory after warm-up
LARGEST = 1_200_000  # bytes of a video: the point is the number of files
SAMPLES = 40  # measurements of memory
WARM_UP = 0.25  # share of the clips


@dataclass(frozen=True)
class Sample:
    """Resident bytes and open descriptors of the loader's process and its descendants, and their number."""

    memory: int
    descriptors: int
    processes: int


def measure() -> Sample:
    """Measure now; a process that has just ended does not count."""
    memory = descriptors = processes = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            memory += process.memory_info().rss
            descriptors += process.num_fds()
            processes += 1
        except psutil.NoSuchProcess:
            continue
    return Sample(memory, descriptors, processes)


def corpus(folders: list[Path], extra: Path) -> Manifest:
    """The small videos below some folders, damaged copies of a third of them, and files that are not videos."""
    draw = random.Random(0)
    files = [folder / name for folder in folders for name in videos_under(folder)]
    files = [file.absolute() for file in files if file.stat().st_size <= LARGEST]
    damaged = list(damage(draw.sample(files, len(files) // 3), extra, draw))
    (extra / "text.mp4").write_text("no video\n" * 1000)
    (extra / "empty.mp4").touch()
    others = [extra / "text.mp4", extra / "empty.mp4", extra / "missing.mp4"]
    return Manifest(tuple(Row(str(file), 0) for file in (*files, *damaged, *others)), ("any",), extra)


def damage(files: list[Path], folder: Path, draw: random.Random) -> Iterator[Path]:
    """Yield copies that are truncated or have a hole."""
    for number, file in enumerate(files):
        data = bytearray(file.read_bytes())
        place = draw.randrange(len(data) // 4, len(data))
        if number % 2:
            del data[place:]
        else:
            data[place : place + 3000] = draw.randbytes(3000)
        path = folder / f"{number}{file.suffix}"
        path.write_bytes(data)
        yield path


def batches(dataset: ClipDataset, clips: int, batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield keys of `clips` clips, epoch after epoch."""
    epoch = count = 0
    while count < clips:
        order = EpochOrder(len(dataset), seed=0, batch_size=batch_size, epoch=epoch)
        for keys in order:
            yield keys
            count += len(keys)
        epoch += 1


def soak(dataset: ClipDataset, clips: int, workers: int, batch_size: int) -> tuple[list[Sample], Counter[str]]:
    """Read the clips; return measurements at regular intervals, and how many clips had each status."""
    keys = list(batches(dataset, clips, batch_size))
    samples, statuses, start = [], Counter[str](), time.perf_counter()
    with train_loader(dataset, keys, workers=workers, deadline=60.0) as loader:
        for number, batch in enumerate(loader, start=1):
            statuses.update(batch["status"])
            del batch
            if number % max(1, len(keys) // SAMPLES) == 0:
                samples.append(measure())
                print(line(samples[-1], statuses.total(), time.perf_counter() - start), flush=True)
    return samples, statuses


def line(sample: Sample, clips: int, seconds: float) -> str:
    return (
        f"{clips:6} clips  {sample.memory / 2**20:7.1f} MiB  {sample.descriptors:4} descriptors  "
        f"{sample.processes} processes  {clips / seconds:.0f} clips/s"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, nargs="+", required=True, help="folders of videos")
    parser.add_argument("--clips", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    keep_memory()
    before = measure()
    with tempfile.TemporaryDirectory() as folder:
        manifest = corpus(arguments.videos, Path(folder))
        transform = TrainTransform(FrameConfig(112, 112), AugmentConfig())
        dataset = ClipDataset(manifest, ClipConfig(8, stride=2), transform, seed=0)
        samples, statuses = soak(dataset, arguments.clips, arguments.workers, arguments.batch_size)
    return report(manifest, samples, statuses, before)


def report(manifest: Manifest, samples: list[Sample], statuses: Counter[str], before: Sample) -> int:
    """Print what has grown since warm-up and what is left; return 1 if that is too much."""
    warm = samples[int(len(samples) * WARM_UP) :]
    quarter = max(1, len(warm) // 4)
    early, late = (statistics.median(s.memory for s in part) for part in (warm[:quarter], warm[-quarter:]))
    gc.collect()
    after = measure()
    helpers = [p for p in psutil.Process().children(recursive=True) if "launcher" not in " ".join(p.cmdline())]
    growth = late / early - 1
    print(f"{len(manifest)} files; clips by status: {dict(statuses)}")
    print(f"resident memory after warm-up {early / 2**20:.1f} MiB, at the end {late / 2**20:.1f} MiB: {growth:+.2%}")
    descriptors = f"{own_descriptors()} descriptors, {before.descriptors} before"
    print(f"after closing: {len(helpers)} workers, {os.getpid()} has {descriptors}")
    fits = growth < MOST_GROWTH and not helpers and after.processes <= before.processes + 1
    print(f"bar (less than {MOST_GROWTH:.0%}, nothing left): {'met' if fits else 'MISSED'}")
    return 0 if fits else 1


def own_descriptors() -> int:
    return psutil.Process().num_fds()


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())
