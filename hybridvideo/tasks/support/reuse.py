"""Reusing earlier work: rows of an interrupted job, also for another list, or of a finished table, that still hold.

A row holds while its file has the size and modification time it was read with, and the quarantine has not changed its
mind about it. Rows of a finished table that may turn out differently next time (TRY_AGAIN) are redone; an interrupted
job keeps them, so that it comes to an end.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hybridvideo.data.corpus.examine import stamp
from hybridvideo.data.manifest import Manifest
from hybridvideo.documents import read_json_object
from hybridvideo.errors import USABLE, UserError
from hybridvideo.files import write_json
from hybridvideo.tasks.support.job_identity import Identity, differences, identity_of
from hybridvideo.tasks.support.output_table import Rows, has_columns, printable, read_notes, read_rows
from hybridvideo.tasks.support.part_files import Parts, Stamp, opened, rows_in
from hybridvideo.tasks.support.work import BulkWork
from hybridvideo.text import encodable

JOB, LISTING = "job.json", "digest of the list"
TRY_AGAIN = ("timeout", "crashed")


def stamp_now(manifest: Manifest, index: int) -> Stamp:
    """Return size and modification time of an input's file as it is now."""
    facts = stamp(manifest.file(index))
    return facts.get("bytes"), facts.get("mtime_ns")


def stamp_of(row: dict[str, Any]) -> Stamp:
    """Return those of the file that a row was made from."""
    return row["bytes"], row["mtime_ns"]


def listed_path(manifest: Manifest, index: int) -> str:
    """Return the path as it is written in a row."""
    return encodable(manifest.rows[index].path)


# --- ownership --------------------------------------------------------------------------------------------------------


def check_owner(table: Path, parts: Parts, identity: Identity, work: BulkWork) -> None:
    """Raise UserError if rows or a table of another job would be lost."""
    if parts.of_this_job():
        return  # it was let in before
    if parts.of_other_jobs():
        there = read_job(parts)
        why = f" ({differences(there, identity | {LISTING: there.get(LISTING)})})" if there else ""
        raise UserError(
            f"{parts.folder} holds the work of another job{why}; give that job's command to continue it, "
            "another --out, or --overwrite to remove it"
        )
    if table.exists() and (there := table_identity(table, work)) != identity:
        why = differences(there, identity) if there else "it does not record its job, or is damaged"
        raise UserError(f"{table} is not a table of this job ({why}); give another --out, or --overwrite")


def is_same(parts: Parts, identity: Identity, others: str) -> bool:
    """Return whether the running processes do this job; False if they just finished. UserError if they do another."""
    there = read_job(parts)
    if there is None:
        return False
    listing = there.pop(LISTING, None)
    if there != identity or listing != parts.listing:
        why = differences(there, identity) or "another list of inputs"
        raise UserError(f"{others} makes another table ({why}); wait until it finishes, or give another --out")
    return True


def table_identity(table: Path, work: BulkWork) -> Identity | None:
    """Return the identity of a finished table's job; None if it is unknown."""
    notes = read_notes(table)
    if notes is None or not has_columns(table, work.schema):
        return None
    return identity_of(notes, work.schema, work.free)


def read_job(parts: Parts) -> Identity | None:
    """Return the content of job.json; None if it is absent or damaged."""
    try:
        return read_json_object(parts.folder / JOB, "")
    except UserError:
        return None


def write_job(parts: Parts, identity: Identity) -> None:
    """Write job.json."""
    write_json(parts.folder / JOB, {**identity, LISTING: parts.listing})


# --- a finished table -------------------------------------------------------------------------------------------------


def rows_of_inputs(table: Path, work: BulkWork) -> Iterator[Rows]:
    """Yield the rows of each input from a finished table."""
    return work.grouped(read_rows(table, work.schema))


def is_up_to_date(table: Path, manifest: Manifest, work: BulkWork) -> bool:
    """Return whether a table has the rows of all inputs, in order, and no input has changed."""
    groups = rows_of_inputs(table, work)
    for index in range(len(manifest)):
        group = next(groups, None)
        if group is None or group[0]["path"] != listed_path(manifest, index):
            return False
        row = group[0]
        if any(row[name] != cell for name, cell in printable(work.listed(index)).items()):
            return False
        if row["status"] in TRY_AGAIN or stamp_of(row) != stamp_now(manifest, index):
            return False
        if not agrees_with_quarantine(row, index, work):
            return False
    return next(groups, None) is None


