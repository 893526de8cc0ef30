"""The picture of all families, and the page that explains it."""

from __future__ import annotations

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hybridvideo.models.families import FAMILIES
from hybridvideo.report.plots.families import CARD, card_of, families_svg
from hybridvideo.report.plots.network import Lanes, Link, Network, Part, Repeat, Tile, standalone

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("draw_families", ROOT / "tools" / "draw_families.py")
assert SPEC is not None and SPEC.loader is not None
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

PAGE = ROOT / "docs" / "families.md"


def family(name: str) -> str:
    return name.removesuffix("_tiny").removesuffix("_base")


def test_the_picture_shows_every_family_and_nothing_else() -> None:
    drawn = [text.text or "" for text in ElementTree.parse(tool.PICTURE).iter() if text.tag.endswith("text")]
    names = {text for text in drawn if text in FAMILIES}
    assert names == set(tool.smallest()) and {family(name) for name in names} >= {
        family(name) for name in FAMILIES if name.endswith("_base")
    }


@pytest.mark.parametrize("name", sorted({family(name) for name in tool.smallest()} - {"hybrid"}))
def test_the_page_explains_every_family(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    variant = name.removesuffix("_vectors").removesuffix("_joint").removesuffix("_spatial")
    assert f"**{name}**" in text or f"**{variant}**" in text


def test_a_card_holds_each_part_and_each_lane_without_words() -> None:
    inside = (Repeat((Lanes(((Tile("conv", "wordy"),), (Tile("time", "wordy"),)), "gate"),), 3),)
    parts = tuple(Part(name, None, 0.5, 1, inside) for name in ("stem", "head"))
    card = card_of(Network("a", (3, 8, 8, 8), parts, (Link("stem", "head"),), 1.0, 2))
    assert card.width == CARD and "wordy" not in card.svg and card.svg.count("x 3") == 2
    assert card.svg.count('rx="7"') == 4  # tiles


def test_cards_fill_columns_and_none_covers_another() -> None:
    network = tool.drawing_of("hybrid_micro")
    svg = ElementTree.fromstring(standalone(families_svg([network] * 6)))
    places = [child.get("transform", "") for child in svg if child.tag.endswith("}g")]
    assert len(places) == 6 == len(set(places))
