"""`hybridvideo scan`: check every video of a corpus -> a table, a summary on the terminal, and a page."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybridvideo.config.jobs import Decoding, Job
from hybridvideo.data.corpus.examine import ScanSettings, examine, listed
from hybridvideo.data.decode import BACKENDS
from hybridvideo.data.decode.known import SUFFIX
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.errors import STATUSES, TooMuchBadData, UserError, nearest
from hybridvideo.report.environment import environment_facts
from hybridvideo.report.numbers import percent
from hybridvideo.report.pages.scan_page import next_steps, scan_page
from hybridvideo.report.sections.settings import MadeWith
from hybridvideo.tasks.support.table_job import STDOUT, BulkWork, Finished, run_job, stream_job
from hybridvideo.tasks.support.write_page import keep_page, last_part
from hybridvideo.text import duration, shown

__all__ = ["ScanSettings", "run_scan"]

MOST_LINES = 20  # of the bad files on the terminal

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "label": pa.string(),
        "group": pa.string(),
        "promised": pa.int64(),
        "decoded": pa.int64(),
        "codec": pa.string(),
        "pixel_format": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "fps": pa.float64(),
        "duration": pa.float64(),
        "regular": pa.bool_(),
        "rotation": pa.int64(),
        "bytes": pa.int64(),
        "mtime_ns": pa.int64(),
        "checksum": pa.string(),
    }
)


def run_scan(
    source: str, out: str, settings: ScanSettings, labelled: bool, root: str | None, decoding: Decoding, job: Job
) -> int:
    """Run the command; return its exit code."""
    if settings.backend not in ("auto", *BACKENDS):
        allowed = ("auto", *BACKENDS)
        hint = nearest(settings.backend, allowed)
        raise UserError(f"no decoding backend is called {settings.backend!r}{hint}; allowed: {', '.join(allowed)}")
    table = Path(out) if Path(out).suffix and not Path(out).is_dir() else Path(out) / "scan.parquet"
    manifest = read_manifest(source, root=root, labelled=labelled)
    settings = replace(settings, index=None if out == STDOUT else str(table) + SUFFIX)
    work = scan_work(manifest, source, settings, decoding)
    if out == STDOUT:
        return stream_job(manifest, work, job)
    finished = run_job(table, manifest, work, replace(job, max_bad=1.0))

    def write(page: Path, mark: str) -> None:
        made_with = MadeWith(work.notes["environment"])
        scan_page(
            page, finished.rows, facts(finished, manifest), made_with, title=f"Scan: {last_part(source)}", mark=mark
        )

    page = keep_page(table, table != Path(out), write)
    show(finished, table, page)
    if finished.failed > job.max_bad * len(manifest):
        raise TooMuchBadData(
            f"{finished.failed} of {len(manifest)} files are unusable, more than --max-bad {job.max_bad} allows; "
            f"{table} gives the reason for each"
        )
    return 0


def scan_work(manifest: Manifest, source: str, settings: ScanSettings, decoding: Decoding) -> BulkWork:
    """Return the work: one row per file."""
    notes = {
        "job": "scan",
        "source": os.path.abspath(source),
        "root": os.path.abspath(manifest.root),
        "labels": list(manifest.labels),
        **asdict(replace(settings, index=None)),
        "deadline": decoding.deadline,
        "environment": environment_facts(),
    }
    rows = partial(examine, manifest, settings, **asdict(decoding))
    return BulkWork("scanning", notes, SCHEMA, rows, listed=partial(listed, manifest), free=("labels",))


def facts(finished: Finished, manifest: Manifest) -> dict[str, object]:
    """Return what was done, for the page."""
    notes = finished.provenance
    return {
        "source": notes["source"],
        "paths start from": notes["root"],
        "decoded": notes["decode"],
        "backend": notes["backend"],
        "short": f"fewer than {notes['short']} frames",
        "deadline": f"{notes['deadline']:g} s a file",
        "files": len(manifest),
        "scanned in this call": finished.inputs,
        "in": duration(finished.seconds),
        "table": str(finished.table),
    }


# ---- for a person ----------------------------------------------------------------------------------------------------


def show(finished: Finished, table: Path, page: Path) -> None:
    """Print counts by status, the first bad files, and what to do next."""
    rows = finished.rows
    counts = Counter(row["status"] for row in rows)
    summary = Table("status", "files", "share")
    for status in STATUSES:
        if counts[status]:
            summary.add_row(status, str(counts[status]), percent(counts[status] / len(rows)))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(summary)
    show_bad(console, [row for row in rows if row["status"] != "ok"])
    print(f"{len(rows)} files, {finished.failed} unusable{finished.pace('files')}")
    for step in next_steps(rows, str(table)):
        print(shown(f"- {step}"))
    print(f"table {shown(str(table))}\nreport {shown(str(page))}")


def show_bad(console: Console, bad: Sequence[dict[str, Any]]) -> None:
    """Print the first files that are not ok, with the reasons."""
    if not bad:
        return
    listed = Table("file", "status", "reason")
    for row in bad[:MOST_LINES]:
        listed.add_row(*(Text(shown(row[name])) for name in ("path", "status", "reason")))
    console.print(listed)
    if len(bad) > MOST_LINES:
        print(f"... and {len(bad) - MOST_LINES} more in the table")
