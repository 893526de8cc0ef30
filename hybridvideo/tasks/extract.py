"""`hybridvideo extract`: videos -> one feature vector per clip, in a file and a page."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hybridvideo.config.evaluation import Views
from hybridvideo.config.jobs import Compute, Job, Reading
from hybridvideo.engine.inference.rows import extract, feature_function
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain
from hybridvideo.tasks.support.job_device import pick_device
from hybridvideo.tasks.support.run_folder import config_text
from hybridvideo.tasks.support.table_job import (
    STDOUT,
    BulkWork,
    Finished,
    failures,
    held_by,
    model_notes,
    output_table,
    read_inputs,
    run_job,
    source_notes,
    stream_job,
)
from hybridvideo.tasks.support.weights_argument import card_of, open_model
from hybridvideo.tasks.support.write_page import keep_page, write_extraction_page
from hybridvideo.text import shown


def run_extraction(
    run: str,
    source: str,
    out: str | None,
    stage: str,
    eval: Views,
    reading: Reading,
    compute: Compute,
    job: Job,
) -> int:
    """Run the command; return its exit code."""
    table = output_table(out, run, "features")
    model = open_model(run)
    device = pick_device(compute.device)
    width = feature_width(model, stage)
    manifest = read_inputs(source)
    views = eval.over(card_of(model).eval)
    notes = {
        "job": "extract",
        "stage": stage,
        "width": width,
        "views": plain(views),
        **model_notes(run, model, compute),
        **source_notes(source, manifest, reading),
    }
    rows = partial(
        extract,
        model,
        manifest,
        stage=stage,
        views=views,
        **asdict(reading),
        device=device,
        precision=compute.precision,
    )
    rows_of = partial(rows_of_input, clips=views.clips)
    work = BulkWork("extracting", notes, feature_schema(width), rows, rows_of, held=held_by(reading, manifest))
    if out == STDOUT:
        return stream_job(manifest, work, job)
    finished = run_job(table, manifest, work, job)
    show(finished, len(manifest))
    page = keep_page(
        table, table != Path(out or ""), partial(write_extraction_page, finished=finished, config=config_text(run))
    )
    print(f"features {shown(str(table))}\nreport {shown(str(page))}")
    return 0


def rows_of_input(first: dict[str, Any], clips: int) -> int:
    """Return how many rows an input has: one per clip, or one that gives the reason for having none."""
    return 1 if first["start"] is None else clips


def show(finished: Finished, inputs: int) -> None:
    """Print what was extracted, and each input that could not be read."""
    notes, clips = finished.provenance, sum(row["feature"] is not None for row in finished.rows)
    print(
        f"{clips} clips of {inputs - finished.failed} videos, {notes['width']} numbers each, from {notes['stage']}; "
        f"{finished.failed} unreadable{finished.pace('videos')}"
    )
    for line in failures(finished.rows):
        print(shown(line))


def feature_schema(width: int) -> pa.Schema:
    """Return the columns of the table; `feature` has a fixed size, so that readers map it without copying."""
    return pa.schema(
        {
            "path": pa.string(),
            "status": pa.string(),
            "reason": pa.string(),
            "start": pa.float64(),
            "end": pa.float64(),
            "feature": pa.list_(pa.float32(), width),
            "bytes": pa.int64(),
            "mtime_ns": pa.int64(),
        }
    )


class Features(nn.Module):
    """A model up to a stage."""

    def __init__(self, model: VideoModel, stage: str) -> None:
        super().__init__()
        self.model, self.compute = model, feature_function(model, stage)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.compute(x_BCTHW)


@torch.no_grad()
def feature_width(model: VideoModel, stage: str) -> int:
    """Return the length of a stage's vectors, from shapes alone. UserError for an unknown stage, before any reading."""
    features = Features(model, stage)
    shapes = {name: value.to("meta") for name, value in [*features.named_parameters(), *features.named_buffers()]}
    return int(functional_call(features, shapes, (torch.zeros(1, *model.input_shape, device="meta"),)).shape[1])
