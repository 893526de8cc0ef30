"""What the bulk jobs share: rows are kept as inputs are done, so a stopped job can continue and several can share it.

OUT.parts/     rows of what is done (part_files.py)   .OUT.locks/    who works on what (work_sharing.py)
OUT            the table, written when every input has its rows; then the parts go

A call that finds parts or the table of its own job continues from them (reuse.py); those of another job stay as they
are unless --overwrite is given. `--out -` keeps nothing: rows are JSON lines on standard output.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridvideo.config.jobs import Compute, Job, Reading
from hybridvideo.data.corpus.quarantine import quarantined
from hybridvideo.data.manifest import Manifest, read_manifest
from hybridvideo.engine.preemption import StopRequest
from hybridvideo.engine.progress import progress
from hybridvideo.errors import USABLE, EnvironmentFault, Preempted, TooMuchBadData, UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import plain
from hybridvideo.report.environment import environment_facts
from hybridvideo.tasks.support import reuse
from hybridvideo.tasks.support.job_identity import Identity, digest, digest_of_list, identity_of
from hybridvideo.tasks.support.output_table import (
    ROWS_PER_BATCH,
    Rows,
    check_format,
    json_line,
    printable,
    write_batches,
)
from hybridvideo.tasks.support.part_files import Parts, Stamp
from hybridvideo.tasks.support.weights_argument import card_of, results_folder, weights_digest, weights_name
from hybridvideo.tasks.support.work import BulkWork
from hybridvideo.tasks.support.work_sharing import Claims, Crew, stamped
from hybridvideo.text import shown

__all__ = ["STDOUT", "BulkWork", "Finished", "run_job", "stream_job"]

STDOUT = "-"  # as --out
SECONDS_BETWEEN_LOOKS = 0.5  # at the pieces of others, when nothing else is left


@dataclass(frozen=True)
class Finished:
    """The result of a bulk job: the table, its rows in memory, one per input or clip, and how fast it was.

    inputs: those done by this call; 0 if nothing was left to do.
    """

    table: Path
    rows: Rows
    inputs: int
    failed: int
    seconds: float
    provenance: dict[str, Any]

    @property
    def videos_per_second(self) -> float:
        """Rate of those read in this call; 0 if all were done before."""
        return self.inputs / self.seconds if self.seconds else 0.0

    def pace(self, unit: str) -> str:
        """`, 5.1 videos/s` for the end of a line; nothing if nothing was left to do."""
        return f", {self.videos_per_second:.1f} {unit}/s" if self.inputs else ""


# --- what is asked for ------------------------------------------------------------------------------------------------


def output_table(out: str | None, run: str, name: str) -> Path:
    """Return the table's path: `out`, or NAME.parquet in a folder (`out` without extension, or next to the weights)."""
    path = Path(out) if out else results_folder(run) / name
    if path.suffix and not path.is_dir():
        check_format(path)
        return path
    return path / f"{name}.parquet"


def read_inputs(source: str) -> Manifest:
    """Return the videos of a bulk job. Raise UserError if there is none."""
    manifest = read_manifest(source, labelled=False)
    if not len(manifest):
        raise UserError(f"{source} holds no video; give a folder of videos, a list of paths, or a video")
    return manifest


def model_notes(run: str, model: VideoModel, compute: Compute) -> dict[str, Any]:
    """Return the model the rows of a table come from, and its precision."""
    return {
        "precision": compute.precision,
        "preprocessing": plain(model.preprocessing),
        "model": card_of(model).name,
        "checkpoint": weights_name(run),
        "weights_sha256": weights_digest(run, model),
    }


def source_notes(source: str, manifest: Manifest, reading: Reading) -> dict[str, Any]:
    """Return the list the rows of a table come from, and where they were computed.

    Jobs with and without a quarantine are different jobs; a quarantine that has grown does not make another job.
    """
    return {
        "source": os.path.abspath(source),
        "root": os.path.abspath(manifest.root),
        "quarantine": reading.quarantine,
        "with_quarantine": reading.quarantine is not None,
        "environment": environment_facts(),
    }


