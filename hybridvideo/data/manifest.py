"""Every way of listing videos, in one place: folders, CSV, Parquet, text lists and single files become rows.

    class folders    classes/jump/a.mp4, classes/run/deep/b.mkv      labels are the folder names, sorted
    CSV, Parquet     columns path, label and, if wanted, group       other names: PATH_NAMES, LABEL_NAMES
    CSV, no header   path,label
    text list        path label                                      the label follows the last tab or space
    one video        no label

`labelled=False` reads the inputs of a bulk job: any folder, a list of paths, a table with a path column, a
video. Labels are kept by name: `Row.label` is an index into `Manifest.labels`, and a name is looked up there,
never guessed.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridvideo.errors import UserError, nearest

VIDEO_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "divx", "f4v", "flv", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4"),
        *("mpe", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "ts", "vob", "webm", "wmv"),
    )
)
PATH_NAMES = ("path", "video", "video_path", "filename", "file")
LABEL_NAMES = ("label", "class", "label_name")
GROUP_NAMES = ("group",)
MOST_CLASSES = 1_000_000  # a larger integer label is an id in the wrong column


@dataclass(frozen=True)
class Row:
    """One video: its path as listed, its label as an index into the manifest's labels, and its group."""

    path: str
    label: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Rows, the class names in order, and the folder that relative paths start from."""

    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    root: Path

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, index: int) -> Path:
        """The file of row `index`; an absolute path stands for itself."""
        return self.root / self.rows[index].path

    def subset(self, indices: Iterable[int]) -> Manifest:
        """The rows at `indices`, in that order, with the same labels and root."""
        return Manifest(tuple(self.rows[index] for index in indices), self.labels, self.root)

    def missing(self) -> list[str]:
        """Paths (as listed) where no file stands now."""
        return [row.path for index, row in enumerate(self.rows) if not self.file(index).exists()]

    def counts(self) -> dict[str, int]:
        """Rows of each class by name, in the order of the labels; classes without a row count 0."""
        found = Counter(row.label for row in self.rows)
        return {name: found[label] for label, name in enumerate(self.labels)}

    def groups(self) -> dict[str, list[int]]:
        """Row indices by group; a row without a group is a group of its own, named by its path."""
        members: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            members.setdefault(row.path if row.group is None else row.group, []).append(index)
        return members


@dataclass(frozen=True)
class _Entry:
    """A row before its label is looked up; `place` says where it stands, for error messages."""

    path: str
    label: str | None
    group: str | None
    place: str


def is_video(path: str | Path) -> bool:
    """Whether the name ends like a video's; nothing is opened."""
    return os.path.splitext(path)[1].lower() in VIDEO_EXTENSIONS


# ---- folders


def _videos_under(folder: Path) -> Iterator[str]:
    """Paths of the videos below `folder`, relative to it and sorted; links are followed, each folder once."""
    found: list[str] = []
    seen: set[str] = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link back to a folder above
            continue
        seen.add(real)
        for name in filter(is_video, files):
            path = Path(place, name)
            if path.is_file() or not path.exists():  # a dangling link is listed: its row will say "missing"
                found.append(path.relative_to(folder).as_posix())
    yield from sorted(found)


def _plain_folder(folder: Path) -> list[_Entry]:
    entries = [_Entry(path, None, None, str(folder / path)) for path in _videos_under(folder)]
    if not entries:
        raise UserError(_no_video(folder))
    return entries


def _class_folders(folder: Path) -> list[_Entry]:
    there = sorted(folder.iterdir())
    inside = [entry.name for entry in there if entry.is_dir() and not entry.name.startswith(".")]
    stray = [entry.name for entry in there if entry.is_file() and is_video(entry)]
    if stray:
        raise UserError(
            f"{folder} holds {stray[0]!r} outside a class folder; put each video into a folder named after its class"
        )
    if not inside:
        raise UserError(_no_video(folder) + ", each in a folder named after its class")
    entries: list[_Entry] = []
    for name in inside:
        videos = list(_videos_under(folder / name))
        if not videos:
            raise UserError(f"class folder {folder / name} holds no video; put videos in it or remove it")
        entries += [_Entry(f"{name}/{path}", name, None, str(folder / name / path)) for path in videos]
    return entries


def _no_video(folder: Path) -> str:
    how = "holds no video (by extension: .mp4, .mkv, .webm ...)" if any(folder.iterdir()) else "is empty"
    return f"folder {folder} {how}; give a folder with videos"


# ---- tables


