"""Multi-view scoring: all views of every video of a list, one score; unreadable ones are counted, not replaced."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from accelerate import Accelerator

from hybridvideo.config.data import Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.config.jobs import Compute, Precision, Reading
from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.decode.known import index_beside
from hybridvideo.data.loader import Loader, view_loader
from hybridvideo.data.manifest import Manifest
from hybridvideo.data.sampling import uniform_starts
from hybridvideo.data.transforms import ViewTransform
from hybridvideo.data.views import ViewBatch, ViewDataset
from hybridvideo.engine.exchange import gather
from hybridvideo.engine.metrics import accuracy
from hybridvideo.engine.multiview import VideoResult, averaged, run_views
from hybridvideo.engine.progress import progress
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain


@dataclass(frozen=True)
class Evaluation:
    """`results`: the figures, as in results.json. `rows`: one per video, in the order of the list."""

    results: dict[str, Any]
    rows: list[dict[str, Any]]


def score_list(
    model: VideoModel,
    manifest: Manifest,
    views: EvalConfig,
    *,
    accelerator: Accelerator | None = None,
    preprocessing: Preprocessing | None = None,
    workers: int = Reading.workers,
    deadline: float = Reading.deadline,
    quarantine: str | None = None,
    precision: Precision = Compute.precision,
) -> Evaluation:
    """Score a labelled list.

    Args:
        model: on any device; moved to the accelerator's.
        manifest: videos with labels that index the model's classes.
        views: clips in time by crops in space, and how their scores are averaged.
        accelerator: with several processes each takes its share of the videos, and all return the complete result.
        preprocessing: default: what came with the weights.
        workers: decoding processes. deadline: seconds for one video; after that its process is ended and replaced.
        quarantine: table of a scan; what it found unusable is not opened.

    Returns:
        Figures of the videos that could be read. The others are rows with a reason, and are counted in `num_failed`.
    """
    accelerator = accelerator or Accelerator(cpu=next(model.parameters()).device.type == "cpu")
    prep = preprocessing or model.preprocessing
    assert prep is not None, "a model without preprocessing needs it as an argument"
    start = time.perf_counter()
    reading = Reading(workers, deadline, quarantine)
    share = score_share(model, manifest, views, prep, accelerator, reading, precision)
    rows = sorted((row for part in gather(accelerator, share) for row in part), key=lambda row: row["index"])
    return Evaluation(summary(model, views, prep, precision, rows, time.perf_counter() - start), rows)


def score_share(
    model: VideoModel,
    manifest: Manifest,
    views: EvalConfig,
    prep: Preprocessing,
    accelerator: Accelerator,
    reading: Reading,
    precision: Precision,
) -> list[dict[str, Any]]:
    """Return the rows of this process's videos."""
    model = model.to(accelerator.device).eval()
    rank, world = accelerator.process_index, accelerator.num_processes
    loader = open_views(manifest, prep, views, reading, rank=rank, world=world)
    rows = []
    count = len(range(rank, len(manifest), world))
    with loader, progress("evaluating", count, accelerator.is_main_process) as advance:
        for result in run_views(
            loader,
            model,
            normalisation=prep.normalisation,
            device=accelerator.device,
            batch_size=views.batch_size,
            precision=precision,
        ):
            rows.append(row_of(result, manifest, model, views))
            advance(1)
    return rows


def open_views(
    manifest: Manifest,
    prep: Preprocessing,
    views: EvalConfig,
    reading: Reading,
    *,
    rank: int = 0,
    world: int = 1,
    order: Iterable[int] | None = None,
) -> Loader[ViewBatch]:
    """Return batches of all views of one process's videos, or of those in `order`. Close it after use."""
    held = quarantined(reading.quarantine, manifest)
    dataset = ViewDataset(
        manifest,
        prep.clip,
        ViewTransform(prep.frame, views.crops),
        partial(uniform_starts, clips=views.clips),
        index=index_beside(reading.quarantine),
        quarantine=held,
    )
    return view_loader(
        dataset,
        batch_videos=videos_per_batch(views),
        workers=reading.workers,
        deadline=reading.deadline,
        rank=rank,
        world=world,
        order=order,
    )


def videos_per_batch(views: EvalConfig) -> int:
    """Return how many videos fill a forward pass with their views."""
    return max(1, views.batch_size // (views.clips * views.crops))


def row_of(result: VideoResult, manifest: Manifest, model: VideoModel, views: EvalConfig) -> dict[str, Any]:
    """Return a row of scores.parquet; a video that could not be read has null scores."""
    labels = model.labels or tuple(str(i) for i in range(model.num_classes))
    row: dict[str, Any] = {
        "index": result.index,
        "path": manifest.rows[result.index].path,
        "status": result.status,
        "reason": result.reason,
        "label": result.label,
        "label_name": labels[result.label],
        "predicted": None,
        "predicted_name": None,
        "scores": None,
    }
    if len(result.outputs_VK):
        scores_K = averaged(result.outputs_VK, views.average)
        row["scores"] = scores_K.tolist()
        if bool(scores_K.isfinite().all()):  # otherwise it has no prediction
            predicted = int(scores_K.argmax())
            row |= {"predicted": predicted, "predicted_name": labels[predicted]}
    return row


def protocol(views: EvalConfig, prep: Preprocessing, precision: Precision) -> dict[str, Any]:
    """Return the settings of scoring on which the figures depend."""
    return {
        "clips": views.clips,
        "crops": views.crops,
        "average": views.average,
        **plain(prep.clip),
        "frame": plain(prep.frame),
        "precision": precision,
    }


def summary(
    model: VideoModel,
    views: EvalConfig,
    prep: Preprocessing,
    precision: Precision,
    rows: list[dict[str, Any]],
    seconds: float,
) -> dict[str, Any]:
    """Return the figures of results.json."""
    labels = model.labels or tuple(str(i) for i in range(model.num_classes))
    read = [row for row in rows if row["scores"] is not None]
    failed = [row for row in rows if row["scores"] is None]
    scores_NK = np.array([row["scores"] for row in read], np.float64).reshape(-1, len(labels))
    figures = accuracy(scores_NK, np.array([row["label"] for row in read], np.int64), labels)
    return {
        **asdict(figures),
        "num_videos": len(rows),
        "num_failed": len(failed),
        "failures": [{name: row[name] for name in ("path", "status", "reason")} for row in failed],
        "num_partial": sum(row["status"] == "partial" for row in read),
        "protocol": protocol(views, prep, precision),
        "labels": list(labels),
        "seconds": seconds,
        "videos_per_second": len(rows) / max(seconds, 1e-9),
    }
