"""`hybridvideo bench loader`: where the time of loading goes, and how many cores a model's appetite needs.

Two measurements on the user's own videos. First one process reads clips, and each stage's own time is taken: what a
clip costs a core. Then the loader runs with its workers while a model takes batches at a given rate, and what counts
is the share of time the model waits.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from hybridvideo.config.data import AugmentConfig, ClipConfig, FrameConfig, Normalisation
from hybridvideo.data.dataset import ClipDataset
from hybridvideo.data.decode import VideoReader
from hybridvideo.data.decode.convert import Converter
from hybridvideo.data.decode.cursor import Cursor
from hybridvideo.data.decode.known import index_beside
from hybridvideo.data.loader import EpochOrder, Loader, collate_clips, device_batches, normalise, train_loader
from hybridvideo.data.processes.worker import keep_memory
from hybridvideo.data.transforms import TrainTransform
from hybridvideo.engine.progress import progress
from hybridvideo.errors import TooMuchBadData, UserError
from hybridvideo.files import write_json
from hybridvideo.models import create_model
from hybridvideo.report.environment import cpu_cores, cpu_name
from hybridvideo.tasks.support.device import pick_device
from hybridvideo.tasks.support.table_job import read_inputs
from hybridvideo.text import shown

# stage -> the functions whose own time it is, without that of the stages they call
STAGES: dict[str, tuple[tuple[type, str], ...]] = {
    "open": ((VideoReader, "__init__"), (VideoReader, "close")),  # look into the container, find the frames' times
    "decode": ((Cursor, "_go_to"), (Cursor, "_await")),  # seek, demux, decode
    "convert": ((Converter, "into"),),  # cut, scale, to RGB, turn upright
    "transform": ((ClipDataset, "_item"),),  # what is left: crop, flip
}
LATER = ("collate", "transfer")  # stages of a batch
WARM_UP = 2  # batches


@dataclass(frozen=True)
class LoaderBench:
    """What is measured, and how."""

    workers: int = 2
    batch_size: int = 8
    clips: int = 128
    """Clips of each measurement."""
    rate: float | None = None
    """Clips a second that a model takes; default: as many as come."""
    model: str | None = None
    """A model that really trains on the batches, on the device; then `rate` is what it takes."""
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("workers", "batch_size", "clips"):
            if getattr(self, name) < (name != "workers"):
                raise UserError(f"{name} is {getattr(self, name)}; give {int(name != 'workers')} or more")
        if self.rate is not None and not self.rate > 0:
            raise UserError(f"rate is {self.rate}; give clips a second, above 0")


def bench_loader(
    source: str, bench: LoaderBench, clip: ClipConfig, frame: FrameConfig, augment: AugmentConfig, out: str | None
) -> int:
    """The command."""
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


# ---- what a clip costs -----------------------------------------------------------------------------------------------


class Clock:
    """CPU seconds of each stage, each without the stages inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]  # of the stages inside the one that runs, level by level

    @contextlib.contextmanager
    def running(self, stage: str) -> Iterator[None]:
        start = time.process_time()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = time.process_time() - start
            own = spent - self._inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + own
            self._inner[-1] += spent

    def timing(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.running(stage):
                return function(*arguments, **options)

        return timed


@contextlib.contextmanager
def timed_stages(clock: Clock) -> Iterator[None]:
    """The functions of STAGES replaced by ones that are timed."""
    plain = [(owner, name, getattr(owner, name), stage) for stage, parts in STAGES.items() for owner, name in parts]
    try:
        for owner, name, function, stage in plain:
            setattr(owner, name, clock.timing(function, stage))
        yield
    finally:
        for owner, name, function, _ in plain:
            setattr(owner, name, function)


def profile(dataset: ClipDataset, bench: LoaderBench, device: torch.device) -> tuple[dict[str, float], int]:
    """CPU milliseconds a clip by stage, and how many clips could not be read. Raises TooMuchBadData for all of them."""
    batches = chosen(dataset, bench, epoch=0)
    dataset[batches[0][0]]  # what is done once is not counted
    clock, bad, clips = Clock(), 0, 0
    with timed_stages(clock), progress("timing stages", len(batches)) as advance:
        for keys in batches:
            with clock.running("other"):
                items = [dataset[key] for key in keys]
            with clock.running("collate"):
                batch = collate_clips(items)
            with clock.running("transfer"):
                list(device_batches([batch], device))
            bad += int((~batch["ok"]).sum())
            clips += len(batch["ok"])
            advance(1)
    if bad == clips:
        raise TooMuchBadData(f"none of {clips} clips could be read; `hybridvideo scan` says why")
    order = [*STAGES, "other", *LATER]
    return {stage: clock.seconds.get(stage, 0.0) * 1e3 / clips for stage in order}, bad


def chosen(dataset: ClipDataset, bench: LoaderBench, epoch: int) -> list[list[tuple[int, int]]]:
    """Keys of as many videos as give the clips, over several epochs where there are fewer, in batches."""
    videos = -(-bench.clips // dataset.transform.augment.repeats)
    keys: list[tuple[int, int]] = []
    while len(keys) < videos:
        order = EpochOrder(len(dataset), seed=0, batch_size=bench.batch_size, epoch=epoch)
        keys += [(epoch, index) for index in order.indices()][: videos - len(keys)]
        epoch += 1
    return [keys[start : start + bench.batch_size] for start in range(0, len(keys), bench.batch_size)]


# ---- a model that waits, or not --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fed:
    """clips_per_second: that the model got. rate: that it would have taken. waiting: share of time it had to wait."""

    clips_per_second: float
    rate: float | None
    waiting: float


def feed(dataset: ClipDataset, bench: LoaderBench, device: torch.device) -> Fed:
    """Batches from the loader into a model; those that warm up are not counted."""
    batches = chosen(dataset, bench, epoch=1000)
    batches = [batches[0]] * WARM_UP + batches
    work = trainer(dataset, bench, device) if bench.model else sleeper(bench.rate)
    with train_loader(dataset, batches, workers=bench.workers, pin_memory=device.type == "cuda") as loader:
        return consume(loader, work, device, bench)


def consume(loader: Loader, work: Callable[[Any], None], device: torch.device, bench: LoaderBench) -> Fed:
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
    """A model that takes its time and no core, as one on a GPU does."""
    return lambda batch: time.sleep(len(batch["ok"]) / rate) if rate else None


def trainer(dataset: ClipDataset, bench: LoaderBench, device: torch.device) -> Callable[[Any], None]:
    """A model that trains on what it gets."""
    assert bench.model is not None
    model = create_model(bench.model, num_classes=400).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)

    def step(batch: Any) -> None:
        logits = model(normalise(batch["clip"], Normalisation()))
        logits.logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


# ---- for a person ----------------------------------------------------------------------------------------------------


def show_stages(stages: dict[str, float], bad: int, bench: LoaderBench) -> None:
    total = sum(stages.values())
    table = Table("stage", "ms of CPU a clip", "share", title="what a clip costs one core")
    for stage, milliseconds in stages.items():
        table.add_row(stage, f"{milliseconds:.2f}", f"{milliseconds / total:.0%}")
    table.add_row("all", f"{total:.2f}", f"{1000 / total:.1f} clips/s")
    Console(width=80).print(table)
    if bad:
        print(f"{bad} of {bench.clips} clips could not be read; `hybridvideo scan` says why")


def show_feeding(fed: Fed, per_clip: float, bench: LoaderBench) -> None:
    workers = f"{bench.workers} worker{'s' * (bench.workers != 1)} on {cpu_cores()} cores"
    print(f"{workers}: {fed.clips_per_second:.1f} clips/s")
    if fed.rate is None:
        print("give --rate (clips a second your model takes) or --model to see how long a model would wait")
        return
    taker = f"{bench.model} training" if bench.model else "a model"
    print(f"{taker} that takes {fed.rate:.1f} clips/s waits {fed.waiting:.0%} of the time")
    print(f"cores needed to feed it: {fed.rate * per_clip / 1000:.1f}")
