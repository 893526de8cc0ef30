"""Tables on disk: Parquet with its provenance in the schema, CSV or JSON lines by extension; complete or absent.

TABLE.parquet                                provenance is JSON under the key `hybridvideo` of the schema's metadata
TABLE.csv, .jsonl   TABLE.provenance.json    with the table's size and checksum, so that a mismatch is noticed
                                             (TABLE.csv.provenance.json if that belongs to TABLE.jsonl)
"""

from __future__ import annotations

import csv
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hybridvideo.documents import load_json, read_json
from hybridvideo.errors import UserError
from hybridvideo.files import locked, replacing_file, write_json
from hybridvideo.text import encodable, one_line

Rows = list[dict[str, Any]]

ROWS_PER_BATCH = 4096  # of a Parquet row group, and in memory while a table is read
NEVER_NULL = ("path", "status", "reason")  # columns of text in which an empty CSV cell is an empty text
LONGEST_REASON = 120  # characters of a parser's message
LONGEST_CELL = 1 << 30  # of a CSV: a long feature is one cell


def printable(row: dict[str, Any]) -> dict[str, Any]:
    r"""Return the row with whatever is not Unicode, such as a file name in another encoding, escaped as \udcXX."""
    return {name: encodable(cell) if isinstance(cell, str) else cell for name, cell in row.items()}


# --- writing ----------------------------------------------------------------------------------------------------------


