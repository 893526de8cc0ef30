"""The drawing of a model: everything in it is shown, inside its frame, and safe."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from hybridvideo.report.markup import Html
from hybridvideo.report.plots.network import (
    COLOURS,
    PANEL,
    WIDTH,
    Lanes,
    Link,
    Network,
    Part,
    Repeat,
    Step,
    Tile,
    chain,
    network_svg,
    standalone,
)

CONV, ATTENTION = Tile("conv", "depthwise 3x3x3"), Tile("attention", "attention in space")
STAGE: tuple[Step, ...] = (
    Tile("grid", "merge 2x2"),
    Repeat((Lanes(((CONV,), (ATTENTION,)), "gate"), Tile("mlp", "MLP")), 3),
    Lanes(((CONV,), (ATTENTION,), ()), "both", coupled=True),
)


def network(name: str = "a_model") -> Network:
    parts = (
        Part("stem", (8, 14, 14, 64), 0.25, 1_000_000, (Tile("conv", "small CNN"),)),
        Part("stage1", (8, 7, 7, 128), 0.75, 2_000_000, STAGE),
        Part("head", None, 0.0, 1_000_000, (Tile("grid", "pool"),)),
    )
    return Network(name, (3, 8, 112, 112), parts, (Link("stem", "head"),), 1.0, 4_000_000)


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_every_part_step_shape_and_cost_is_written() -> None:
    written = texts(standalone(network_svg(network())))
    for words in ("stem", "stage1", "head", "8x14x14x64", "8x7x7x128", "logits", "0.75", "75 %", "2.00 M", "50 %"):
        assert words in [text.replace("\N{NO-BREAK SPACE}", " ") for text in written], words
    for words in ("merge 2x2", "x 3", "gate", "MLP", "both"):
        assert words in written
    assert written.count("depthwise 3x3x3") == 2 and any("1.00 GMACs a view, 4.0 M" in text for text in written)


def test_lanes_lie_below_each_other_between_one_fork_and_one_joint() -> None:
    two, three = (chain([Lanes(((CONV,), (ATTENTION,), (CONV,))[:count])], 700) for count in (2, 3))
    assert three.height > two.height > chain([CONV], 700).height
    assert three.width == two.width < chain([CONV, ATTENTION, CONV], 700).width


def test_couplings_are_arrows_both_ways_and_links_arrows_past_the_stages() -> None:
    arrows = [
        chain([Lanes(((CONV,), (ATTENTION,)), "+", coupled)], 700).svg.count("#arrow") for coupled in (False, True)
    ]
    assert arrows[1] - arrows[0] == 2
    linked = network()
    alone = Network("a", linked.input, linked.parts, (), 1.0, 1)
    assert network_svg(linked).count("#arrow") - network_svg(alone).count("#arrow") == 1


@pytest.mark.parametrize("count", [1, 3, 12])
def test_steps_that_are_too_wide_go_on_in_the_next_line(count: int) -> None:
    box = chain([CONV] * count, 400)
    assert box.width <= 400 and box.height >= 30 * -(-count // 3)


def test_nothing_is_drawn_outside_the_picture() -> None:
    svg = network_svg(network())
    places = [float(x) for x in re.findall(r"translate\(([\d.-]+)", svg)]
    assert min(places) >= 0 and max(places) < PANEL < WIDTH


def test_names_are_text_and_never_markup() -> None:
    evil = '</text><script>alert("x")</script>'
    svg = network_svg(network(evil))
    assert "<script" not in svg and texts(standalone(svg))[0].replace("…", "").startswith("</text>")


def test_a_file_of_its_own_brings_its_colours_light_and_dark() -> None:
    svg = standalone(Html(network_svg(network())))
    used = set(re.findall(r"var\(--(\w+)\)", svg))
    for words in ("svg{", "prefers-color-scheme:dark"):
        assert words in svg
    assert all(svg.count(f"--{name}:") == 2 for name in used)


def test_every_kind_of_step_has_a_colour_of_its_own() -> None:
    assert len({colour for colour, _ in COLOURS.values()}) == len(COLOURS)