def _column(names: Sequence[str], allowed: Sequence[str]) -> int | None:
    """Position of the column with one of the allowed names, the first of them that is there."""
    lowered = [name.strip().lower() for name in names]
    return next((lowered.index(name) for name in allowed if name in lowered), None)


def _table_columns(source: Path, names: Sequence[str], labelled: bool) -> tuple[int, int | None, int | None]:
    """Positions of path, label and group; the label's is None for unlabelled input."""
    path, label = _column(names, PATH_NAMES), _column(names, LABEL_NAMES)
    for column, wanted, aliases in ((path, "path", PATH_NAMES), (label, "label", LABEL_NAMES)):
        if column is None and (labelled or wanted == "path"):
            raise UserError(
                f"{source} has no {wanted} column; its columns are {', '.join(names)}; "
                f"name one of them {wanted!r} (or {', '.join(aliases[1:])})"
            )
    assert path is not None
    return path, label if labelled else None, _column(names, GROUP_NAMES)


def _table_entries(
    source: Path, names: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], labelled: bool
) -> list[_Entry]:
    """Entries of a table with a header; `rows` are (place, cells)."""
    path, label, group = _table_columns(source, names, labelled)

    def cell(cells: Sequence[str], column: int | None) -> str:
        return cells[column].strip() if column is not None and column < len(cells) else ""

    entries = [_Entry(cell(c, path), cell(c, label) or None, cell(c, group) or None, p) for p, c in rows]
    for entry in entries:
        if not entry.path:
            raise UserError(f"{entry.place} has no path; give one or remove the row")
    return entries


def _csv(source: Path, root: Path, labelled: bool) -> list[_Entry]:
    reader = csv.reader(io.StringIO(_text(source)), strict=True)
    try:
        lines = [(f"{source}, line {reader.line_num}", cells) for cells in reader]
    except csv.Error as error:
        raise UserError(f"{source}, line {reader.line_num} is not CSV: {error}; mend its quotes") from None
    rows = [(place, cells) for place, cells in lines if any(cell.strip() for cell in cells)]
    if not rows:
        return []
    first = rows[0][1]
    if _column(first, PATH_NAMES) is not None:
        return _table_entries(source, first, rows[1:], labelled)
    if len(first) == 1:
        return _list(source, root, labelled)  # `path label` lines in a file named .csv
    if is_video(first[0].strip()) or "/" in first[0]:
        return _table_entries(source, ("path", "label", "group")[: len(first)], rows, labelled)
    return _table_entries(source, first, rows[1:], labelled)  # a header without a path column: refused there


def _parquet(source: Path, root: Path, labelled: bool) -> list[_Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(source).names
        wanted = [names[c] for c in _table_columns(source, names, labelled) if c is not None]
        columns = pq.read_table(source, columns=wanted).to_pydict()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{source} is not readable as Parquet ({reason}); write it again") from None
    cells = zip(*([("" if v is None else str(v)) for v in columns[name]] for name in wanted), strict=True)
    rows = ((f"{source}, row {number}", row) for number, row in enumerate(cells, start=1))
    return _table_entries(source, wanted, rows, labelled)


# ---- text lists


def _list(source: Path, root: Path, labelled: bool) -> list[_Entry]:
    """`path label` lines, or one path a line; blank lines and lines starting with `# ` are skipped."""
    entries = []
    for number, line in enumerate(_text(source).split("\n"), start=1):
        line = line.strip()
        if not line or line == "#" or line.startswith("# "):
            continue
        place = f"{source}, line {number}"
        if labelled:
            path, label = _without_label(line)
            if not is_video(path) and any(map(is_video, path.split()[:-1])):
                raise UserError(f"{place}: {line!r} has more than a path and one label; give one label a line")
            entries.append(_Entry(path, None if is_video(label) else label or None, None, place))
        else:
            entries.append(_Entry(_listed_path(line, root), None, None, place))
    return entries


def _without_label(line: str) -> tuple[str, str]:
    """(path, label): the label is what follows the last tab, else the last token; "" if there is none."""
    parts = line.rsplit("\t", 1) if "\t" in line else line.rsplit(None, 1)
    return (parts[0].strip(), parts[1].strip()) if len(parts) == 2 else (line, "")


def _listed_path(line: str, root: Path) -> str:
    """The path on a line of bulk input, where a label may follow it: the whole line wins if it is a file."""
    path, label = _without_label(line)
    if not label or (root / line).is_file():
        return line
    ends_like_a_video = is_video(path) and not is_video(line)
    return path if ends_like_a_video or (root / path).is_file() else line


def _text(source: Path) -> str:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if "\0" not in text:
            return text
        reason = "it is binary"
    raise UserError(
        f"{source} cannot be read as a list ({reason}); give a folder, a CSV, a Parquet file, "
        "a text list in UTF-8 or a video with a known extension"
    )


# ---- labels


def _label_names(entries: Sequence[_Entry]) -> tuple[str, ...]:
    """Class names where none are given: "0".."max" if all labels are integers, else the sorted names."""
    names = {entry.label for entry in entries if entry.label is not None}
    if not names or not all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names))
    highest = max(int(name) for name in names)
    if highest >= MOST_CLASSES:
        entry = next(entry for entry in entries if entry.label is not None and int(entry.label) == highest)
        raise UserError(f"{entry.place}: {highest} is no class index; give one under {MOST_CLASSES} or names")
    return tuple(map(str, range(highest + 1)))


