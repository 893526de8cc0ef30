"""Every way of listing videos, in one place: folders, tables, lists, official CSVs and single files become rows.

    class folders    classes/jump/a.mp4, classes/run/deep/b.mkv      labels are the folder names, sorted
    CSV, Parquet     columns path, label and, if wanted, group       other names: tables.PATH_NAMES, LABEL_NAMES
    list             path label    or    path,label                  mmaction2, PySlowFast, UniFormer: lists.py
    Kinetics CSV     label,youtube_id,time_start,time_end,split      files are found below the root: kinetics.py
    one video        no label

What a file is, its content says, not its name. `labelled=False` reads the inputs of a bulk job: any folder, a list of
paths, a table with a path column, a video. Labels go by name (names.py): `Row.label` is an index into
`Manifest.labels`, and a name is looked up there, never guessed.
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
    """Read any list of videos (the kinds stand at the top of this file).

    root: where relative paths of a list start, by default the list's folder, and what links may not lead out of; a
    folder's paths start at the folder, or at a root that holds it.
    labels: class names in order, by default those of the list, sorted ("0".."max" if all are integers); also the name
    of a shipped list ("kinetics400") or a file of names. A label that is no name in it may be an index into it.
    order: names in the order that the list's numbers follow, where it is not that of `labels`: the numbers are then
    mapped by name. labelled=False: bulk input, labels are not wanted and not kept. several: rows may have more than
    one label (`Row.labels`). format: one of FORMATS, for a list that can be read in two ways. A video that does not
    exist is no error here (see check.py). Raises UserError.
    """
    source = Path(source)
    if not os.path.exists(source):
        raise UserError(f"{source} does not exist; give a folder, a list (CSV, Parquet, text) or a video")
    if not (source.is_dir() or source.is_file()):
        raise UserError(f"{source} is no ordinary file; give a folder, a list (CSV, Parquet, text) or a video")
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
    """A folder's entries, their paths from a root that holds it, so that its links may lead anywhere there."""
    if root is None or not folder.resolve().is_relative_to(Path(root).resolve()):
        return folder, entries
    way = folder.resolve().relative_to(Path(root).resolve())
    return Path(root), [replace(entry, path=os.fspath(way / entry.path)) for entry in entries]


def _list_entries(source: Path, base: Path, root_given: bool, labelled: bool, format: str | None) -> list[Entry]:
    """Entries of a list in a file, of the given format or the one its content has."""
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
        return True  # one that is damaged is called that
    try:
        with source.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False  # reading it as text says why


def _kind(source: Path, text: str) -> str:
    """kinetics or csv by the names of the columns, else "list"."""
    refuse_json(source, text)
    first = next((line for line in text.splitlines() if line.strip()), "")
    if first.count('"') % 2:
        first = text  # a quoted cell goes over several lines
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
