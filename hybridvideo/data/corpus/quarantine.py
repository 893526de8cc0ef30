"""What a scan found unusable is not opened again: its item says at once what the scan said.

Held are the rows of a scan's table that are not usable (errors.USABLE), for as long as the file is the one that was
scanned: of the same size, and of the same time of change or the same content. A file that was mended or replaced, or
that was missing and has come, is tried again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybridvideo.data.corpus.examine import checksum, stamp
from hybridvideo.data.manifest import Manifest
from hybridvideo.documents import load_json
from hybridvideo.errors import STATUSES, USABLE, UserError
from hybridvideo.parsing import short_repr
from hybridvideo.text import one_line

COLUMNS = pa.schema(
    [
        ("path", pa.string()), ("status", pa.string()), ("reason", pa.string()), ("bytes", pa.int64()),
        ("mtime_ns", pa.int64()), ("checksum", pa.string()),
    ]
)  # fmt: skip
ADVICE = "give the .parquet table that `hybridvideo scan` wrote"


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
        if not row["path"] or "\0" in row["path"]:
            raise UserError(f"{table}: a row has no path ({short_repr(row['path'])}); scan again")
        if row["status"] not in STATUSES:
            raise UserError(
                f"{table}: {short_repr(row['path'])} has the unknown status {short_repr(row['status'])}; scan again"
            )
        folder, name = os.path.split(os.path.abspath(root / row["path"]))
        held[os.path.join(os.path.realpath(folder), name)] = row
    return held


def read_scan(table: Path) -> tuple[Path, Sequence[dict[str, Any]]]:
    """The folder that a scan's paths start from, and its rows."""
    if not table.is_file():
        raise UserError(f"no quarantine table {str(table)!r}; {ADVICE}")
    try:
        schema = pq.read_schema(table)
        root = root_noted(table, schema)
        missing = [name for name in COLUMNS.names if name not in schema.names]
        if missing or root is None:
            raise UserError(f"{table} is not the table of a scan ({', '.join(missing) or 'no root'} missing); {ADVICE}")
        rows = pq.read_table(table, columns=COLUMNS.names).select(COLUMNS.names).cast(COLUMNS).to_pylist()
    except UserError:
        raise
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise UserError(f"{table} is not readable as the table of a scan ({one_line(error)[:120]}); {ADVICE}") from None
    return Path(root), [{**row, "reason": row["reason"] or ""} for row in rows]


def root_noted(table: Path, schema: pa.Schema) -> str | None:
    """The folder that a scan's metadata name; None where they name none."""
    notes = load_json((schema.metadata or {}).get(b"hybridvideo", b"{}"), f"{table}: its metadata", ADVICE)
    root = notes.get("root") if isinstance(notes, dict) else None
    return root if isinstance(root, str) and root else None


def unchanged(file: Path, row: dict[str, Any]) -> bool:
    """Whether a file is still the one that was scanned."""
    now = stamp(file)
    if not now or row["bytes"] is None:  # gone; or not there when it was scanned, or refused by its name
        return row["status"] == "missing" if not now else row["status"] != "missing"
    if now["bytes"] != row["bytes"]:
        return False
    return bool(now["mtime_ns"] == row["mtime_ns"] or (row["checksum"] and checksum(file) == row["checksum"]))
