"""What a scan found unusable is not opened again: its item says at once what the scan said.

Held are the rows of a scan's table that are not usable (errors.USABLE), for as long as the file is the one that was
scanned: of the same size, and of the same time of change or the same content. A file that was mended or replaced, or
that was missing and has come, is tried again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybridvideo.data.manifest import Manifest
from hybridvideo.data.scan import checksum, stamp
from hybridvideo.errors import STATUSES, USABLE, UserError

COLUMNS = ("path", "status", "reason", "bytes", "mtime_ns", "checksum")


def quarantined(table: str | Path | None, manifest: Manifest) -> dict[int, tuple[str, str]]:
    """Rows of the manifest that are not to be opened: index -> (status, reason); empty without a table.

    table: Parquet, as `hybridvideo scan` writes it. A file is the same file by whatever way its folder is reached.
    Raises UserError for a table that is no scan's.
    """
    if table is None:
        return {}
    held = read_held(Path(table))
    place = cache(os.path.realpath)  # of folders: many files, few folders

    def found(index: int) -> dict[str, Any] | None:
        folder, name = os.path.split(os.path.abspath(manifest.file(index)))
        row = held.get(os.path.join(place(folder), name))
        return row if row is not None and unchanged(manifest.file(index), row) else None

    rows = ((index, found(index)) for index in range(len(manifest)))
    return {index: (row["status"], row["reason"]) for index, row in rows if row is not None}


def read_held(table: Path) -> dict[str, dict[str, Any]]:
    """Unusable files of a scan's table by their path, its folders without links."""
    root, rows = read_scan(table)
    held: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["status"] in USABLE:
            continue
        if row["status"] not in STATUSES:
            raise UserError(f"{table}: {row['path']!r} has the unknown status {row['status']!r}; scan again")
        folder, name = os.path.split(os.path.abspath(root / row["path"]))
        held[os.path.join(os.path.realpath(folder), name)] = row
    return held


def read_scan(table: Path) -> tuple[Path, Sequence[dict[str, Any]]]:
    """The folder that a scan's paths start from, and its rows."""
    advice = "give the .parquet table that `hybridvideo scan` wrote"
    if not table.is_file():
        raise UserError(f"no quarantine table {str(table)!r}; {advice}")
    try:
        schema = pq.read_schema(table)
        notes = json.loads((schema.metadata or {}).get(b"hybridvideo", b"{}"))
        missing = [name for name in COLUMNS if name not in schema.names]
        if missing or "root" not in notes:
            raise UserError(f"{table} is not the table of a scan ({', '.join(missing) or 'no root'} missing); {advice}")
        return Path(notes["root"]), pq.read_table(table, columns=list(COLUMNS)).to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{table} is not readable as Parquet ({str(error).splitlines()[0]}); {advice}") from None


def unchanged(file: Path, row: dict[str, Any]) -> bool:
    """Whether a file is still the one that was scanned."""
    now = stamp(file)
    if not now or row["bytes"] is None:  # gone; or not there when it was scanned, or refused by its name
        return row["status"] == "missing" if not now else row["status"] != "missing"
    if now["bytes"] != row["bytes"]:
        return False
    return bool(now["mtime_ns"] == row["mtime_ns"] or (row["checksum"] and checksum(file) == row["checksum"]))
