"""The result of reading any list: rows, the names of their classes, and the folder at which their paths start."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

VIDEO_EXTENSIONS = frozenset(
    f".{name}"
    for name in (
        *("3gp", "asf", "avi", "divx", "f4v", "flv", "m2ts", "m2v", "m4v", "mkv", "mov", "mp4"),
        *("mpe", "mpeg", "mpg", "mts", "mxf", "ogm", "ogv", "ts", "vob", "webm", "wmv"),
    )
)


def is_video(path: str | os.PathLike[str]) -> bool:
    """Whether the name has a video's extension; nothing is opened."""
    return os.path.splitext(path)[1].lower() in VIDEO_EXTENSIONS


@dataclass(frozen=True)
class Row:
    """One video: its path as listed, its label as an index into the manifest's labels, and its group.

    labels: all its labels if videos of the list may have several (`read_manifest(several=True)`); `label` is then None.
    """

    path: str
    label: int | None = None
    group: str | None = None
    labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Rows, the class names in order, and the folder at which relative paths start.

    root_given: the root was given by the user, not derived from the place of the list. confined: relative paths may
    not lead out of the root; False for paths that the user has typed, rather than found in a list.
    """

    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    root: Path
    root_given: bool = field(default=False, compare=False)
    confined: bool = field(default=True, compare=False)

    def __len__(self) -> int:
        return len(self.rows)

    def file(self, index: int) -> Path:
        """The file of row `index`; an absolute path is kept. The guard decides whether it may be opened."""
        return self.root / self.rows[index].path

    def subset(self, indices: Iterable[int]) -> Manifest:
        """The rows at `indices`, in that order, with the same labels and root."""
        return replace(self, rows=tuple(self.rows[index] for index in indices))

    def missing(self) -> list[str]:
        """Paths (as listed) without a file."""
        return [row.path for index, row in enumerate(self.rows) if not os.path.exists(self.file(index))]

    def counts(self) -> dict[str, int]:
        """Rows of each class by name, in the order of the labels; classes without a row count 0."""
        found = Counter(label for row in self.rows for label in (row.labels or (row.label,)))
        return {name: found[label] for label, name in enumerate(self.labels)}

    def groups(self) -> dict[str, list[int]]:
        """Row indices by group; a row without a group is a group of its own, named by its path."""
        members: dict[str, list[int]] = {}
        for index, row in enumerate(self.rows):
            members.setdefault(row.path if row.group is None else row.group, []).append(index)
        return members


@dataclass(frozen=True)
class Entry:
    """A row before its labels are looked up; `place` is its file and line, for error messages."""

    path: str
    labels: tuple[str, ...]
    group: str | None
    place: str
