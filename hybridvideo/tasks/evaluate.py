"""`hybridvideo evaluate`: a trained model and a labelled list -> results.json, scores.parquet, report.html."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from accelerate import Accelerator

from hybridvideo.config.data import EvaluateData
from hybridvideo.config.evaluation import EvalConfig, Views
from hybridvideo.config.jobs import Compute, Precision
from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.documents import read_json_object
from hybridvideo.engine.scoring import Evaluation, protocol, score_list
from hybridvideo.errors import TooMuchBadData, UserError
from hybridvideo.files import acquire, holder, release, write_json
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain
from hybridvideo.report.results import Results
from hybridvideo.tasks.support.job_device import pick_device, process_state
from hybridvideo.tasks.support.output_table import write_table
from hybridvideo.tasks.support.run_folder import config_text, read_run_config
from hybridvideo.tasks.support.weights_argument import card_of, open_model, results_folder, weights_digest, weights_name
from hybridvideo.tasks.support.write_page import write_evaluation_page
from hybridvideo.text import encodable, shown

LOCK = ".lock"


def run_evaluation(
    run: str,
    data: EvaluateData,
    eval: Views,
    out: str | None,
    checkpoint: Literal["last", "best"] | None,
    compute: Compute,
) -> int:
    """Run the command; several processes share the videos."""
    process_state(compute.device)
    model = open_model(run, checkpoint)
    manifest, source = list_to_score(run, data, model)
    accelerator = Accelerator(cpu=pick_device(compute.device).type == "cpu")
    card = card_of(model)
    views = eval.over(card.eval)
    with contextlib.ExitStack() as stack:
        if accelerator.is_main_process:
            made_of = {
                "weights_sha256": weights_digest(run, model, checkpoint),
                "list_sha256": list_digest(manifest),
                "quarantine_sha256": quarantine_digest(data, manifest),
                "normalisation": plain(card.preprocessing.normalisation),
                "protocol": protocol(views, card.preprocessing, compute.precision),
            }
            name = default_name(source, views, checkpoint, compute.precision)
            wanted = Path(out) if out else results_folder(run) / name
            folder = stack.enter_context(evaluation_folder(wanted, out is not None, made_of))
        evaluation = score_list(
            model,
            manifest,
            views,
            accelerator=accelerator,
            precision=compute.precision,
            workers=data.workers,
            deadline=data.deadline,
            quarantine=data.quarantine,
        )
        if accelerator.is_main_process:
            given = {"checkpoint": weights_name(run, checkpoint), "list": source, "quarantine": data.quarantine}
            page = report_evaluation(folder, model, evaluation, manifest, given | made_of, config_text(run))
            say(evaluation.results, views, page)
    check_bad(evaluation.results, data.max_bad)
    return 0


def check_bad(results: dict[str, Any], max_bad: float) -> None:
    """Raise TooMuchBadData if more videos than allowed could not be read; the results have been written by then."""
    if results["num_failed"] > max_bad * results["num_videos"]:
        raise TooMuchBadData(
            f"{results['num_failed']} of {results['num_videos']} videos cannot be read, more than --data.max_bad "
            f"{max_bad} allows; the results name them"
        )


def list_to_score(run: str, data: EvaluateData, model: VideoModel) -> tuple[Manifest, str]:
    """Return the list under the model's labels, and its source."""
    source, root, order = data.manifest, data.root, data.order
    if source is None:
        config = read_run_config(Path(run))
        if config is None or not config.data.val:
            raise UserError(f"{run} has no validation list; give --data.manifest LIST")
        source, root, order = config.data.val, root or config.data.root, order or config.data.order
    return read_manifest(source, root=root, labels=model.labels, order=order), source


# --- a folder for each evaluation -------------------------------------------------------------------------------------


def default_name(source: str, views: EvalConfig, checkpoint: str | None, precision: Precision) -> str:
    """Return `evaluation-LIST-4x3`, with checkpoint and precision if they were given."""
    stem = re.sub(r"[^\w.]+", "-", Path(source).resolve().stem).strip("-.")[:80] or "list"
    given = [checkpoint] * (checkpoint is not None) + [precision] * (precision != "fp32")
    return "-".join(["evaluation", stem, f"{views.clips}x{views.crops}", *map(str, given)])


def list_digest(manifest: Manifest) -> str:
    """Return the SHA-256 of a list's videos with their labels, and of the classes."""
    listed = repr((os.path.abspath(manifest.root), manifest.rows, manifest.labels))
    return hashlib.sha256(encodable(listed).encode()).hexdigest()


