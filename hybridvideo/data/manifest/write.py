"""Write lists for this package and for others: complete or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path

from hybridvideo.data.manifest.rows import Manifest, is_video
from hybridvideo.errors import UserError
from hybridvideo.files import replacing_file

Table = tuple[list[str], list[list[str]]]  # column names, rows of text


def write_manifest(manifest: Manifest, path: str | Path, format: str | None = None) -> None:
    """Write a list; the first two formats read back to the same files, label names and groups.

    format: csv (columns path, label by name, group), parquet (the same), spaces (`path 3` or `path 1 5`: mmaction2,
    PySlowFast), commas (`path,3`: PySlowFast, UniFormer); by default by the extension, .parquet and .pq or else csv.
    The numbers are indices into `manifest.labels`. Paths stay as listed if the list is written to the manifest's root,
    otherwise they are absolute. Raises UserError for a path or labels that the format cannot represent.
    """
    path = Path(path)
    name = format or ("parquet" if path.suffix.lower() in (".parquet", ".pq") else "csv")
    if name not in WRITERS:
        raise UserError(f"no list format {name!r}; give {', '.join(WRITERS)}")
    with replacing_file(path) as aside:
        WRITERS[name](manifest, paths_from(manifest, path.parent), aside)


def paths_from(manifest: Manifest, folder: Path) -> list[str]:
    """The rows' paths for a list in `folder`: as listed if that is the root, otherwise absolute."""
    if folder.resolve() == manifest.root.resolve():
        return [row.path for row in manifest.rows]
    return [os.path.abspath(manifest.file(index)) for index in range(len(manifest))]


def _table(manifest: Manifest, paths: list[str]) -> Table:
    if any(row.labels for row in manifest.rows):
        raise UserError("a table has one label per row, but these rows have several; use the format spaces")
    has_labels = any(row.label is not None for row in manifest.rows)
    has_groups = any(row.group is not None for row in manifest.rows)
    rows = []
    for path, row in zip(paths, manifest.rows, strict=True):
        label = "" if row.label is None else manifest.labels[row.label]
        rows.append([path, *[label] * has_labels, *[row.group or ""] * has_groups])
    return ["path", *["label"] * has_labels, *["group"] * has_groups], rows


def _write_csv(manifest: Manifest, paths: list[str], file: Path) -> None:
    names, rows = _table(manifest, paths)
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, lineterminator="\n").writerows([names, *rows])


def _write_parquet(manifest: Manifest, paths: list[str], file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names, rows = _table(manifest, paths)
    columns = {name: [row[position] or None for row in rows] for position, name in enumerate(names)}
    pq.write_table(pa.table({name: pa.array(cells, pa.string()) for name, cells in columns.items()}), file)


def _write_spaces(manifest: Manifest, paths: list[str], file: Path) -> None:
    _write_lines(manifest, paths, file, " ")


def _write_commas(manifest: Manifest, paths: list[str], file: Path) -> None:
    _write_lines(manifest, paths, file, ",")


def _write_lines(manifest: Manifest, paths: list[str], file: Path, separator: str) -> None:
    forbidden = "a comma or quote" if separator == "," else "a space"
    with file.open("w", encoding="utf-8", newline="") as out:
        for path, row in zip(paths, manifest.rows, strict=True):
            own = row.labels or (() if row.label is None else (row.label,))
            if set(path) & (set(',"\n') if separator == "," else set(" \t\n\r\v\f")) or not is_video(path):
                raise UserError(f"{path!r} contains {forbidden} or has no video extension; use the format csv")
            if len(own) > 1 and separator == ",":
                raise UserError(
                    f"{path!r} has several labels, which the format commas cannot represent; use the format spaces"
                )
            out.write(separator.join((path, *map(str, own))) + "\n")


WRITERS: dict[str, Callable[[Manifest, list[str], Path], None]] = {
    "csv": _write_csv,
    "parquet": _write_parquet,
    "spaces": _write_spaces,
    "commas": _write_commas,
}
