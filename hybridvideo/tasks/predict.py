"""`hybridvideo predict`: videos -> their classes, in a table on the terminal, a file, and a page."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybridvideo.config.evaluation import Views
from hybridvideo.config.jobs import Compute, Job, Reading
from hybridvideo.engine.inference.rows import classify
from hybridvideo.parsing import plain
from hybridvideo.tasks.support.job_device import pick_device
from hybridvideo.tasks.support.run_folder import config_text
from hybridvideo.tasks.support.table_job import (
    STDOUT,
    BulkWork,
    Finished,
    held_by,
    model_notes,
    output_table,
    read_inputs,
    run_job,
    source_notes,
    stream_job,
)
from hybridvideo.tasks.support.weights_argument import card_of, open_model
from hybridvideo.tasks.support.write_page import keep_page, write_prediction_page
from hybridvideo.text import shown

MOST_LINES = 40  # of the table on the terminal

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "label": pa.string(),
        "score": pa.float32(),
        "topk_labels": pa.list_(pa.string()),
        "topk_scores": pa.list_(pa.float32()),
        "bytes": pa.int64(),
        "mtime_ns": pa.int64(),
    }
)


def run_prediction(
    run: str,
    source: str,
    out: str | None,
    top_k: int,
    eval: Views,
    reading: Reading,
    compute: Compute,
    job: Job,
) -> int:
    """Run the command; return its exit code."""
    table = output_table(out, run, "predictions")
    model = open_model(run)
    device = pick_device(compute.device)
    manifest = read_inputs(source)
    views = eval.over(card_of(model).eval)
    notes = {
        "job": "predict",
        "views": plain(views),
        "top_k": top_k,
        **model_notes(run, model, compute),
        "labels": list(card_of(model).labels),
        **source_notes(source, manifest, reading),
    }
    rows = partial(
        classify,
        model,
        manifest,
        views=views,
        top_k=top_k,
        **asdict(reading),
        device=device,
        precision=compute.precision,
    )
    work = BulkWork("classifying", notes, SCHEMA, rows, held=held_by(reading, manifest))
    if out == STDOUT:
        return stream_job(manifest, work, job)
    finished = run_job(table, manifest, work, job)
    show(finished)
    write = partial(write_prediction_page, finished=finished, manifest=manifest, config=config_text(run))
    page = keep_page(table, table != Path(out or ""), write)
    print(f"predictions {shown(str(table))}\nreport {shown(str(page))}")
    return 0


def show(finished: Finished) -> None:
    """Print the first rows as a table, and count those that could not be read."""
    table = Table("video", "class", "score", "others")
    for row in finished.rows[:MOST_LINES]:
        table.add_row(Text(shown(row["path"])), *cells(row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if len(finished.rows) > MOST_LINES:
        print(shown(f"... and {len(finished.rows) - MOST_LINES} more in {finished.table}"))
    print(f"{len(finished.rows)} videos, {finished.failed} unreadable{finished.pace('videos')}")


def cells(row: dict[str, Any]) -> list[Text]:
    """Return class, score and runners-up, or why there are none."""
    if row["label"] is None:
        return [Text(row["status"], "red"), Text(), Text(shown(row["reason"]))]
    others = zip(row["topk_labels"][1:4], row["topk_scores"][1:4], strict=True)
    runners_up = ", ".join(f"{name} {score:.2f}" for name, score in others)
    note = Text(f" ({shown(row['reason'])})" if row["status"] != "ok" else "", "yellow")
    return [Text(shown(row["label"])) + note, Text(f"{row['score']:.3f}"), Text(shown(runners_up))]
