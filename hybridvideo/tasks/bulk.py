"""What the two bulk jobs share: rows are kept on disk as inputs are done, so that a stopped job goes on.

OUT.parts/job.json            what the job is; another model, setting or list starts anew
OUT.parts/part-000000.jsonl   rows of some inputs, complete or absent
OUT                           the table, written when all inputs are done; then the parts go
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.data.workers import DEADLINE
from hybridvideo.engine.multiview import Precision
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.progress import progress
from hybridvideo.errors import USABLE, Preempted, TooMuchBadData, UserError
from hybridvideo.files import write_json, write_text
from hybridvideo.models.contract import VideoModel
from hybridvideo.report.environment import environment_facts
from hybridvideo.tasks.given import results_folder, weights_digest, weights_said
from hybridvideo.tasks.tables import Rows, check_format, printable, write_batches

ROWS_PER_PART = 256  # rows between two writes: what a crash can cost
ROWS_PER_GROUP = 4096  # rows of a Parquet row group


@dataclass(frozen=True)
class Job:
    """How a bulk job runs."""

    workers: int = 2
    device: str = "auto"
    precision: Precision = "fp32"
    max_bad: float = 1.0
    deadline: float = DEADLINE
    quarantine: str | None = None


@dataclass(frozen=True)
class Finished:
    """What a bulk job left: the table, one row in memory per input or clip, and how fast it was."""

    table: Path
    rows: Rows
    inputs: int
    failed: int
    seconds: float
    provenance: dict[str, Any]

    @property
    def videos_per_second(self) -> float:
        """Of those read in this call; 0 where all were done before."""
        return self.inputs / self.seconds if self.seconds else 0.0


def output_table(out: str | None, run: str, name: str) -> Path:
    """The table's path: `out`, or NAME.parquet in a folder (`out` without extension, or NAME beside the weights)."""
    path = Path(out) if out else results_folder(run) / name
    if path.suffix and not path.is_dir():
        check_format(path)
        return path
    return path / f"{name}.parquet"


def page_beside(table: Path, folder_given: bool) -> Path:
    """report.html in a folder of its own, TABLE.report.html beside a table that was named."""
    return table.with_name("report.html") if folder_given else table.with_suffix(".report.html")


def read_inputs(source: str) -> Manifest:
    """The videos of a bulk job; UserError where there is none."""
    manifest = read_manifest(source, labelled=False)
    if not len(manifest):
        raise UserError(f"{source} holds no video; give a folder of videos, a list of paths, or a video")
    return manifest


def provenance(run: str, model: VideoModel, source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Where the rows of a table come from."""
    return {"checkpoint": weights_said(run), "weights_sha256": weights_digest(run, model), "source": source,
            **settings, "environment": environment_facts()}  # fmt: skip


def run_job(
    table: Path, manifest: Manifest, compute: Callable[[Manifest], Iterable[dict[str, Any]]], schema: pa.Schema,
    notes: dict[str, Any], max_bad: float, label: str,
) -> Finished:  # fmt: skip
    """Rows of all inputs into `table`. Preempted where the person stops it; the same call goes on."""
    check_format(table)
    parts = table.with_name(table.name + ".parts")
    start_parts(parts, manifest, notes)
    done = {row["index"] for row in read_parts(parts)}
    waiting = [index for index in range(len(manifest)) if index not in done]
    if done:
        print(f"going on after {len(done)} of {len(manifest)} inputs", file=sys.stderr)
    start = time.perf_counter()
    with StopRequest() as stop, progress(label, len(manifest), done=len(done)) as advance:
        kept: Rows = []
        for rows in by_input(compute(manifest.subset(waiting)) if waiting else []):
            kept += [{**printable(row), "index": waiting[row["index"]]} for row in rows]
            advance(1)
            stopping = stop.requested
            if stopping or len(kept) >= ROWS_PER_PART:
                write_part(parts, kept)
                kept = []
            if stopping:
                raise Preempted(f"stopped; what is done is kept in {parts}: the same command goes on")
        write_part(parts, kept)
    seconds = time.perf_counter() - start
    rows = sorted(read_parts(parts), key=lambda row: row["index"])
    write_batches(table, (rows[i : i + ROWS_PER_GROUP] for i in range(0, len(rows), ROWS_PER_GROUP)), schema, notes)
    shutil.rmtree(parts)
    failed = len({row["index"] for row in rows if row["status"] not in USABLE})
    finished = Finished(table, rows, len(waiting), failed, seconds, notes)
    if failed > max_bad * len(manifest):
        share = f"{failed} of {len(manifest)} inputs"
        raise TooMuchBadData(f"{share} cannot be read, more than --max-bad {max_bad} allows; {table} says why for each")
    return finished


def start_parts(parts: Path, manifest: Manifest, notes: dict[str, Any]) -> None:
    """A folder of parts for this very job; those of another job are removed, and that is said."""
    listed = json.dumps([str(manifest.root), [row.path for row in manifest.rows]])
    job = {**notes, "inputs_sha256": hashlib.sha256(listed.encode()).hexdigest()}
    job.pop("environment", None)
    path = parts / "job.json"
    if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(job)):
        print(f"{parts} holds parts of another job (other model, settings or list); starting anew", file=sys.stderr)
        shutil.rmtree(parts)
    if not path.exists():
        write_json(path, job)


def by_input(rows: Iterable[dict[str, Any]]) -> Iterator[Rows]:
    """The rows of one input after another."""
    for _, group in itertools.groupby(rows, key=lambda row: row["index"]):
        yield list(group)


def write_part(parts: Path, rows: Rows) -> None:
    """The next part, if there is something to write."""
    if rows:
        number = len(list(parts.glob("part-*.jsonl")))
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_text(parts / f"part-{number:06d}.jsonl", text)


def read_parts(parts: Path) -> Iterator[dict[str, Any]]:
    """All rows that are kept."""
    for path in sorted(parts.glob("part-*.jsonl")):
        for line in path.read_text(encoding="utf-8").rstrip("\n").split("\n"):  # a name may hold other line ends
            yield json.loads(line)


def failures(rows: Rows) -> Iterator[str]:
    """A line for each input that could not be read."""
    for row in rows:
        if row["status"] != "ok":
            yield f"{row['path']}: {row['status']}: {row['reason']}"