def held_by(reading: Reading, manifest: Manifest) -> dict[int, tuple[str, str]] | None:
    """Return the inputs that a quarantine excludes, by index; None without a quarantine."""
    return None if reading.quarantine is None else quarantined(reading.quarantine, manifest)


# --- the job ----------------------------------------------------------------------------------------------------------


def run_job(table: Path, manifest: Manifest, work: BulkWork, job: Job) -> Finished:
    """Write the rows of all inputs to `table`; earlier work that still holds is not redone.

    Raises Preempted if the user stops it: the same call continues. Raises UserError if another process is using
    the table, unless `job.join`, or if the table is another job's, unless `job.overwrite`.
    """
    check_format(table)
    identity = identity_of(work.notes, work.schema, work.free)
    parts = parts_of(table, manifest, identity, work)
    crew = Crew(table, str(work.notes["job"]))
    done, seconds, rows = 0, 0.0, None
    with contextlib.ExitStack() as stack:
        stack.callback(crew.tidy)
        with crew.door(wait=job.join):
            begun = begin(table, parts, manifest, identity, work, job, crew)
            if begun:
                stack.enter_context(crew.membership())
        if begun:
            start = time.perf_counter()
            done = do_all(parts, crew, manifest, work)
            seconds = time.perf_counter() - start
            rows = write_once(table, parts, crew, work)
        else:
            text = f"nothing to do: {table} has all {len(manifest)} inputs, and none has changed"
            print(shown(text), file=sys.stderr)
    if rows is None:
        rows = rows_of_table(table, manifest, identity, work)
    failed = len({row["index"] for row in rows if row["status"] not in USABLE})
    check_share(failed, len(manifest), job.max_bad, f"{table} gives the reason for each")
    return Finished(table, rows, done, failed, seconds, work.notes)


def parts_of(table: Path, manifest: Manifest, identity: Identity, work: BulkWork) -> Parts:
    """Return the files that keep the rows of this job and list."""
    listed = ((row.path, *work.listed(index).values()) for index, row in enumerate(manifest.rows))
    folder = table.with_name(table.name + ".parts")
    return Parts(folder, digest(identity), digest_of_list(listed), len(manifest))


def begin(
    table: Path, parts: Parts, manifest: Manifest, identity: Identity, work: BulkWork, job: Job, crew: Crew
) -> bool:
    """Join running processes, or bring the parts up to date; return False if nothing is left to do."""
    while others := ", ".join(crew.others()):
        if not job.join:
            raise UserError(
                f"{others} is using {table}; wait until it finishes, give --join to share its work, "
                "or give another --out"
            )
        parts.begin()
        if reuse.is_same(parts, identity, others):
            return True
        time.sleep(SECONDS_BETWEEN_LOOKS)  # they have finished and are about to leave
    if job.overwrite and not parts.of_this_job():
        parts.remove()
    elif not job.overwrite:
        reuse.check_owner(table, parts, identity, work)
    usable = (job.join or not job.overwrite) and reuse.table_identity(table, work) == identity
    if usable and not parts.of_this_job() and reuse.is_up_to_date(table, manifest, work):
        return False
    reuse.settle(table if usable else None, parts, manifest, work)
    reuse.write_job(parts, identity)
    parts.begin()
    return True


def do_all(parts: Parts, crew: Crew, manifest: Manifest, work: BulkWork) -> int:
    """Work until every piece of the list is complete; return how many inputs were done here."""
    with StopRequest() as stop, progress(work.label, len(manifest)) as advance:
        claims = Claims(parts, crew, lambda index: reuse.stamp_now(manifest, index), advance)
        try:
            while claims.open:
                if not do_pieces(claims, work, stop):
                    wait_for_others(claims, crew, stop)
        except Preempted:
            claims.write_all()
            raise
        finally:
            claims.release_all()
    return claims.done


def do_pieces(claims: Claims, work: BulkWork, stop: StopRequest) -> bool:
    """Do all free pieces, one after another; return False if none is free. Raise Preempted if stopped."""
    order = claims.take()
    if (first := next(order, None)) is None:
        return False
    for rows in work.by_input(itertools.chain([first], order)):
        claims.keep(rows)
        stop_if_asked(claims, stop)
    claims.check_all_came()
    return True