def write_table(path: Path, rows: Rows, schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """Write a table from rows in memory."""
    write_batches(path, [rows], schema, provenance)


def write_batches(path: Path, batches: Iterable[Rows], schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """Write a table from batches of rows, in the format of the path's extension.

    Raises EnvironmentFault if the disk is full; an earlier table is then left as it was.
    """
    if check_format(path) == ".parquet":
        with replacing_file(path) as aside:
            write_parquet(aside, batches, schema, provenance)
        return
    with replacing_file(path) as aside:
        TEXT_WRITERS[path.suffix](aside, batches, schema)
        seal = seal_of(aside)
    with locked(path.with_name(f".{path.stem}.provenance.lock"), "writing a table", wait=True):
        write_json(notes_to_write(path), {**provenance, "table": {"name": path.name, **seal}})


def check_format(path: Path) -> str:
    """Return the extension. UserError for one without a writer."""
    if path.suffix not in FORMATS:
        raise UserError(f"{path} has the extension {path.suffix!r}; give {', '.join(FORMATS)}, or a folder")
    return path.suffix


def write_parquet(path: Path, batches: Iterable[Rows], schema: pa.Schema, provenance: dict[str, Any]) -> None:
    """Write Parquet: columns as in the schema, provenance in its metadata."""
    noted = schema.with_metadata({"hybridvideo": json.dumps(provenance, ensure_ascii=False)})
    with pq.ParquetWriter(path, noted, compression="zstd", write_page_checksum=True) as writer:
        for rows in batches:
            writer.write_table(pa.Table.from_pylist(rows, schema=noted))


def write_csv(path: Path, batches: Iterable[Rows], schema: pa.Schema) -> None:
    """Write CSV: one header line; lists are JSON in their cell."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, schema.names)
        writer.writeheader()
        for row in (row for rows in batches for row in rows):
            cells = {name: row[name] for name in schema.names}
            writer.writerow(
                {
                    name: json.dumps(cell, ensure_ascii=False) if isinstance(cell, list) else cell
                    for name, cell in cells.items()
                }
            )


def write_jsonl(path: Path, batches: Iterable[Rows], schema: pa.Schema) -> None:
    """Write JSON lines: one object per line."""
    with path.open("w", encoding="utf-8") as file:
        for row in (row for rows in batches for row in rows):
            file.write(json_line(row, schema))


def json_line(row: dict[str, Any], schema: pa.Schema) -> str:
    """Return a row's columns as a line of JSON."""
    return json.dumps({name: row[name] for name in schema.names}, ensure_ascii=False) + "\n"


def notes_beside(path: Path) -> Path:
    """table.csv -> table.provenance.json."""
    return path.with_suffix(".provenance.json")


def second_notes(path: Path) -> Path:
    """table.csv -> table.csv.provenance.json."""
    return path.with_name(f"{path.name}.provenance.json")


def notes_to_write(path: Path) -> Path:
    """Return the first of the two, unless it belongs to another existing table or the second is in use."""
    first, second = notes_beside(path), second_notes(path)
    try:
        name = json.loads(first.read_bytes())["table"]["name"]
        anothers = name != path.name and first.with_name(name).is_file()
    except (OSError, ValueError, LookupError, TypeError):
        anothers = False
    return second if anothers or second.exists() else first


def seal_of(path: Path) -> dict[str, int]:
    """Return size and CRC-32 of a file."""
    size = crc32 = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            size, crc32 = size + len(block), zlib.crc32(block, crc32)
    return {"bytes": size, "crc32": crc32}


TEXT_WRITERS: dict[str, Callable[[Path, Iterable[Rows], pa.Schema], None]] = {".csv": write_csv, ".jsonl": write_jsonl}
FORMATS = (".parquet", *TEXT_WRITERS)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_notes(path: Path) -> dict[str, Any] | None:
    """Return the provenance of a table written here; None if it has none, or is incomplete."""
    parquet = check_format(path) == ".parquet"
    if not path.is_file():
        return None  # a pipe that nobody writes to would be waited for
    try:
        if parquet:
            notes = notes_within(path)
        else:
            seal = seal_of(path)
            notes = sealed_notes(second_notes(path), seal) or sealed_notes(notes_beside(path), seal)
    except (OSError, pa.ArrowException, ValueError, LookupError, TypeError, AttributeError):
        return None
    return notes if isinstance(notes, dict) else None


def notes_within(path: Path) -> Any:
    """Return the notes in a Parquet table's metadata. Raises Arrow's or the system's error if any page is damaged."""
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        for _ in file.iter_batches(ROWS_PER_BATCH):
            pass
        return load_json((file.schema_arrow.metadata or {})[b"hybridvideo"], str(path), "", any_name=True)


def sealed_notes(file: Path, seal: dict[str, int]) -> dict[str, Any] | None:
    """Return the notes in a file; None if they belong to a table with another seal."""
    try:
        notes = read_json(file, "", any_name=True)
        there = notes.pop("table")
        return notes if {name: there[name] for name in seal} == seal else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def has_columns(path: Path, schema: pa.Schema) -> bool:
    """Return whether a table has the schema's columns and types; text tables have those they were sealed with."""
    if path.suffix != ".parquet":
        return True
    there = pq.read_schema(path)
    return all(name in there.names and there.field(name).type.equals(schema.field(name).type) for name in schema.names)


def read_rows(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table written here, with the schema's columns and perhaps others.

    Raises UserError if the table holds something that no writer here puts into one.
    """
    waiting = read_cells(path, schema)
    try:
        while rows := list(itertools.islice(waiting, ROWS_PER_BATCH)):
            check_rows(rows, schema)
            yield from rows
    except (
        OSError,
        pa.ArrowException,
        csv.Error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise UserError(
            f"{path} is not as it was written ({one_line(error)[:LONGEST_REASON]}); give another --out, or --overwrite"
        ) from None


def check_rows(rows: Rows, schema: pa.Schema) -> None:
    """Raise ValueError, or pyarrow's own error, for rows that do not fit the columns."""
    for name in (name for name in NEVER_NULL if name in schema.names):
        if not all(isinstance(row[name], str) for row in rows):
            raise ValueError(f"a row has no {name}")
    pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)


def read_cells(path: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield whatever the rows of a table hold."""
    if path.suffix == ".parquet":
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_PER_BATCH, columns=schema.names):
                yield from batch.to_pylist()
    elif path.suffix == ".csv":
        csv.field_size_limit(LONGEST_CELL)
        with path.open(newline="", encoding="utf-8") as text:
            for cells in csv.DictReader(text):
                yield {name: from_cell(cells[name], schema.field(name)) for name in schema.names}
    else:
        with path.open(encoding="utf-8", newline="\n") as lines:
            yield from map(json.loads, lines)


def from_cell(cell: str, column: pa.Field) -> Any:
    """Return the value that a CSV cell was written from."""
    kind = column.type
    if cell == "" and column.name not in NEVER_NULL:
        return None
    if pa.types.is_string(kind):
        return cell
    if pa.types.is_boolean(kind):
        return cell == "True"
    if pa.types.is_integer(kind):
        return int(cell)
    return float(cell) if pa.types.is_floating(kind) else json.loads(cell)
