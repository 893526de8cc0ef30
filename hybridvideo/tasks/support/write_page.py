"""The page of each result: its figures, some clips to look at, and which state of which table it shows.

Since a page names its table and the table's state, no job overwrites the page of another, and a page older than its
table is written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from torchvision.transforms.v2 import functional

from hybridvideo.data.decode import VideoReader
from hybridvideo.data.manifest import Manifest
from hybridvideo.documents import read_json_object
from hybridvideo.errors import VideoError
from hybridvideo.files import locked
from hybridvideo.report.contact_sheet import Sample, evenly
from hybridvideo.report.environment import environment_facts
from hybridvideo.report.history import read_metrics
from hybridvideo.report.page import mark_in
from hybridvideo.report.pages.evaluation_page import evaluation_page
from hybridvideo.report.pages.features_page import features_page
from hybridvideo.report.pages.predictions_page import predictions_page
from hybridvideo.report.pages.training_page import training_page
from hybridvideo.report.results import Results, Row, Rows
from hybridvideo.report.sections.settings import MadeWith
from hybridvideo.tasks.support.table_job import Finished

CLIPS, FRAMES, SHORT_SIDE = 24, 8, 96  # of a contact sheet


# --- a page for each state of a table ---------------------------------------------------------------------------------


def keep_page(table: Path, folder_given: bool, write: Callable[[Path, str], object]) -> Path:
    """Return the page of a table; `write` makes it from its path and its mark, unless it is there and up to date."""
    with locked(table.with_name(".report.lock"), "writing a page", wait=True):
        page, mark = page_beside(table, folder_given), mark_of(table)
        if mark_in(page) != mark:
            write(page, mark)
    return page


def page_beside(table: Path, folder_given: bool) -> Path:
    """Return report.html for a folder that was given, and TABLE.report.html for a table.

    If that is the page of something else, it is TABLE.EXTENSION.report.html.
    """
    first = table.with_name("report.html") if folder_given else table.with_suffix(".report.html")
    own = not first.exists() or mark_in(first).partition(" ")[0] == quote(table.name)
    return first if own else table.with_name(f"{table.name}.report.html")


def mark_of(table: Path) -> str:
    """Return name, size and modification time of a table."""
    facts = table.stat()
    return f"{quote(table.name)} {facts.st_size} {facts.st_mtime_ns}"


# --- one function per kind of job -------------------------------------------------------------------------------------


def write_training_page(folder: Path, results: dict[str, Any] | None, rows: Rows, val: Manifest | None) -> Path:
    """Write RUN/report.html; `rows` are those of the evaluation at its end."""
    samples = evaluation_samples(rows, val) if val is not None else []
    return training_page(
        folder / "report.html",
        read_metrics(folder / "metrics.jsonl"),
        Results.of(results) if results else None,
        samples,
        run_made_with(folder),
        title=f"Training: {folder.resolve().name}",
    )


def run_made_with(folder: Path) -> MadeWith:
    """Return what the files of a run folder say it was made with."""
    environment, config = folder / "environment.json", folder / "config.yaml"
    facts = read_json_object(environment, "remove it for a page without it") if environment.exists() else {}
    text = config.read_text(encoding="utf-8") if config.is_file() else None
    return MadeWith({key: str(value) for key, value in facts.items()}, text)


def write_evaluation_page(
    folder: Path, results: dict[str, Any], rows: Rows, manifest: Manifest, config: str | None
) -> Path:
    """Write the page next to results.json and scores.parquet; `config`: the text of the run's settings."""
    read = [row for row in rows if row["predicted"] is not None]
    checkpoint, source = last_part(results["checkpoint"], "checkpoints"), last_part(results["list"])

    def write(page: Path, mark: str) -> None:
        evaluation_page(
            page,
            Results.of(results),
            evaluation_samples(rows, manifest),
            MadeWith(environment_facts(), config),
            scores=[max(row["scores"]) for row in read],
            correct=[row["predicted"] == row["label"] for row in read],
            title=f"Evaluation: {checkpoint} on {source}",
            mark=mark,
        )

    return keep_page(folder / "scores.parquet", True, write)


