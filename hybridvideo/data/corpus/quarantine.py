"""What a scan found unusable is not opened again: its item reports the scan's status and reason at once.

Rows of a scan's table that are not usable (errors.USABLE) hold for as long as the file is the one that was scanned:
of the same size, and of the same modification time or content. A file that was repaired or replaced, or that
was missing and is now there, is tried again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hybridvideo.data.corpus.examine import checksum, stamp
from hybridvideo.data.manifest import Manifest
from hybridvideo.documents import load_json
from hybridvideo.errors import STATUSES, USABLE, UserError
from hybridvideo.parsing import short_repr
from hybridvideo.text import one_line

TEXT, NUMBER = pa.string(), pa.int64()
COLUMNS = pa.schema(
    {"path": TEXT, "status": TEXT, "reason": TEXT, "bytes": NUMBER, "mtime_ns": NUMBER, "checksum": TEXT}
)
ADVICE = "give the .parquet table that `hybridvideo scan` wrote"


@dataclass(frozen=True)
class ScanRow:
    """A row of a scan's table; None for what the scan could not find out."""

    path: str | None
    status: str
    reason: str
    bytes: int | None
    mtime_ns: int | None
    checksum: str | None


def quarantined(table: str | Path | None, manifest: Manifest) -> dict[int, tuple[str, str]]:
    """Return the rows of the manifest that must not be opened: index -> (status, reason); empty without a table.

    table: Parquet, as `hybridvideo scan` writes it. A file is recognised by whichever path its folder is reached.
    Raises UserError if the table is not a scan's.
    """
    if table is None:
        return {}
    held = read_held(Path(table))
    place = cache(os.path.realpath)  # of folders: many files, few folders

    def found(index: int) -> ScanRow | None:
        folder, name = os.path.split(os.path.abspath(manifest.file(index)))
        row = held.get(os.path.join(place(folder), name))
        return row if row is not None and unchanged(manifest.file(index), row) else None

    rows = ((index, found(index)) for index in range(len(manifest)))
    return {index: (row.status, row.reason) for index, row in rows if row is not None}


def read_held(table: Path) -> dict[str, ScanRow]:
    """Return the unusable files of a scan's table, by path with the links of folders resolved."""
    root, rows = read_scan(table)
    held: dict[str, ScanRow] = {}
    for row in rows:
        if row.status in USABLE:
            continue
        if not row.path or "\0" in row.path:
            raise UserError(f"{table}: a row has no path ({short_repr(row.path)}); scan again")
        if row.status not in STATUSES:
            path, status = short_repr(row.path), short_repr(row.status)
            raise UserError(f"{table}: {path} has the unknown status {status}; scan again")
        folder, name = os.path.split(os.path.abspath(root / row.path))
        held[os.path.join(os.path.realpath(folder), name)] = row
    return held


def read_scan(table: Path) -> tuple[Path, Sequence[ScanRow]]:
    """Return the folder that a scan's paths start from, and its rows."""
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
    return Path(root), [ScanRow(**{**row, "reason": row["reason"] or ""}) for row in rows]


def root_noted(table: Path, schema: pa.Schema) -> str | None:
    """Return the folder that a scan's metadata names, or None."""
    notes = load_json((schema.metadata or {}).get(b"hybridvideo", b"{}"), f"{table}: its metadata", ADVICE)
    root = notes.get("root") if isinstance(notes, dict) else None
    return root if isinstance(root, str) and root else None


def unchanged(file: Path, row: ScanRow) -> bool:
    """Return whether a file is still the one that was scanned."""
    now = stamp(file)
    if not now or row.bytes is None:  # missing now; or missing when it was scanned, or refused because of its name
        return row.status == "missing" if not now else row.status != "missing"
    if now["bytes"] != row.bytes:
        return False
    return bool(now["mtime_ns"] == row.mtime_ns or (row.checksum and checksum(file) == row.checksum))