def agrees_with_quarantine(row: dict[str, Any], index: int, work: BulkWork) -> bool:
    """Return whether a row agrees with the quarantine: its status if the input is held, else that it was read."""
    if work.held is None:
        return True
    held = work.held.get(index)
    return row["status"] in USABLE if held is None else (row["status"], row["reason"]) == held


# --- going on ---------------------------------------------------------------------------------------------------------


class Before:
    """Rows of inputs by path, from a table or from parts that were made for another list."""

    def __init__(self) -> None:
        self.groups: dict[str, list[Rows]] = {}

    def add(self, groups: Iterable[Rows]) -> None:
        """Group rows by input."""
        for rows in groups:
            self.groups.setdefault(rows[0]["path"], []).append(rows)

    def rows(self, path: str, now: Stamp) -> Rows | None:
        """Return the rows of a file that has not changed; a file that is listed twice shares them."""
        return next((rows for rows in self.groups[path] if stamp_of(rows[0]) == now), None)

    def gone(self, paths: set[str]) -> int:
        """Return the inputs that are no longer listed."""
        return sum(path not in paths for path in self.groups)


def settle(table: Path | None, parts: Parts, manifest: Manifest, work: BulkWork) -> None:
    """Bring the parts up to date: keep rows that still hold, drop those of inputs that have changed.

    table: a finished one of the same job, if its rows may be used. One process does this, before any takes a piece.
    """
    before, older = Before(), parts.of_other_lists()
    for path in older:
        before.add(work.grouped(rows_in(opened(path)[1])))
    if table is not None:
        before.add(group for group in rows_of_inputs(table, work) if group[0]["status"] not in TRY_AGAIN)
    counts = [settle_piece(piece, before, parts, manifest, work) for piece in parts.pieces]
    for path in older:
        path.unlink(missing_ok=True)
    tell(sum(kept for kept, _ in counts), sum(changed for _, changed in counts), before, manifest)


def settle_piece(piece: int, before: Before, parts: Parts, manifest: Manifest, work: BulkWork) -> tuple[int, int]:
    """Return how many inputs of a piece keep their rows, and how many had rows and have changed."""
    covered = parts.covered(piece)
    stamps = {index: stamp for index, stamp in covered.items() if stamp == stamp_now(manifest, index)}
    found: Rows = []
    changed = len(covered) - len(stamps)
    for index in changed_by_quarantine(piece, parts, work) & stamps.keys():
        del stamps[index]
    for index in parts.members(piece) if before.groups else ():
        if index in covered or (path := listed_path(manifest, index)) not in before.groups:
            continue
        now = stamp_now(manifest, index)
        rows = before.rows(path, now)
        if rows is None:
            changed += 1
        elif agrees_with_quarantine(rows[0], index, work):
            stamps[index] = now
            found += [{**row, "index": index} for row in rows]
    if found or len(stamps) < len(covered):
        kept = [row for row in parts.read(piece) if row["index"] in stamps]
        parts.write(piece, sorted(kept + found, key=lambda row: row["index"]), stamps)
    return len(stamps), changed


def changed_by_quarantine(piece: int, parts: Parts, work: BulkWork) -> set[int]:
    """Return the inputs of a piece about which the quarantine has changed."""
    if work.held is None:
        return set()
    return {row["index"] for row in parts.read(piece) if not agrees_with_quarantine(row, row["index"], work)}


def tell(kept: int, changed: int, before: Before, manifest: Manifest) -> None:
    """Print how much earlier work is reused."""
    gone = before.gone({listed_path(manifest, index) for index in range(len(manifest))}) if before.groups else 0
    if kept:
        print(f"continuing after {kept} of {len(manifest)} inputs", file=sys.stderr)
    if changed:
        print(f"{changed} inputs have changed and will be redone", file=sys.stderr)
    if gone:
        print(f"{gone} inputs are not listed any more; their rows are left out", file=sys.stderr)
