"""`hybridvideo bench loader`: where the time of loading goes, and how many cores are needed to keep a model fed.

Two measurements on the user's own videos. First, one process reads clips and takes the time of each stage: what a clip
costs a core. Then the loader runs with its workers while a model takes batches at a given rate: what counts is the
share of time for which the model waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig, Normalisation
from hybridvideo.config.jobs import Compute, Decoding
from hybridvideo.data.dataset import ClipBatch, ClipDataset, collate_clips
from hybridvideo.data.decode.known import index_beside
from hybridvideo.data.device import device_batches, normalise
from hybridvideo.data.loader import EpochOrder, Loader, train_loader
from hybridvideo.data.processes.worker import keep_memory
from hybridvideo.data.stages import Stage, measured, stage
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.engine.progress import progress
from hybridvideo.engine.training.classification import logits_of
from hybridvideo.errors import TooMuchBadData, UserError
from hybridvideo.files import write_json
from hybridvideo.models import create_model
from hybridvideo.report.environment import cpu_cores, cpu_name
from hybridvideo.tasks.support.job_device import pick_device
from hybridvideo.tasks.support.table_job import read_inputs
from hybridvideo.text import shown

STAGES: dict[Stage, str] = {
    "open": "look into the container, find the times of the frames",
    "decode": "seek, demux, decode",
    "convert": "cut, scale, convert to RGB, turn upright",
    "transform": "what is left to do with a clip: crop, flip",
    "other": "the rest of an item",
    "collate": "make a batch",
    "transfer": "send it to the device",
}
WARM_UP = 2  # batches


@dataclass(frozen=True)
class LoaderBench:
    """Settings of `bench loader`."""

    workers: int = Decoding.workers
    batch_size: int = 8
    clips: int = 128
    """Clips per measurement."""
    rate: float | None = None
    """Clips per second that a model takes; default: all that the loader delivers."""
    model: str | None = None
    """A model to train on the batches, on the device; `rate` is then measured."""
    device: str = Compute.device

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size", "clips"):
            if getattr(self, name) < (name != "workers"):
                raise UserError(f"{name} is {getattr(self, name)}; give {int(name != 'workers')} or more")
        if self.rate is not None and not self.rate > 0:
            raise UserError(f"rate is {self.rate}; give clips per second, above 0")


def bench_loader(
    source: str, bench: LoaderBench, clip: ClipConfig, frame: FrameConfig, augment: AugmentConfig, out: str | None
) -> int:
    """Run the command; return its exit code."""
    device = pick_device(bench.device)
    dataset = ClipDataset(read_inputs(source), clip, TrainTransform(frame, augment), seed=0, index=index_beside(source))
    keep_memory()  # as workers do
    stages, bad = profile(dataset, bench, device)
    show_stages(stages, bad, bench)
    fed = feed(dataset, bench, device)
    per_clip = sum(stages.values())
    show_feeding(fed, per_clip, bench)
    if out is not None:
        facts = {"source": source, "cpu": cpu_name(), "cores": cpu_cores()}
        parts = {"bench": bench, "clip": clip, "frame": frame, "augment": augment}
        settings = {name: asdict(part) for name, part in parts.items()}  # type: ignore[call-overload]
        write_json(Path(out), {**facts, **settings, "stage_ms_per_clip": stages, "unreadable": bad, **asdict(fed)})
        print(shown(f"figures {out}"))
    return 0


# ---- what a clip costs


def profile(dataset: ClipDataset, bench: LoaderBench, device: torch.device) -> tuple[dict[Stage, float], int]:
    """CPU milliseconds per clip by stage, and how many clips could not be read.

    Raises TooMuchBadData if none could.
    """
    batches = chosen(dataset, bench, epoch=0)
    dataset[batches[0][0]]  # what is done only once is not counted
    bad = clips = 0
    with measured() as clock, progress("timing stages", len(batches)) as advance:
        for keys in batches:
            with stage("other"):
                items = [dataset[key] for key in keys]
            with stage("collate"):
                batch = collate_clips(items)
            with stage("transfer"):
                list(device_batches([batch], device))
            bad += int((~batch["ok"]).sum())
            clips += len(batch["ok"])
            advance(1)
    if bad == clips:
        raise TooMuchBadData(f"none of {clips} clips could be read; `hybridvideo scan` reports why")
    return {name: clock.seconds.get(name, 0.0) * 1e3 / clips for name in STAGES}, bad


def chosen(dataset: ClipDataset, bench: LoaderBench, epoch: int) -> list[list[tuple[int, int]]]:
    """Return keys of enough videos for the clips, in batches; over several epochs if there are fewer videos."""
    videos = -(-bench.clips // dataset.transform.augment.repeats)
    keys: list[tuple[int, int]] = []
    while len(keys) < videos:
        order = EpochOrder(len(dataset), seed=0, batch_size=bench.batch_size, epoch=epoch)
        keys += [(epoch, index) for index in order.indices()][: videos - len(keys)]
        epoch += 1
    return [keys[start : start + bench.batch_size] for start in range(0, len(keys), bench.batch_size)]


# ---- how long a model waits


@dataclass(frozen=True)
class Fed:
    """How a model was fed.

    clips_per_second: that it got. rate: clips per second that it would have taken. waiting: share of time it waited.
    """

    clips_per_second: float
    rate: float | None
    waiting: float


def feed(dataset: ClipDataset, bench: LoaderBench, device: torch.device) -> Fed:
    """Feed batches from the loader to a model; warm-up batches are not counted."""
    batches = chosen(dataset, bench, epoch=1000)
    batches = [batches[0]] * WARM_UP + batches
    work = trainer(dataset, bench, device) if bench.model else sleeper(bench.rate)
    with train_loader(dataset, batches, workers=bench.workers) as loader:
        return consume(loader, work, device, bench)


def consume(loader: Loader[ClipBatch], work: Callable[[Any], None], device: torch.device, bench: LoaderBench) -> Fed:
    waited = worked = 0.0
    clips = 0
    batches = iter(device_batches(loader, device))
    with progress("feeding", len(loader)) as advance:
        for number in range(len(loader)):
            start = time.perf_counter()
            batch = next(batches)
            come = time.perf_counter()
            work(batch)
            if number >= WARM_UP:
                waited += come - start
                worked += time.perf_counter() - come
                clips += len(batch["ok"])
            advance(1)
    total = waited + worked
    rate = clips / worked if bench.model else bench.rate
    return Fed(clips / total, rate, waited / total)


def sleeper(rate: float | None) -> Callable[[Any], None]:
    """Return a model that takes time but no CPU core, like one on a GPU."""
    return lambda batch: time.sleep(len(batch["ok"]) / rate) if rate else None


def trainer(dataset: ClipDataset, bench: LoaderBench, device: torch.device) -> Callable[[Any], None]:
    """Return a model that trains on the batches."""
    assert bench.model is not None
    model = create_model(bench.model, num_classes=400).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(batch: Any) -> None:
        logits = logits_of(model(normalise(batch["clip"], Normalisation())))
        logits.logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


# ---- output


def show_stages(stages: dict[Stage, float], bad: int, bench: LoaderBench) -> None:
    total = sum(stages.values())
    table = Table("stage", "CPU ms per clip", "share", title="what a clip costs one core")
    for name, milliseconds in stages.items():
        table.add_row(name, f"{milliseconds:.2f}", f"{milliseconds / total:.0%}")
    table.add_row("all", f"{total:.2f}", f"{1000 / total:.1f} clips/s")
    Console(width=80).print(table)
    if bad:
        print(f"{bad} of {bench.clips} clips could not be read; `hybridvideo scan` reports why")


def show_feeding(fed: Fed, per_clip: float, bench: LoaderBench) -> None:
    workers = f"{bench.workers} worker{'s' * (bench.workers != 1)} on {cpu_cores()} cores"
    print(f"{workers}: {fed.clips_per_second:.1f} clips/s")
    if fed.rate is None:
        print("give --rate (clips per second that your model takes) or --model to see how long a model would wait")
        return
    taker = f"{bench.model} training" if bench.model else "a model"
    print(f"{taker} that takes {fed.rate:.1f} clips/s waits {fed.waiting:.0%} of the time")
    print(f"cores needed to feed it: {fed.rate * per_clip / 1000:.1f}")
