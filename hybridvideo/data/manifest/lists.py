"""Text lists without a header: `path label` (mmaction2, PySlowFast) and `path,label` (PySlowFast, UniFormer) lines.

    a.mp4 3          spaces: the label follows the last name with a video's extension, so paths may contain spaces
    a b.mp4 3 7      several labels
    a.mp4<TAB>high jump     after a tab a label may contain spaces
    a b.mp4,3        commas; quotes as in CSV
    a.mp4            no label

The lines decide which of the two a file is; if they allow both, `format` does. Lists of frames are refused.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

from hybridvideo.data.manifest.rows import Entry, is_video
from hybridvideo.errors import UserError

Parts = tuple[str, tuple[str, ...]]  # path, labels
Lines = list[tuple[str, str]]  # (place, line)


def read_text(source: Path) -> str:
    """Return the text of a list. Raises UserError if it is not one."""
    try:
        with source.open("rb") as file:
            binary = b"\0" in file.read(2**16)  # a list is read completely; other files may be far larger
        text = "\0" if binary else source.read_text(encoding="utf-8-sig")
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


def read_list(source: Path, text: str, root: Path, labelled: bool, separator: str | None = None) -> list[Entry]:
    """Entries of a list; blank lines and lines starting with `# ` are skipped. separator: "spaces" or "commas"."""
    lines = _lines(source, text)
    if not lines:
        return []
    _refuse_frames(source, lines, root)
    split = SPLITS[separator or _separator(source, lines)]
    if labelled:
        return [Entry(*_checked(split(line), place, split), None, place) for place, line in lines]
    return [Entry(_listed_path(line, split, root), (), None, place) for place, line in lines]


def refuse_json(source: Path, text: str) -> None:
    """Raise UserError for annotations in JSON, which contain more than a path and a label."""
    if text.lstrip()[:1] not in ("{", "["):
        return
    try:
        json.loads(text)
    except ValueError:
        return  # a name may start with a bracket
    except RecursionError:
        pass
    raise UserError(f"{source} is JSON; write its videos as a CSV with the columns path,label and give that")


# ---- one line


def by_spaces(line: str) -> Parts:
    """(path, labels) of a line whose parts are separated by spaces or tabs."""
    if "\t" in line:
        path, *labels = (part.strip() for part in line.split("\t"))
        return path, tuple(filter(None, labels))
    tokens = list(re.finditer(r"\S+", line))
    ends = [token.end() for token in tokens if is_video(token[0])]
    if ends:
        return line[: ends[-1]], tuple(line[ends[-1] :].split())
    if len(tokens) < 2:
        return line, ()
    return line[: tokens[-2].end()], (tokens[-1][0],)  # no extension: the last part is the label


def by_commas(line: str) -> Parts:
    """(path, labels) of a line of CSV; a line that is not CSV is a path."""
    try:
        path, *labels = (cell.strip() for cell in next(csv.reader([line], strict=True)))
    except csv.Error:
        return line, ()
    return path, tuple(filter(None, labels))


SPLITS: dict[str, Callable[[str], Parts]] = {"spaces": by_spaces, "commas": by_commas}


def _checked(parts: Parts, place: str, split: Callable[[str], Parts]) -> Parts:
    path, labels = parts
    if not path:
        raise UserError(f"{place} has no path; give one or remove the row")
    if len(labels) > 1 and split is by_commas:
        raise UserError(f"{place} has {len(labels) + 1} columns; name them in a header: path,label,group")
    if len(labels) > 1 and not all(label.isascii() and label.isdigit() for label in labels):
        raise UserError(
            f"{place}: {' '.join((path, *labels))!r} has more than a path and one label; "
            "give one label per line, after a tab if it contains spaces"
        )
    return path, labels


def _listed_path(line: str, split: Callable[[str], Parts], root: Path) -> str:
    """The path on a line of bulk input, which a label may follow: the complete line wins if it is a file."""
    path, labels = split(line)
    if not labels or os.path.isfile(root / line):
        return line
    ends_like_a_video = is_video(path) and not is_video(line)
    return path if ends_like_a_video or os.path.isfile(root / path) else line


# ---- which kind


def _lines(source: Path, text: str) -> Lines:
    numbered = ((f"{source}, line {n}", line.strip()) for n, line in enumerate(text.split("\n"), start=1))
    return [(place, line) for place, line in numbered if line and line != "#" and not line.startswith("# ")]


def _separator(source: Path, lines: Lines) -> str:
    """What separates path and label, by the lines that can be read in one way only."""
    fits = {name: [_is_labelled_video(split(line)) for _, line in lines] for name, split in SPLITS.items()}
    only = {
        name: _only_one(lines, fits[name], fits[rest]) for name, rest in (("spaces", "commas"), ("commas", "spaces"))
    }
    if only["spaces"] and only["commas"]:
        raise UserError(
            f"{only['spaces']} is `path label`, {only['commas']} is `path,label`; use one form for all lines"
        )
    if any(fits["spaces"]) and any(fits["commas"]) and not any(only.values()):
        raise UserError(
            f"{source} can be read as `path label` and as `path,label`; write it with commas below a first line "
            "`path,label`, or give read_manifest the format spaces or commas"
        )
    if any(fits["commas"]) and not only["spaces"]:
        return "commas"
    without_spaces = not any(fits["spaces"]) and all(by_commas(line)[1] and len(line.split()) == 1 for _, line in lines)
    return "commas" if without_spaces else "spaces"


def _only_one(lines: Lines, fits: list[bool], others: list[bool]) -> str | None:
    """Place of the first line that fits one way and not the other."""
    return next((place for (place, _), fit, other in zip(lines, fits, others, strict=True) if fit and not other), None)


def _is_labelled_video(parts: Parts) -> bool:
    return is_video(parts[0]) and bool(parts[1])


def _refuse_frames(source: Path, lines: Lines, root: Path) -> None:
    """Raise UserError for lists of folders of frames (`dir n label`, `dir offset n label`) or of parts of videos."""
    place, line = lines[0]
    tokens = line.split()
    numbered = all(
        len(tokens) > 2 and not any(map(is_video, tokens)) and all(token.isdigit() for token in tokens[1:])
        for tokens in (line.split() for _, line in lines)
    )
    if numbered or (not any(map(is_video, tokens)) and os.path.isdir(root / tokens[0])):
        raise UserError(
            f"{place}: {line!r} names a folder (raw frames: folder, number of frames, label), but videos are expected; "
            "list the video files that the frames were taken from, as `path label`"
        )