def wait_for_others(claims: Claims, crew: Crew, stop: StopRequest) -> None:
    """Wait until a piece is free, because its process has died, or none is left."""
    if claims.open:
        others = ", ".join(crew.others()) or "another process"
        print(shown(f"waiting for the last rows of {others}"), file=sys.stderr)
    while claims.open and not claims.any_free():
        stop_if_asked(claims, stop)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def stop_if_asked(claims: Claims, stop: StopRequest) -> None:
    """Raise Preempted if the user asked for it."""
    if stop.requested:
        raise Preempted(f"stopped; what is done is kept in {claims.parts.folder}; run the same command to continue")


# --- the table --------------------------------------------------------------------------------------------------------


def write_once(table: Path, parts: Parts, crew: Crew, work: BulkWork) -> Rows | None:
    """Write the table from the parts, and remove them; None if another process has done so."""
    with crew.table():
        if parts.are_gone():
            return None
        rows = all_rows(parts, work)
        batches = (rows[first : first + ROWS_PER_BATCH] for first in range(0, len(rows), ROWS_PER_BATCH))
        write_batches(table, batches, work.schema, work.notes)
        parts.remove()
    return rows


def all_rows(parts: Parts, work: BulkWork) -> Rows:
    """Return all rows in the order of the list. Raise EnvironmentFault if an input has none."""
    rows: Rows = []
    for piece in parts.pieces:
        kept = sorted(parts.read(piece), key=lambda row: row["index"])
        if lost := set(parts.members(piece)) - {row["index"] for row in kept}:
            raise EnvironmentFault(
                f"rows of {len(lost)} inputs are gone from {parts.folder}; run the same command to redo them"
            )
        rows += [row | printable(work.listed(row["index"])) for row in kept]
    return rows


def rows_of_table(table: Path, manifest: Manifest, identity: Identity, work: BulkWork) -> Rows:
    """Return the rows of a finished table, with the `index` of each input. EnvironmentFault if some are missing."""
    groups = list(reuse.rows_of_inputs(table, work)) if reuse.table_identity(table, work) == identity else []
    listed = [reuse.listed_path(manifest, index) for index in range(len(manifest))]
    if [rows[0]["path"] for rows in groups] != listed:
        raise EnvironmentFault(f"{table} lacks rows of this job, and its parts are gone; run the command again")
    return [{**row, "index": index} for index, rows in enumerate(groups) for row in rows]


def check_share(failed: int, inputs: int, max_bad: float, where: str) -> None:
    """Raise TooMuchBadData if more inputs cannot be read than allowed."""
    if failed > max_bad * inputs:
        share = f"{failed} of {inputs} inputs"
        raise TooMuchBadData(f"{share} cannot be read, more than --max-bad {max_bad} allows; {where}")


def failures(rows: Rows) -> Iterator[str]:
    """Return a line for each input that could not be read."""
    for row in rows:
        if row["status"] != "ok":
            yield f"{row['path']}: {row['status']}: {row['reason']}"


# --- standard output --------------------------------------------------------------------------------------------------


def stream_job(manifest: Manifest, work: BulkWork, job: Job) -> int:
    """Print the rows of all inputs as JSON lines, as they come; return the exit code."""
    stamps: dict[int, Stamp] = {}

    def order() -> Iterator[int]:
        for index in range(len(manifest)):
            stamps[index] = reuse.stamp_now(manifest, index)
            yield index

    failed = 0
    with progress(work.label, len(manifest)) as advance:
        for rows in work.by_input(order()):
            index = rows[0]["index"]
            stamp = stamps.pop(index)
            for row in rows:
                whole = stamped(printable(row | work.listed(index)), stamp)
                sys.stdout.buffer.write(json_line(whole, work.schema).encode())
            sys.stdout.buffer.flush()
            failed += rows[0]["status"] not in USABLE
            advance(1)
    check_share(failed, len(manifest), job.max_bad, "the lines give the reasons")
    return 0
