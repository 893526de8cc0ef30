"""Tables on disk: Parquet with its provenance in the schema, CSV or JSON lines by extension; complete or absent."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybridvideo.errors import UserError

Rows = list[dict[str, Any]]


def printable(row: dict[str, Any]) -> dict[str, Any]:
    r"""The row with what is no Unicode in its texts, such as a file name in another encoding, as \udcXX."""
    return {name: _escaped(cell) if isinstance(cell, str) else cell for name, cell in row.items()}


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def write_table(path: Path, rows: Rows, schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """One table from rows in memory."""
    write_batches(path, [rows], schema, provenance)


def write_batches(path: Path, batches: Iterable[Rows], schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """A table from batches of rows, the format by the path's extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    WRITERS[check_format(path)](aside, batches, schema, provenance)
    os.replace(aside, path)


def check_format(path: Path) -> str:
    """The extension; UserError for one that no writer has."""
    if path.suffix not in WRITERS:
        raise UserError(f"{path} has the extension {path.suffix!r}; give {', '.join(WRITERS)}, or a folder")
    return path.suffix


def write_parquet(path: Path, batches: Iterable[Rows], schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """Columns as in the schema; provenance as JSON under the key `hybridvideo` of the schema's metadata."""
    noted = schema.with_metadata({"hybridvideo": json.dumps(provenance, ensure_ascii=False)})
    with pq.ParquetWriter(path, noted, compression="zstd") as writer:
        for rows in batches:
            writer.write_table(pa.Table.from_pylist(rows, schema=noted))


def write_csv(path: Path, batches: Iterable[Rows], schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """One header line; lists are JSON in their cell; provenance goes into a .json file beside."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, schema.names)
        writer.writeheader()
        for row in (row for rows in batches for row in rows):
            cells = {name: row[name] for name in schema.names}
            writer.writerow({name: json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell
                             for name, cell in cells.items()})  # fmt: skip
    note_beside(path, provenance)


def write_jsonl(path: Path, batches: Iterable[Rows], schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """One object a line; provenance goes into a .json file beside."""
    with path.open("w", encoding="utf-8") as file:
        for row in (row for rows in batches for row in rows):
            file.write(json.dumps({name: row[name] for name in schema.names}, ensure_ascii=False) + "\n")
    note_beside(path, provenance)


def note_beside(path: Path, provenance: dict[str, Any]) -> None:
    """table.csv -> table.provenance.json."""
    final = path.with_name(path.name.removeprefix(".").removesuffix(".new"))
    text = json.dumps(provenance, indent=1, ensure_ascii=False)
    final.with_suffix(".provenance.json").write_text(text, encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Iterable[Rows], pa.Schema, dict[str, Any]], None]] = {
    ".parquet": write_parquet,
    ".csv": write_csv,
    ".jsonl": write_jsonl,
}
