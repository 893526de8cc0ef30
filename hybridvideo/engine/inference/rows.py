"""The two bulk jobs as functions: classify many videos, extract features of many clips; one row or more per input.

A video that cannot be read is a row with the reason. Rows are yielded as they are made, in the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from hybridvideo.config.data import Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.config.jobs import Compute, Precision, Reading
from hybridvideo.data.manifest import Manifest, Row, read_manifest
from hybridvideo.engine.multiview import VideoResult, averaged, run_views
from hybridvideo.engine.scoring import open_views
from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel

Paths = str | Path | Iterable[str | Path] | Manifest


def classify(
    model: VideoModel,
    paths: Paths,
    *,
    views: EvalConfig | None = None,
    top_k: int = 5,
    workers: int = Reading.workers,
    deadline: float = Reading.deadline,
    quarantine: str | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = Compute.precision,
    order: Iterable[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Classify videos.

    Args:
        model: from `load_model`; it is moved to `device` and set to evaluation.
        paths: a folder, a list file, a video, or several paths.
        views: clips by crops of each video; default: what the model was evaluated with.
        top_k: classes per video.
        workers: decoding processes. deadline: seconds for one video, after which its process is ended and replaced.
        quarantine: table of a scan; what it found unusable is not opened.
        device: such as "cuda" or "cuda:1". precision: "fp32", or "bf16" or "fp16" by autocast.
        order: indices of the inputs to do, taken one by one as they can be read; default: all.

    Yields:
        For each video a dict with `index` (of the input), `path`, `status` ("ok", "partial", or why not), `reason`,
        `label`, `score` (0 to 1), `topk_labels` and `topk_scores` (best first); label and score are None if
        nothing was read.
    """
    if top_k < 1:
        raise UserError(f"top_k is {top_k}; give 1 or more")
    manifest = as_manifest(paths)
    chosen = views or default_views(model)
    names = model.labels or tuple(str(i) for i in range(model.num_classes))
    reading = Reading(workers, deadline, quarantine)
    for result in results(model, manifest, chosen, model, reading, device, precision, order):
        row = start_row(manifest, result)
        if len(result.outputs_VK):
            scores, classes = averaged(result.outputs_VK, chosen.average).topk(min(top_k, len(names)))
            best = [names[i] for i in classes.tolist()]
            row |= {"label": best[0], "score": float(scores[0]), "topk_labels": best, "topk_scores": scores.tolist()}
        else:
            row |= {"label": None, "score": None, "topk_labels": [], "topk_scores": []}
        yield row


def extract(
    model: VideoModel,
    paths: Paths,
    *,
    stage: str = "head",
    views: EvalConfig | None = None,
    workers: int = Reading.workers,
    deadline: float = Reading.deadline,
    quarantine: str | None = None,
    device: str | torch.device = "cpu",
    precision: Precision = Compute.precision,
    as_numpy: bool = False,
    order: Iterable[int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Extract features: one vector per clip, averaged over its crops.

    Args:
        stage: "head" for the features before the classifier, or a name of `model.stage_names`, whose grid is
            averaged over time and space.
        as_numpy: features as arrays, not as lists.
        views, workers and the others: as for `classify`; clips without crops are `EvalConfig(clips=4, crops=1)`.
        order: as in `classify`, like all that is not named here.

    Yields:
        For each clip a dict with `index` (of the input), `path`, `status`, `reason`, `start`, `end` (seconds) and
        `feature` (a list of D floats, or a float32 array (D,)); a video that cannot be read gives one row whose start,
        end and feature are None.
    """
    manifest = as_manifest(paths)
    chosen = views or default_views(model)
    compute = feature_function(model, stage)
    reading = Reading(workers, deadline, quarantine)
    for result in results(model, manifest, chosen, compute, reading, device, precision, order):
        row = start_row(manifest, result)
        if not len(result.outputs_VK):
            yield {**row, "start": None, "end": None, "feature": None}
            continue
        features_KD = result.outputs_VK.unflatten(0, (-1, chosen.crops)).mean(1)
        for start, end, feature_D in zip(result.start, result.end, features_KD, strict=True):
            feature = feature_D.float().numpy() if as_numpy else feature_D.tolist()
            yield {**row, "start": start, "end": end, "feature": feature}


def feature_function(model: VideoModel, stage: str) -> Callable[[Tensor], Tensor]:
    """Clips (N, C, T, H, W) -> features (N, D) of a stage. UserError for an unknown one."""
    if stage == "head":
        return lambda x_BCTHW: model.forward_head(model.forward_features(x_BCTHW), pre_logits=True)
    if stage not in model.stage_names:
        raise UserError(f"no stage {stage!r} in this model; give head or one of {', '.join(model.stage_names)}")
    return lambda x_BCTHW: model.forward_intermediates(x_BCTHW, [stage])[0].flatten(1, 3).mean(1)


def results(
    model: VideoModel,
    manifest: Manifest,
    views: EvalConfig,
    compute: Callable[[Tensor], Tensor],
    reading: Reading,
    device: str | torch.device,
    precision: Precision,
    order: Iterable[int] | None = None,
) -> Iterator[VideoResult]:
    """Yield the result of each video, all of whose views go through `compute`."""
    prep = model.preprocessing or Preprocessing(normalisation=model.normalisation)
    if precision not in get_args(Precision):
        raise UserError(f"precision is {precision!r}; give one of {', '.join(get_args(Precision))}")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise UserError(f"device is {device!r}; give cpu, mps, cuda or cuda:NUMBER") from None
    model.to(target).eval()
    with open_views(manifest, prep, views, reading, order=order) as loader:
        yield from run_views(
            loader,
            compute,
            normalisation=prep.normalisation,
            device=target,
            batch_size=views.batch_size,
            precision=precision,
        )


def as_manifest(paths: Paths) -> Manifest:
    """Return a folder, list file or video by name, or several paths, as an unlabelled list."""
    if isinstance(paths, Manifest):
        return paths
    if isinstance(paths, str | Path):
        return read_manifest(paths, labelled=False)
    return Manifest(tuple(Row(str(path), None, None) for path in paths), (), Path(), confined=False)


def default_views(model: VideoModel) -> EvalConfig:
    """Return the views that came with the weights."""
    return model.card.eval if model.card is not None else EvalConfig()


def start_row(manifest: Manifest, result: VideoResult) -> dict[str, Any]:
    """Return the columns that every row has."""
    path = manifest.rows[result.index].path
    return {"index": result.index, "path": path, "status": result.status, "reason": result.reason}
