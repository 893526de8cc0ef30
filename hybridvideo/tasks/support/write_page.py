"""The report of each result: what the job has in hand, and some clips to look at, as one page.

A page says of which table it is, and of which state of it: so no job writes over the page of another, and one that is
older than its table is made anew.
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
from hybridvideo.errors import VideoError
from hybridvideo.files import locked
from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.environment import environment_facts
from hybridvideo.report.page import mark_in
from hybridvideo.report.pages.results import evaluation_page, extraction_page, prediction_page, training_page
from hybridvideo.tasks.support.table_job import Finished

CLIPS, FRAMES, SHORT_SIDE = 24, 8, 96  # of a contact sheet


def keep_page(table: Path, folder_given: bool, write: Callable[[Path, str], object]) -> Path:
    """The page of a table, made by `write` from its path and its mark, unless it is there and up to date."""
    with locked(table.with_name(".report.lock"), "writing a page", wait=True):
        page, mark = page_beside(table, folder_given), mark_of(table)
        if mark_in(page) != mark:
            write(page, mark)
    return page


def page_beside(table: Path, folder_given: bool) -> Path:
    """report.html in a folder that was given, TABLE.report.html beside a table; TABLE.EXTENSION.report.html where
    that is the page of something else."""
    first = table.with_name("report.html") if folder_given else table.with_suffix(".report.html")
    own = not first.exists() or mark_in(first).partition(" ")[0] == quote(table.name)
    return first if own else table.with_name(f"{table.name}.report.html")


def mark_of(table: Path) -> str:
    """Name, size and time of change of a table."""
    facts = table.stat()
    return f"{quote(table.name)} {facts.st_size} {facts.st_mtime_ns}"


def write_training_page(folder: Path, results: dict[str, Any] | None, rows: Rows, val: Manifest | None) -> Path:
    """RUN/report.html; `rows` are those of the evaluation at its end."""
    samples = evaluation_samples(rows, val) if val is not None else []
    return training_page(folder / "report.html", folder, results, samples, title=f"Training: {folder.resolve().name}")


def write_evaluation_page(
    folder: Path, results: dict[str, Any], rows: Rows, manifest: Manifest, config: str | None
) -> Path:
    """The page beside results.json and scores.parquet; `config`: the text of the run's settings."""
    read = [row for row in rows if row["predicted"] is not None]

    def write(page: Path, mark: str) -> None:
        evaluation_page(
            page, results, evaluation_samples(rows, manifest), environment_facts(), config,
            scores=[max(row["scores"]) for row in read], correct=[row["predicted"] == row["label"] for row in read],
            title=f"Evaluation: {last_part(results['checkpoint'], 'checkpoints')} on {last_part(results['list'])}",
            mark=mark,
        )  # fmt: skip

    return keep_page(folder / "scores.parquet", True, write)


def write_prediction_page(page: Path, mark: str, finished: Finished, manifest: Manifest, config: str | None) -> Path:
    """The page of a classification job."""
    chosen = spread([row for row in finished.rows if row["label"] is not None], CLIPS)
    samples = read_samples((manifest.file(row["index"]), None, row["label"], row["score"]) for row in chosen)
    title, summary = job_title("Predictions", finished), job_summary(finished)
    return prediction_page(page, finished.rows, samples, summary, environment_facts(), config, title=title, mark=mark)


def write_extraction_page(page: Path, mark: str, finished: Finished, config: str | None) -> Path:
    """The page of an extraction job."""
    read = [row for row in finished.rows if row["feature"] is not None]
    features_ND = np.array([row["feature"] for row in read], np.float32).reshape(-1, finished.provenance["width"])
    title, summary = job_title("Features", finished), job_summary(finished)
    facts = environment_facts()
    return extraction_page(page, summary, features_ND, finished.rows, facts, config, title=title, mark=mark)


def job_summary(finished: Finished) -> dict[str, object]:
    """What a bulk job did, for the page; the speed is that of the inputs done in this call."""
    notes = finished.provenance
    inputs = len({row["index"] for row in finished.rows})
    earlier = {"inputs done in this call": finished.inputs} if finished.inputs < inputs else {}
    speed = {"videos per second": round(finished.videos_per_second, 1)} if finished.inputs else {}
    return {
        "inputs": inputs, "unreadable": finished.failed, **earlier, **speed, "model": notes["model"],
        "checkpoint": notes["checkpoint"], "source": notes["source"],
        "clips x crops": f"{notes['views']['clips']} x {notes['views']['crops']}", "table": str(finished.table),
    }  # fmt: skip


def job_title(what: str, finished: Finished) -> str:
    """`Predictions: clips by my-run`."""
    notes = finished.provenance
    return f"{what}: {last_part(notes['source'])} by {last_part(notes['checkpoint'], 'checkpoints')}"


def last_part(place: str, below: str = "") -> str:
    """Name of a file or folder; runs/x/checkpoints/best is x, best. What is no path, such as hf:a/b, stays."""
    path = Path(place)
    if not path.exists():
        return place
    path = path.resolve()
    return f"{path.parent.parent.name}, {path.name}" if below and path.parent.name == below else path.name or place


# --- clips to look at -------------------------------------------------------------------------------------------------

Rows = Sequence[dict[str, Any]]


def evaluation_samples(rows: Rows, manifest: Manifest) -> list[Sample]:
    """Mistakes first, up to half of the sheet, then right answers."""
    read = [row for row in rows if row["predicted"] is not None]
    wrong = spread([row for row in read if row["predicted"] != row["label"]], CLIPS // 2)
    right = spread([row for row in read if row["predicted"] == row["label"]], CLIPS - len(wrong))
    return read_samples(
        (manifest.file(row["index"]), row["label_name"], row["predicted_name"], max(row["scores"]))
        for row in [*wrong, *right]
    )


def read_samples(videos: Iterable[tuple[Path, str | None, str, float]]) -> list[Sample]:
    """Evenly spaced small frames of each (file, truth, predicted, score); a file gone since then is left out."""
    samples = []
    for file, truth, predicted, score in videos:
        try:
            with VideoReader(file) as reader:
                indices = np.linspace(0, reader.info.frames - 1, min(FRAMES, reader.info.frames)).round().astype(int)
                frames_TCHW = reader.frames_at(indices.tolist()).frames_TCHW
        except VideoError:
            continue
        small = functional.resize(frames_TCHW, [SHORT_SIDE], antialias=True)
        samples.append(Sample(file.name, small.numpy(), truth, predicted, score))
    return samples


def spread(rows: Rows, count: int) -> list[dict[str, Any]]:
    """At most `count` rows, evenly from the whole list."""
    if len(rows) <= count:
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]
