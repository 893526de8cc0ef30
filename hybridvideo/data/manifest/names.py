"""Labels go by name: shipped name lists, files of names, and the look-up of a list's labels in given names.

    a label that is a name                                       is that class
    one that differs by case, underscores, quotes, brackets      is that class, if no other name is as close
    an integer                                                   is an index into `order`, or else into the names

`order`: names in the order that the list's numbers follow. Code bases number Kinetics differently: abseiling is 0 or
341, so a list of numbers is only correct together with the order it was made for.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

from hybridvideo.data.manifest.rows import Entry, Row
from hybridvideo.documents import load_json, read_text
from hybridvideo.errors import UserError, nearest

LARGEST = 2**26  # bytes of a file of names
ADVICE = "give one name per line"
MOST_CLASSES = 1_000_000  # a larger integer label is an id in the wrong column
SHIPPED = ("kinetics400",)

Names: TypeAlias = Sequence[str] | str | os.PathLike[str]


def kinetics400_labels() -> tuple[str, ...]:
    """The 400 class names of Kinetics-400, in alphabetical order: the label set of the official CSVs."""
    return label_names("kinetics400")


def label_names(names: Names) -> tuple[str, ...]:
    """Return class names in order: as given, or of a shipped list ("kinetics400"), or of a file.

    A file contains one name per line, or `name<TAB>number` lines, or a JSON object {name: number}. Raises UserError.
    """
    if not isinstance(names, str | os.PathLike):
        return tuple(names)
    if names in SHIPPED:
        text = (files("hybridvideo.data") / "labels" / f"{names}.txt").read_text(encoding="utf-8")
        return tuple(text.splitlines())
    path = Path(names)
    if not path.exists():
        raise UserError(f"no label list {os.fspath(names)!r}; give {', '.join(SHIPPED)}, a list, or a file of names")
    text = read_text(path, ADVICE, LARGEST)
    try:
        return _names_of_file(text, str(path))
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is not a list of class names ({error}); {ADVICE}") from None


def _names_of_file(text: str, path: str) -> tuple[str, ...]:
    if text.lstrip().startswith("{"):
        content = load_json(text, path, ADVICE)
        pairs = [(name.strip('"'), int(number)) for name, number in content.items()]
    else:
        cells = [line.rstrip().split("\t") for line in text.splitlines() if line.strip()]
        if all(len(cell) == 1 for cell in cells):
            return tuple(cell[0] for cell in cells)
        pairs = [(name, int(number)) for name, number in cells]
    if sorted(number for _, number in pairs) != list(range(len(pairs))):
        raise ValueError(f"its numbers are not 0 to {len(pairs) - 1}")
    return tuple(name for name, _ in sorted(pairs, key=lambda pair: pair[1]))


def plain_name(name: str) -> str:
    """The name without case and punctuation: the same for `Person's_arm` and `persons arm`."""
    return " ".join(re.sub(r"[\s_()-]+", " ", re.sub("[\"'`’]", "", name.casefold())).split())


def own_names(entries: Sequence[Entry]) -> tuple[str, ...]:
    """Class names if none are given: "0".."max" if all labels are integers, otherwise the sorted names."""
    names = {label for entry in entries for label in entry.labels}
    if not names or not all(_is_number(name) for name in names):
        return tuple(sorted(names))
    highest = max(map(int, names))
    if highest >= MOST_CLASSES:
        place = next(entry.place for entry in entries if highest in map(int, entry.labels))
        raise UserError(f"{place}: {highest} is not a class index; give one under {MOST_CLASSES} or names")
    return tuple(map(str, range(highest + 1)))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


@dataclass
class Lookup:
    """Find labels of a list among given names, and remember how the list spells them."""

    names: tuple[str, ...]
    order: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        self._index = {name: index for index, name in enumerate(self.names)}
        if len(self._index) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise UserError(f"class name {twice!r} appears twice in the labels; give each class its own name")
        shared = Counter(map(plain_name, self.names))
        self._plain = {plain: i for i, name in enumerate(self.names) if shared[plain := plain_name(name)] == 1}
        self._spelled: dict[int, tuple[str, str]] = {}  # class -> (its name in the list, place)
        self._known: dict[str, int] = {}

    def __call__(self, label: str, place: str) -> int:
        """Return the class of a label. Raises UserError for one that is not among the names, or spelled in two ways."""
        if label not in self._known:
            self._known[label] = self._find(label, place)
        return self._known[label]

    def _find(self, label: str, place: str) -> int:
        number = int(label) if _is_number(label.removeprefix("-")) else None
        if number is not None and self.order is not None:
            return self._named(self.order[self._within(number, len(self.order), place)], place)
        if number is None or label in self._index:
            return self._named(label, place)
        return self._within(number, len(self.names), place)

    def _named(self, name: str, place: str) -> int:
        found = self._index.get(name, self._plain.get(plain_name(name)))
        if found is None:
            raise UserError(
                f"{place}: label {name!r} is not among the {len(self.names)} class names"
                f"{nearest(name, self._index)}; correct it or add it to the labels"
            )
        other, earlier = self._spelled.setdefault(found, (name, place))
        if other != name:
            raise UserError(f"{place}: label {name!r} is {other!r} at {earlier}; spell a class in one way")
        return found

    def _within(self, number: int, count: int, place: str) -> int:
        if not 0 <= number < count:
            raise UserError(f"{place}: label {number} is out of range; {count} classes allow 0 to {count - 1}")
        return number


def looked_up(entries: Sequence[Entry], lookup: Lookup, must: bool, several: bool) -> tuple[Row, ...]:
    """Return entries with labels as indices. must: a missing label is an error. several: rows may have several."""
    rows: list[Row] = []
    first: dict[str, tuple[int | None, str]] = {}
    multiple = any(len(entry.labels) > 1 for entry in entries)
    for entry in entries:
        found = tuple(lookup(label, entry.place) for label in entry.labels)
        if must and not found:
            raise UserError(f"{entry.place}: {entry.path!r} has no label; give one on every row")
        if multiple and not several and len(found) > 1:
            raise UserError(
                f"{entry.place}: {entry.path!r} has {len(found)} labels, but models learn one class per video; "
                "give one label per line"
            )
        if multiple:
            rows.append(Row(entry.path, None, entry.group, found))
            continue
        label = found[0] if found else None
        other, place = first.setdefault(entry.path, (label, entry.place))
        if other != label:
            raise UserError(f"{entry.place}: {entry.path!r} has another label at {place}; keep one of them")
        rows.append(Row(entry.path, label, entry.group))
    return tuple(rows)
