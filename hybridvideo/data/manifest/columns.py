"""Tables that name their columns: CSV with a header, and Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from hybridvideo.data.manifest.rows import Entry
from hybridvideo.errors import UserError

PATH_NAMES = ("path", "video", "video_path", "filename", "file")
LABEL_NAMES = ("label", "class", "label_name")
GROUP_NAMES = ("group",)

Cells = tuple[str, list[str]]  # place of the row, and its cells


def csv_rows(source: Path, text: str) -> list[Cells]:
    """Return the rows of a CSV that are not empty. Raises UserError if its quotes are wrong."""
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(f"{source}, line {reader.line_num}", cells) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{source}, line {reader.line_num} is not CSV: {error}; fix its quotes") from None
    return [(place, cells) for place, cells in lines if any(cell.strip() for cell in cells)]


def column(names: Sequence[str], allowed: Sequence[str]) -> int | None:
    """Position of the column with one of the allowed names, by their order."""
    lowered = [name.strip().lower() for name in names]
    return next((lowered.index(name) for name in allowed if name in lowered), None)


def read_csv(source: Path, text: str, labelled: bool) -> list[Entry]:
    """Read a CSV whose first row names the columns."""
    rows = csv_rows(source, text)
    return table_entries(source, rows[0][1], rows[1:], labelled) if rows else []


def read_parquet(source: Path, labelled: bool) -> list[Entry]:
    """Read a Parquet file, only its wanted columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(source).names
        wanted = [names[c] for c in _positions(source, names, labelled) if c is not None]
        columns = pq.read_table(source, columns=wanted).to_pydict()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} is not readable as Parquet ({reason}); write it again") from None
    cells = zip(*([("" if v is None else str(v)) for v in columns[name]] for name in wanted), strict=True)
    rows = ((f"{source}, row {number}", row) for number, row in enumerate(cells, start=1))
    return table_entries(source, wanted, rows, labelled)


def table_entries(
    source: Path, names: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], labelled: bool
) -> list[Entry]:
    """Entries of a table with a header; `rows` are (place, cells)."""
    path, label, group = _positions(source, names, labelled)
    entries = []
    for place, cells in rows:
        name = cell(cells, label)
        entries.append(Entry(cell(cells, path), (name,) if name else (), cell(cells, group) or None, place))
        if not entries[-1].path:
            raise UserError(f"{place} has no path; give one or remove the row")
    return entries


def cell(cells: Sequence[str], position: int | None) -> str:
    """The cell at a position, stripped; "" if the row or the table has none."""
    return cells[position].strip() if position is not None and position < len(cells) else ""


def _positions(source: Path, names: Sequence[str], labelled: bool) -> tuple[int, int | None, int | None]:
    """Positions of path, label and group; the label's is None for unlabelled input."""
    path, label = column(names, PATH_NAMES), column(names, LABEL_NAMES)
    for found, wanted, aliases in ((path, "path", PATH_NAMES), (label, "label", LABEL_NAMES)):
        if found is None and (labelled or wanted == "path"):
            raise UserError(
                f"{source} has no {wanted} column; its columns are {', '.join(names)}; "
                f"name one of them {wanted!r} (or {', '.join(aliases[1:])})"
            )
    assert path is not None
    return path, label if labelled else None, column(names, GROUP_NAMES)
