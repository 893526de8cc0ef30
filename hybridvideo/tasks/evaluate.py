"""`hybridvideo evaluate`: a trained model and a labelled list -> results.json, scores.parquet, report.html."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from accelerate import Accelerator

from hybridvideo.config import EvalConfig, EvaluateData, Views
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.engine.evaluate import Evaluation
from hybridvideo.engine.evaluate import evaluate as run_evaluation
from hybridvideo.engine.multiview import Precision
from hybridvideo.errors import TooMuchBadData, UserError
from hybridvideo.files import write_json
from hybridvideo.models.contract import VideoModel
from hybridvideo.tasks.device import pick_device, process_state
from hybridvideo.tasks.folders import config_text, read_run_config
from hybridvideo.tasks.given import open_given, results_folder, weights_said
from hybridvideo.tasks.pages import write_evaluation_page
from hybridvideo.tasks.processes import honour_launcher
from hybridvideo.tasks.tables import write_table


def evaluate(
    run: str, data: EvaluateData, eval: Views, out: str | None, checkpoint: Literal["last", "best"] | None,
    device: str, precision: Precision,
) -> int:  # fmt: skip
    """The command; several processes of `accelerate launch` share the videos."""
    honour_launcher()
    process_state(device)
    model = open_given(run, checkpoint)
    manifest, name = read_list(run, data, model)
    accelerator = Accelerator(cpu=pick_device(device).type == "cpu")
    views = eval.over(model.card.eval)
    evaluation = run_evaluation(
        model, manifest, views, accelerator=accelerator, precision=precision, workers=data.workers,
        deadline=data.deadline, quarantine=data.quarantine,
    )  # fmt: skip
    if accelerator.is_main_process:
        folder = Path(out) if out else results_folder(run) / f"evaluation-{name}"
        facts = {"model": model.card.name, "checkpoint": weights_said(run, checkpoint), "list": data.manifest}
        page = report_evaluation(folder, model, evaluation, manifest, facts, config_text(run))
        say(evaluation.results, views, page)
    results = evaluation.results
    if results["num_failed"] > data.max_bad * results["num_videos"]:
        raise TooMuchBadData(
            f"{results['num_failed']} of {results['num_videos']} videos cannot be read, more than --data.max_bad "
            f"{data.max_bad} allows; the results name them"
        )
    return 0


def read_list(run: str, data: EvaluateData, model: VideoModel) -> tuple[Manifest, str]:
    """The list with the labels of the model, and a name for it."""
    source, root, order = data.manifest, data.root, data.order
    if source is None:
        config = read_run_config(Path(run))
        if config is None or not config.data.val:
            raise UserError(f"{run} has no validation list; give --data.manifest LIST")
        source, root, order = config.data.val, root or config.data.root, order or config.data.order
    manifest = read_manifest(source, root=root, labels=model.labels, order=order)
    return manifest, Path(source).stem or "list"


def report_evaluation(
    folder: Path, model: VideoModel, evaluation: Evaluation, manifest: Manifest, facts: dict[str, Any],
    config: str | None,
) -> Path:  # fmt: skip
    """results.json, scores.parquet and report.html in `folder`; gives the page."""
    results = {**evaluation.results, "model": model.card.name, **facts}
    write_json(folder / "results.json", results)
    provenance = {name: results[name] for name in ("model", "checkpoint", "protocol", "labels")}
    write_table(folder / "scores.parquet", evaluation.rows, score_schema(len(results["labels"])), provenance)
    return write_evaluation_page(folder, results, evaluation.rows, manifest, config)


def score_schema(num_classes: int) -> pa.Schema:
    """Columns of scores.parquet."""
    return pa.schema(
        [
            ("index", pa.int64()), ("path", pa.string()), ("status", pa.string()), ("reason", pa.string()),
            ("label", pa.int64()), ("label_name", pa.string()), ("predicted", pa.int64()),
            ("predicted_name", pa.string()), ("scores", pa.list_(pa.float32(), num_classes)),
        ]
    )  # fmt: skip


def say(results: dict[str, Any], views: EvalConfig, page: Path) -> None:
    """The figures, for a person."""
    print(f"{results['num_videos']} videos, {results['num_failed']} unreadable, {views.clips} x {views.crops} views")
    for name, title in (("top1", "top-1"), ("top5", "top-5"), ("mean_class_accuracy", "mean-class accuracy")):
        low, high = results[f"{name}_interval"]
        print(f"{title:<20} {results[name]:.4f}   95 % {low:.4f} to {high:.4f}")
    for failure in results["failures"][:10]:
        print(f"unreadable: {failure['path']}: {failure['status']}: {failure['reason']}", file=sys.stderr)
    print(f"results {page.parent}\nreport {page}")