def quarantine_digest(data: EvaluateData, manifest: Manifest) -> str | None:
    """Return the SHA-256 of what a quarantine records about the list; None without one."""
    if data.quarantine is None:
        return None
    held = repr(sorted(quarantined(data.quarantine, manifest).items()))
    return hashlib.sha256(held.encode("utf-8", "backslashreplace")).hexdigest()


@contextlib.contextmanager
def evaluation_folder(folder: Path, chosen: bool, made_of: Mapping[str, Any]) -> Iterator[Path]:
    """The folder for an evaluation, held until the block ends; the same evaluation may be made there again.

    chosen: the user named the folder: raise UserError if it holds another evaluation or one is running there. Otherwise
    try FOLDER-2, ...
    """
    place, lock = first_free(folder, chosen, made_of)
    try:
        yield place
    finally:
        release(place / LOCK, lock)
        with contextlib.suppress(OSError):
            place.rmdir()  # unless something was written


def first_free(folder: Path, chosen: bool, made_of: Mapping[str, Any]) -> tuple[Path, int]:
    """Return the folder, or the first numbered one that this evaluation may use, and its lock, now held."""
    place, number = folder, 1
    while True:
        lock, taken = claim(place, made_of)
        if lock is not None:
            return place, lock
        if chosen:
            raise UserError(f"{folder} is taken: {taken}; give another --out")
        number += 1
        place = folder.with_name(f"{folder.name}-{number}")


def claim(place: Path, made_of: Mapping[str, Any]) -> tuple[int | None, str]:
    """Return the lock of a folder, now held; or None and why this evaluation may not use it."""
    lock = acquire(place / LOCK, "evaluate")
    if lock is None:
        return None, f"{holder(place / LOCK)} is using it"
    if other := other_evaluation(place, made_of):
        release(place / LOCK, lock)
        return None, other
    return lock, ""


def other_evaluation(folder: Path, made_of: Mapping[str, Any]) -> str:
    """Return why this evaluation must not replace what is in a folder; "" if it may."""
    file = folder / "results.json"
    if not file.exists():
        return ""
    try:
        there = read_json_object(file, "")
    except UserError:
        return "its results.json is not that of an evaluation"
    differing = [name for name, value in made_of.items() if there.get(name, ...) != plain(value)]
    names = ", ".join(name.removesuffix("_sha256") for name in differing)
    return f"it holds the evaluation of another {names}" if differing else ""


# --- what it leaves ---------------------------------------------------------------------------------------------------


def report_evaluation(
    folder: Path,
    model: VideoModel,
    evaluation: Evaluation,
    manifest: Manifest,
    facts: dict[str, Any],
    config: str | None,
) -> Path:
    """Write results.json, scores.parquet and report.html into `folder`; return the page."""
    results = {**evaluation.results, "model": card_of(model).name, **facts}
    write_json(folder / "results.json", results)
    provenance = {name: results[name] for name in ("model", "checkpoint", "protocol", "labels")}
    write_table(folder / "scores.parquet", evaluation.rows, score_schema(len(results["labels"])), provenance)
    return write_evaluation_page(folder, results, evaluation.rows, manifest, config)


def score_schema(num_classes: int) -> pa.Schema:
    """Return the columns of scores.parquet."""
    return pa.schema(
        [
            ("index", pa.int64()),
            ("path", pa.string()),
            ("status", pa.string()),
            ("reason", pa.string()),
            ("label", pa.int64()),
            ("label_name", pa.string()),
            ("predicted", pa.int64()),
            ("predicted_name", pa.string()),
            ("scores", pa.list_(pa.float32(), num_classes)),
        ]
    )


def say(results: dict[str, Any], views: EvalConfig, page: Path) -> None:
    """Print the figures."""
    print(f"{results['num_videos']} videos, {results['num_failed']} unreadable, {views.clips} x {views.crops} views")
    for accuracy in Results.of(results).accuracies:
        low, high = accuracy.interval or (float("nan"), float("nan"))
        print(f"{accuracy.name:<20} {accuracy.value:.4f}   95 % {low:.4f} to {high:.4f}")
    for failure in results["failures"][:10]:
        print(shown(f"unreadable: {failure['path']}: {failure['status']}: {failure['reason']}"), file=sys.stderr)
    print(f"results {shown(str(page.parent))}\nreport {shown(str(page))}")
