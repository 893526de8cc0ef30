"""`hybridvideo extract`: videos -> one feature vector per clip, in a file and a page."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hybridvideo.config.evaluation import Views
from hybridvideo.engine.inference.rows import extract as extract_rows
from hybridvideo.engine.inference.rows import feature_function
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain
from hybridvideo.tasks.support.device import pick_device
from hybridvideo.tasks.support.run_folder import config_text
from hybridvideo.tasks.support.table_job import (
    STDOUT,
    Job,
    Work,
    failures,
    held_by,
    output_table,
    provenance,
    quarantine_notes,
    read_inputs,
    run_job,
    stream_job,
)
from hybridvideo.tasks.support.weights_argument import card_of, open_model
from hybridvideo.tasks.support.write_page import keep_page, write_extraction_page
from hybridvideo.text import shown


def run_extraction(run: str, source: str, out: str | None, stage: str, eval: Views, job: Job) -> int:
    """The command."""
    table = output_table(out, run, "features")
    model = open_model(run)
    device = pick_device(job.device)
    width = feature_width(model, stage)
    manifest = read_inputs(source)
    card = card_of(model)
    views = eval.over(card.eval)
    settings = {"job": "extract", "stage": stage, "width": width, "views": plain(views), "precision": job.precision,
                "preprocessing": plain(model.preprocessing), "model": card.name}  # fmt: skip
    work = Work(
        "extracting", provenance(run, model, source, manifest, settings | quarantine_notes(job)),
        feature_schema(width),
        lambda order: extract_rows(model, manifest, stage=stage, views=views, workers=job.workers,
                                   deadline=job.deadline, quarantine=job.quarantine, device=device,
                                   precision=job.precision, order=order),
        rows_of=lambda row: 1 if row["start"] is None else views.clips,
        held=held_by(job, manifest),
    )  # fmt: skip
    if out == STDOUT:
        return stream_job(manifest, work, job)
    finished = run_job(table, manifest, work, job)
    clips = sum(row["feature"] is not None for row in finished.rows)
    print(f"{clips} clips of {len(manifest) - finished.failed} videos, {width} numbers each, from {stage}; "
          f"{finished.failed} unreadable{finished.pace('videos')}")  # fmt: skip
    for line in failures(finished.rows):
        print(shown(line))
    page = keep_page(
        table, table != Path(out or ""),
        lambda page, mark: write_extraction_page(page, mark, finished, config_text(run)),
    )  # fmt: skip
    print(f"features {shown(str(table))}\nreport {shown(str(page))}")
    return 0


def feature_schema(width: int) -> pa.Schema:
    """Columns of the table; `feature` has a fixed size, which readers map without copying."""
    return pa.schema(
        [
            ("path", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("start", pa.float64()),
            ("end", pa.float64()), ("feature", pa.list_(pa.float32(), width)), ("bytes", pa.int64()),
            ("mtime_ns", pa.int64()),
        ]
    )  # fmt: skip


class Features(nn.Module):
    """A model up to a stage, as a module."""

    def __init__(self, model: VideoModel, stage: str) -> None:
        super().__init__()
        self.model, self.compute = model, feature_function(model, stage)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.compute(x_BCTHW)


@torch.no_grad()
def feature_width(model: VideoModel, stage: str) -> int:
    """Length of a stage's vectors, from shapes alone; UserError for an unknown stage, before any video is read."""
    features = Features(model, stage)
    shapes = {name: value.to("meta") for name, value in [*features.named_parameters(), *features.named_buffers()]}
    return int(functional_call(features, shapes, (torch.zeros(1, *model.input_shape, device="meta"),)).shape[1])
