"""`hybridvideo demo`: everything from videos rendered on the spot to a report, with a control that cannot see motion.

OUT/videos     rendered: {train,val,test}/<motion>/*
OUT/hybrid     hybrid_micro trained on them; OUT/control  the same network without any path between frames
OUT/predictions, OUT/features     held-out files classified, their features
OUT/report.html     all of it on one page
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from hybridvideo.config.data import AugmentConfig, ClipConfig, DataConfig, EvaluateData, FrameConfig
from hybridvideo.config.evaluation import EvalConfig, Views
from hybridvideo.config.jobs import Compute, Job, Reading
from hybridvideo.config.model import ModelConfig
from hybridvideo.config.training import OptimConfig, TrainConfig, TrainRun
from hybridvideo.data.manifest import read_manifest
from hybridvideo.data.synthetic import render_dataset
from hybridvideo.engine.progress import progress
from hybridvideo.errors import Preempted, UserError
from hybridvideo.files import write_json
from hybridvideo.report.environment import environment_facts
from hybridvideo.report.history import read_metrics
from hybridvideo.report.pages.demo_page import Arm, Findings, demo_page
from hybridvideo.report.results import Results
from hybridvideo.report.sections.settings import MadeWith
from hybridvideo.tasks.evaluate import run_evaluation
from hybridvideo.tasks.extract import run_extraction
from hybridvideo.tasks.predict import run_prediction
from hybridvideo.tasks.support.run_folder import CONFIG, read_run_config
from hybridvideo.tasks.support.write_page import evaluation_samples
from hybridvideo.tasks.train import run_training
from hybridvideo.text import shown

VIDEOS = {"train": 128, "val": 8, "test": 32}  # of each motion

# Objects in plain view: differences show their motion at less cost than the correlation of frames does.
INPUT = {"mode": "both", "gain": 2.0, "limit": 3.0}
RUN = TrainRun(
    clip=ClipConfig(frames=8, interval=0.1),
    frame=FrameConfig(height=32, width=32, scaling="rgb"),
    augment=AugmentConfig(area=(0.7, 1.0), aspect=(0.9, 1.1), flip=0.0),  # a flip turns left into right
    model=ModelConfig("hybrid_micro", {"input": INPUT}),
    optim=OptimConfig(lr=4e-3),
    train=TrainConfig(epochs=12, batch_size=32, log_every=8),
    eval=EvalConfig(clips=3, crops=1, batch_size=48),
)
CONTROL = {"time": False}


def run_demo(out: str, seed: int, seeds: int) -> int:
    """Run the command; return its exit code."""
    if seeds < 1:
        raise UserError(f"seeds is {seeds}; give 1 or more")
    folder, timings = Path(out), Timings()
    with timings.measure("rendering"):
        render(folder / "videos", seed)
    figures = [run_seed(folder, seed + i, timings, first=i == 0) for i in range(seeds)]
    page = write_demo_page(folder, seed, timings)
    for i, (hybrid, control) in enumerate(figures):
        print(f"seed {seed + i}: hybrid {hybrid:.1%}, control {control:.1%} of held-out videos")
    print("the control sees the same frames without their order, so it cannot tell a motion from its reverse")
    print(shown(f"report {page}"))
    return 0


def render(folder: Path, seed: int) -> None:
    """Render the videos, unless they exist already."""
    with progress("rendering", sum(VIDEOS.values()) * 8) as advance:
        done = 0

        def tell(now: int, _total: int) -> None:
            nonlocal done
            advance(now - done)
            done = now

        print(shown(f"rendering {sum(VIDEOS.values()) * 8} videos of eight motions into {folder}"))
        render_dataset(folder, **VIDEOS, seed=seed, workers=min(2, os.cpu_count() or 1), progress=tell)


def run_seed(folder: Path, seed: int, timings: Timings, first: bool) -> tuple[float, float]:
    """Train and evaluate both networks; the first seed also classifies and extracts. Return the two accuracies."""
    name = "" if first else f"-seed{seed}"
    hybrid, control = folder / f"hybrid{name}", folder / f"control{name}"
    test = folder / "videos" / "test"
    accuracies = []
    for run, changes, label in ((hybrid, {}, "hybrid"), (control, CONTROL, "control")):
        print(f"training the {label} ({RUN.model.name}{', no path between frames' if changes else ''}), seed {seed}")
        with timings.measure(f"training the {label}"):
            train_once(folder, run, seed, changes)
        with timings.measure("evaluating"), quiet():
            data = EvaluateData(str(test))
            shutil.rmtree(run / "test", ignore_errors=True)  # of another version
            run_evaluation(str(run), data, Views(), str(run / "test"), None, Compute())
        accuracies.append(json.loads((run / "test" / "results.json").read_text())["top1"])
    if first:
        how = (Reading(), Compute(), Job(overwrite=True))
        with timings.measure("classifying"):
            run_prediction(str(hybrid), str(test), str(folder / "predictions"), 3, Views(), *how)
        with timings.measure("extracting"):
            run_extraction(str(hybrid), str(test), str(folder / "features"), "head", Views(clips=1), *how)
    return accuracies[0], accuracies[1]


def train_once(folder: Path, run: Path, seed: int, changes: dict[str, Any]) -> None:
    """Train once: skip a finished run, resume a stopped one, replace one with other settings (another version)."""
    videos = folder / "videos"
    settings = replace(
        RUN,
        seed=seed,
        data=DataConfig(str(videos / "train"), str(videos / "val")),
        model=replace(RUN.model, changes={**RUN.model.changes, **changes}),
    )
    same = (run / CONFIG).exists() and read_run_config(run) == settings
    if same and (run / "report.html").exists():
        print(shown(f"{run} exists already"))
        return
    if not same:
        shutil.rmtree(run, ignore_errors=True)
    try:
        run_training(settings, str(run), same, run.name)
    except Preempted:
        raise Preempted(f"stopped; what is done is kept in {folder}; run the same command to continue") from None


def write_demo_page(folder: Path, seed: int, timings: Timings) -> Path:
    """Write the page of the first seed."""
    arms = [
        Arm(
            title,
            Results.of(json.loads((folder / name / "test" / "results.json").read_text())),
            read_metrics(folder / name / "metrics.jsonl"),
        )
        for name, title in (("hybrid", "The hybrid"), ("control", "The control"))
    ]
    test = read_manifest(folder / "videos" / "test")
    scores = pq.read_table(folder / "hybrid" / "test" / "scores.parquet").to_pylist()
    features = pq.read_table(folder / "features" / "features.parquet").to_pylist()
    read = [row for row in features if row["feature"] is not None]
    hybrid, control = arms
    write_json(
        folder / "summary.json",
        {"hybrid": hybrid.top1.value, "control": control.top1.value, "seed": seed, "seconds": timings.seconds},
    )
    return demo_page(
        folder / "report.html",
        {
            "videos": sum(VIDEOS.values()) * 8,
            "held out": len(test),
            "seed": seed,
            "cores": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
        },
        hybrid,
        control,
        Findings(
            timings.seconds,
            evaluation_samples(scores, test),
            pq.read_table(folder / "predictions" / "predictions.parquet").to_pylist(),
            np.array([row["feature"] for row in read], np.float32),
            [Path(row["path"]).parent.name for row in read],
        ),
        MadeWith(environment_facts(), (folder / "hybrid" / "config.yaml").read_text()),
    )


class Timings:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time of the block."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress what a stage prints of its results; the page shows them."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