def _label_index(entry: _Entry, index_of: dict[str, int], count: int) -> int:
    assert entry.label is not None
    if entry.label in index_of:
        return index_of[entry.label]
    digits = entry.label.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise UserError(
            f"{entry.place}: label {entry.label!r} is not among the {count} class names"
            f"{nearest(entry.label, index_of)}; correct it or add it to the labels"
        )
    if not 0 <= int(entry.label) < count:
        raise UserError(f"{entry.place}: label {entry.label} is out of range; {count} classes allow 0 to {count - 1}")
    return int(entry.label)


def _looked_up(entries: Sequence[_Entry], labels: tuple[str, ...], must: bool) -> tuple[Row, ...]:
    """Entries with their labels as indices; `must`: a row without a label is an error."""
    index_of = {name: index for index, name in enumerate(labels)}
    if len(index_of) < len(labels):
        twice = next(name for name, count in Counter(labels).items() if count > 1)
        raise UserError(f"class name {twice!r} stands twice in the labels; give each class one name")
    rows: list[Row] = []
    first: dict[str, tuple[int | None, str]] = {}
    for entry in entries:
        if must and entry.label is None:
            raise UserError(f"{entry.place}: {entry.path!r} has no label; give one on every row")
        label = None if entry.label is None else _label_index(entry, index_of, len(labels))
        other, place = first.setdefault(entry.path, (label, entry.place))
        if other != label:
            raise UserError(f"{entry.place}: {entry.path!r} has another label at {place}; keep one of them")
        rows.append(Row(entry.path, label, entry.group))
    return tuple(rows)


# ---- the whole

READERS: dict[str, Callable[[Path, Path, bool], list[_Entry]]] = {
    ".csv": _csv,
    ".parquet": _parquet,
    ".pq": _parquet,
}


def read_manifest(
    source: str | Path,
    *,
    root: str | Path | None = None,
    labels: Sequence[str] | None = None,
    labelled: bool = True,
) -> Manifest:
    """Read any list of videos (the kinds stand at the top of this file).

    `root`: where relative paths of a list start, by default the list's folder; a folder's paths start at the
    folder. `labels`: class names in order, by default those of the list, sorted ("0".."max" if all are
    integers). A label that is no name in it may be an index into it. `labelled=False`: bulk input, labels are
    not wanted and not kept. A video that does not exist is no error here (see `Manifest.missing`). Raises
    UserError.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source} does not exist; give a folder, a list (CSV, Parquet, text) or a video")
    single = not source.is_dir() and is_video(source)
    if source.is_dir():
        base = source
        entries = _class_folders(source) if labelled else _plain_folder(source)
    elif single:
        base = Path()
        entries = [_Entry(str(source), None, None, str(source))]
    else:
        base = source.parent if root is None else Path(root)
        entries = READERS.get(source.suffix.lower(), _list)(source, base, labelled)
    if not entries:
        raise UserError(f"{source} lists no video; give at least one row")
    names = _label_names(entries) if labels is None else tuple(labels)
    return Manifest(_looked_up(entries, names, must=labelled and not single), names, base)


def write_manifest(manifest: Manifest, path: str | Path) -> None:
    """Write a CSV that reads back to the same files, label names and groups; it is complete or absent.

    Paths stay as listed where the CSV lies in the manifest's root, else they are written absolute.
    """
    path = Path(path)
    same = path.parent.resolve() == manifest.root.resolve()
    has_labels = any(row.label is not None for row in manifest.rows)
    has_groups = any(row.group is not None for row in manifest.rows)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", *["label"] * has_labels, *["group"] * has_groups])
        for index, row in enumerate(manifest.rows):
            cells = [row.path if same else os.path.abspath(manifest.file(index))]
            if has_labels:
                cells.append("" if row.label is None else manifest.labels[row.label])
            if has_groups:
                cells.append(row.group or "")
            writer.writerow(cells)
    aside.replace(path)
