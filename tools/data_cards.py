"""The cards of data sets in data/, and the table in data/README.md: `python -m tools.data_cards` writes it.

A card is read strictly: an unknown field, a missing one or one of another type is an error. Nothing in the package
reads the cards; a test does, and compares the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hybridvideo.documents import read_yaml
from hybridvideo.parsing import parsed

FOLDER = Path(__file__).resolve().parents[1] / "data"
README = FOLDER / "README.md"
START, END = "<!-- table: python -m tools.data_cards -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Classes:
    """How many classes there are, and where their names are found."""

    count: int | None
    names: str
    """A file of this project, or the annotation file that has them."""
    listed: tuple[str, ...] = ()
    """The names themselves, if they are few and free."""


@dataclass(frozen=True)
class Annotations:
    """The files that say which video has which label."""

    files: tuple[str, ...]
    columns: tuple[str, ...]
    """Columns of a table, or fields of a JSON object, in order."""
    example: str
    """One line, or one object."""
    form: str
    """What a reader must know about it."""


@dataclass(frozen=True)
class Generated:
    """How a set that is made on the spot comes about."""

    generator: str
    command: str
    seed: int
    per_class: dict[str, int]
    """Videos of each class by split."""


@dataclass(frozen=True)
class Prepare:
    """What `hybridvideo` does with the set."""

    today: str
    missing: str = ""
    """What a later version must add."""


@dataclass(frozen=True)
class Card:
    """What to know about a data set before using it."""

    name: str
    """Name of the file without `.yaml`."""
    title: str
    task: Literal["single-label", "multi-label", "verb and noun"]
    classes: Classes
    splits: dict[str, int]
    """Videos, or segments of videos, by split."""
    seconds: str
    """Length of a clip."""
    fps: str
    size: str
    """On disk."""
    annotations: Annotations
    protocol: tuple[str, ...]
    """How results are reported: splits, views, metric."""
    pitfalls: tuple[str, ...]
    licence: str
    home: str
    download: tuple[str, ...]
    """Addresses."""
    citation: str
    prepare: Prepare
    sources: tuple[str, ...]
    """Where the facts of this card were looked up."""
    unverified: tuple[str, ...] = ()
    """Facts, with their field, that no source confirmed when the card was written."""
    generated: Generated | None = None


def read_card(path: Path) -> Card:
    """Read a card. UserError for anything that does not follow the schema."""
    return parsed(Card, read_yaml(path, "correct the card"), str(path))


def read_cards() -> list[Card]:
    """Read all cards, in order of their names."""
    return [read_card(path) for path in sorted(FOLDER.glob("*.yaml"))]


def table(cards: list[Card]) -> str:
    """Return the table of all cards in Markdown."""
    lines = [
        "| card | data set | task | classes | videos by split | licence |",
        "| --- | --- | --- | ---: | --- | --- |",
    ]
    for card in cards:
        splits = ", ".join(f"{name} {count:,}" for name, count in card.splits.items())
        count = "" if card.classes.count is None else str(card.classes.count)
        cells = (f"[{card.name}]({card.name}.yaml)", card.title, card.task, count, splits, card.licence)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_table(text: str, cards: list[Card]) -> str:
    """Return the text of the README with its table replaced."""
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table(cards)}\n{END}{after}"


def main() -> None:
    README.write_text(with_table(README.read_text(encoding="utf-8"), read_cards()), encoding="utf-8")


if __name__ == "__main__":
    main()