def write_prediction_page(page: Path, mark: str, finished: Finished, manifest: Manifest, config: str | None) -> Path:
    """Write the page of a classification job."""
    chosen = spread([row for row in finished.rows if row["label"] is not None], CLIPS)
    samples = read_samples((manifest.file(row["index"]), None, row["label"], row["score"]) for row in chosen)
    made_with = MadeWith(environment_facts(), config)
    title = job_title("Predictions", finished)
    return predictions_page(page, finished.rows, samples, job_summary(finished), made_with, title=title, mark=mark)


def write_extraction_page(page: Path, mark: str, finished: Finished, config: str | None) -> Path:
    """Write the page of an extraction job."""
    read = [row for row in finished.rows if row["feature"] is not None]
    features_ND = np.array([row["feature"] for row in read], np.float32).reshape(-1, finished.provenance["width"])
    made_with = MadeWith(environment_facts(), config)
    title = job_title("Features", finished)
    return features_page(page, job_summary(finished), features_ND, finished.rows, made_with, title=title, mark=mark)


def job_summary(finished: Finished) -> dict[str, object]:
    """Return what a bulk job did, for the page; the speed is that of the inputs done this time."""
    notes = finished.provenance
    inputs = len({row["index"] for row in finished.rows})
    summary: dict[str, object] = {"inputs": inputs, "unreadable": finished.failed}
    if finished.inputs < inputs:
        summary["inputs done this time"] = finished.inputs
    if finished.inputs:
        summary["videos per second"] = round(finished.videos_per_second, 1)
    summary |= {name: notes[name] for name in ("model", "checkpoint", "source")}
    if "stage" in notes:
        summary["stage"] = notes["stage"]
    summary["clips x crops"] = f"{notes['views']['clips']} x {notes['views']['crops']}"
    return summary | {"table": str(finished.table)}


def job_title(what: str, finished: Finished) -> str:
    """Return `Predictions: clips by my-run`."""
    notes = finished.provenance
    return f"{what}: {last_part(notes['source'])} by {last_part(notes['checkpoint'], 'checkpoints')}"


def last_part(place: str, below: str = "") -> str:
    """Return the name of a file or folder; what is not a path, such as hf:a/b, unchanged.

    below: runs/x/checkpoints/best is `x, best` if `below` is `checkpoints`.
    """
    path = Path(place)
    if not path.exists():
        return place
    path = path.resolve()
    return f"{path.parent.parent.name}, {path.name}" if below and path.parent.name == below else path.name or place


# --- clips to look at -------------------------------------------------------------------------------------------------


def evaluation_samples(rows: Rows, manifest: Manifest) -> list[Sample]:
    """Return mistakes first, up to half of the sheet, then right answers."""
    read = [row for row in rows if row["predicted"] is not None]
    wrong = spread([row for row in read if row["predicted"] != row["label"]], CLIPS // 2)
    right = spread([row for row in read if row["predicted"] == row["label"]], CLIPS - len(wrong))
    return read_samples(
        (manifest.file(row["index"]), row["label_name"], row["predicted_name"], max(row["scores"]))
        for row in [*wrong, *right]
    )


def read_samples(videos: Iterable[tuple[Path, str | None, str, float]]) -> list[Sample]:
    """Read evenly spaced small frames of each (file, truth, predicted, score), without files that are gone."""
    samples = []
    for file, truth, predicted, score in videos:
        try:
            with VideoReader(file) as reader:
                frames_TCHW = reader.frames_at(evenly(reader.info.frames, FRAMES)).frames_TCHW
        except VideoError:
            continue
        small = functional.resize(frames_TCHW, [SHORT_SIDE], antialias=True)
        samples.append(Sample(file.name, small.numpy(), truth, predicted, score))
    return samples


def spread(rows: Sequence[Row], count: int) -> list[Row]:
    """Return at most `count` rows, evenly spaced."""
    return [rows[index] for index in evenly(len(rows), count)]
