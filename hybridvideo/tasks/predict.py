"""`hybridvideo predict`: videos -> their classes, in a table on the terminal, a file, and a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybridvideo.config.evaluation import Views
from hybridvideo.engine.inference.rows import classify
from hybridvideo.parsing import plain
from hybridvideo.tasks.support.device import pick_device
from hybridvideo.tasks.support.run_folder import config_text
from hybridvideo.tasks.support.table_job import (
    STDOUT,
    Finished,
    Job,
    Work,
    held_by,
    output_table,
    provenance,
    quarantine_notes,
    read_inputs,
    run_job,
    stream_job,
)
from hybridvideo.tasks.support.weights_argument import card_of, open_model
from hybridvideo.tasks.support.write_page import keep_page, write_prediction_page
from hybridvideo.text import shown

MOST_LINES = 40  # of the table on the terminal

SCHEMA = pa.schema(
    [
        ("path", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("label", pa.string()),
        ("score", pa.float32()), ("topk_labels", pa.list_(pa.string())), ("topk_scores", pa.list_(pa.float32())),
        ("bytes", pa.int64()), ("mtime_ns", pa.int64()),
    ]
)  # fmt: skip


def run_prediction(run: str, source: str, out: str | None, top_k: int, eval: Views, job: Job) -> int:
    """The command."""
    table = output_table(out, run, "predictions")
    model = open_model(run)
    device = pick_device(job.device)
    manifest = read_inputs(source)
    card = card_of(model)
    views = eval.over(card.eval)
    settings = {"job": "predict", "views": plain(views), "top_k": top_k, "precision": job.precision,
                "preprocessing": plain(model.preprocessing), "model": card.name,
                "labels": list(card.labels)}  # fmt: skip
    work = Work(
        "classifying", provenance(run, model, source, manifest, settings | quarantine_notes(job)), SCHEMA,
        lambda order: classify(model, manifest, views=views, top_k=top_k, workers=job.workers,
                               deadline=job.deadline, quarantine=job.quarantine, device=device,
                               precision=job.precision, order=order),
        held=held_by(job, manifest),
    )  # fmt: skip
    if out == STDOUT:
        return stream_job(manifest, work, job)
    finished = run_job(table, manifest, work, job)
    show(finished)
    page = keep_page(
        table, table != Path(out or ""),
        lambda page, mark: write_prediction_page(page, mark, finished, manifest, config_text(run)),
    )  # fmt: skip
    print(f"predictions {shown(str(table))}\nreport {shown(str(page))}")
    return 0


def show(finished: Finished) -> None:
    """The first rows as a table; all that could not be read are counted."""
    table = Table("video", "class", "score", "others")
    for row in finished.rows[:MOST_LINES]:
        table.add_row(Text(shown(row["path"])), *cells(row))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    if len(finished.rows) > MOST_LINES:
        print(shown(f"... and {len(finished.rows) - MOST_LINES} more in {finished.table}"))
    print(f"{len(finished.rows)} videos, {finished.failed} unreadable{finished.pace('videos')}")


def cells(row: dict[str, Any]) -> list[Text]:
    """Class, score and runners-up, or why there are none."""
    if row["label"] is None:
        return [Text(row["status"], "red"), Text(), Text(shown(row["reason"]))]
    others = zip(row["topk_labels"][1:4], row["topk_scores"][1:4], strict=True)
    runners_up = ", ".join(f"{name} {score:.2f}" for name, score in others)
    note = Text(f" ({shown(row['reason'])})" if row["status"] != "ok" else "", "yellow")
    return [Text(shown(row["label"])) + note, Text(f"{row['score']:.3f}"), Text(shown(runners_up))]
