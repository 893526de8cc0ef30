"""Every way of listing videos, in one place: folders, tables, lists, official CSVs and single files become rows.

    class folders    classes/jump/a.mp4, classes/run/deep/b.mkv      labels are the folder names, sorted
    CSV, Parquet     columns path, label and, if wanted, group       other names: columns.PATH_NAMES, LABEL_NAMES
    list             path label    or    path,label                  mmaction2, PySlowFast, UniFormer: lists.py
    Kinetics CSV     label,youtube_id,time_start,time_end,split      files are found below the root: kinetics.py
    one video        no label

The kind of a file is recognised by its content, not its name. `labelled=False` reads the inputs of a bulk job: any
folder, a list of paths, a table with a path column, a video. Labels go by name (names.py): `Row.label` is an index
into `Manifest.labels`, in which a name is looked up, never guessed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from hybridvideo.data.manifest.class_folders import class_folders, plain_folder, videos_under
from hybridvideo.data.manifest.columns import PATH_NAMES, column, csv_rows, read_csv, read_parquet
from hybridvideo.data.manifest.kinetics import is_official, read_official
from hybridvideo.data.manifest.lists import SPLITS, read_list, read_text, refuse_json
from hybridvideo.data.manifest.names import (
    Lookup,
    Names,
    kinetics400_labels,
    label_names,
    looked_up,
    own_names,
)
from hybridvideo.data.manifest.rows import VIDEO_EXTENSIONS, Entry, Manifest, Row, is_video
from hybridvideo.data.manifest.write import write_manifest
from hybridvideo.errors import UserError

__all__ = [
    "FORMATS",
    "VIDEO_EXTENSIONS",
    "Manifest",
    "Names",
    "Row",
    "is_video",
    "kinetics400_labels",
    "label_names",
    "read_manifest",
    "videos_under",
    "write_manifest",
]

FORMATS = ("csv", "parquet", "kinetics", *SPLITS)


def read_manifest(
    source: str | Path,
    *,
    root: str | Path | None = None,
    labels: Names | None = None,
    order: Names | None = None,
    labelled: bool = True,
    several: bool = False,
    format: str | None = None,
) -> Manifest:
    """Read any list of videos, of the kinds at the top of this file.

    Args:
        root: the folder at which relative paths of a list start, and out of which links may not lead; default: the
            list's folder. A folder's paths start at the folder, or at a root that contains it.
        labels: class names in order, or the name of a shipped list ("kinetics400"), or a file of names; default: those
            of the list, sorted ("0".."max" if all are integers). A label that is not a name may be an index.
        order: names in the order that the list's numbers follow, if it is not that of `labels`: the numbers are then
            mapped by name.
        labelled: False for bulk input, whose labels are dropped.
        several: rows may have more than one label (`Row.labels`).
        format: one of FORMATS, for a list that can be read in two ways.

    A video that does not exist is not an error here (see check.py). Raises UserError.
    """
    source = Path(source)
    if not os.path.exists(source):
        raise UserError(f"{source} does not exist; give a folder, a list (CSV, Parquet, text) or a video")
    if not (source.is_dir() or source.is_file()):
        raise UserError(f"{source} is not a regular file; give a folder, a list (CSV, Parquet, text) or a video")
    if format is not None and format not in FORMATS:
        raise UserError(f"no list format {format!r}; give {', '.join(FORMATS)}")
    single = not source.is_dir() and is_video(source)
    base = source if source.is_dir() else Path() if single else source.parent if root is None else Path(root)
    if source.is_dir():
        base, entries = _below(root, source, class_folders(source) if labelled else plain_folder(source))
    elif single:
        entries = [Entry(str(source), (), None, str(source))]
    else:
        entries = _list_entries(source, base, root is not None, labelled, format)
    if not entries:
        raise UserError(f"{source} lists no video; give at least one row")
    numbers = None if order is None else label_names(order)
    names = label_names(labels) if labels is not None else numbers or own_names(entries)
    rows = looked_up(entries, Lookup(names, numbers), must=labelled and not single, several=several)
    return Manifest(rows, names, base, root_given=root is not None or source.is_dir(), confined=not single)


def _below(root: str | Path | None, folder: Path, entries: list[Entry]) -> tuple[Path, list[Entry]]:
    """A folder's entries with paths from a root that contains it, so that links may lead anywhere in the root."""
    if root is None or not folder.resolve().is_relative_to(Path(root).resolve()):
        return folder, entries
    way = folder.resolve().relative_to(Path(root).resolve())
    return Path(root), [replace(entry, path=os.fspath(way / entry.path)) for entry in entries]


def _list_entries(source: Path, base: Path, root_given: bool, labelled: bool, format: str | None) -> list[Entry]:
    """Entries of a list file, in the given format or the one of its content."""
    if format == "parquet" or (format is None and _is_parquet(source)):
        return read_parquet(source, labelled)
    text = read_text(source)
    kind = format or _kind(source, text)
    if kind == "kinetics":
        return read_official(source, text, base, root_given, labelled)
    if kind == "csv":
        return read_csv(source, text, labelled)
    return read_list(source, text, base, labelled, format)


def _is_parquet(source: Path) -> bool:
    if source.suffix.lower() in (".parquet", ".pq"):
        return True  # a damaged one is reported as such
    try:
        with source.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # reading it as text reports why


def _kind(source: Path, text: str) -> str:
    """kinetics or csv by the names of the columns, otherwise "list"."""
    refuse_json(source, text)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.count('"') % 2:
        first = text  # a quoted cell spans several lines
    try:
        rows = csv_rows(source, first)
    except UserError:
        return "list"
    header = rows[0][1] if rows else []
    if column(header, PATH_NAMES) is not None:
        return "csv"
    if is_official(header):
        return "kinetics"
    names_a_video = any(map(is_video, [*first.split(), *header]))
    looks_like_rows = len(header) < 2 or names_a_video or "/" in header[0]
    return "list" if looks_like_rows or source.suffix.lower() != ".csv" else "csv"  # a CSV's unknown columns: refused
