"""Building blocks: text stays text, a page is whole, numbers are readable."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hybridvideo.report.markup import card, facts, figure, folded, paragraph, preformatted, table, text
from hybridvideo.report.numbers import interval, percent, readable
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.plots.curves import Line, curves
from hybridvideo.report.style import STYLE, THEME
from hybridvideo.text import duration
from tests.report.examples import Page

EVIL = """<script>alert(1)</script>"><img src=x onerror="y">'&"""


def test_every_block_escapes_the_text_it_is_given() -> None:
    blocks = (
        paragraph(EVIL),
        card(EVIL, EVIL, EVIL),
        figure(text(EVIL), EVIL, title=EVIL),
        table([EVIL], [[EVIL]]),
        facts({EVIL: EVIL}),
        folded(EVIL, preformatted(EVIL)),
    )
    seen = Page(page(EVIL, EVIL, [Section(EVIL, blocks)]))
    assert not {"script", "img"} & {tag for tag, _ in seen.tags}
    assert seen.words.count("alert(1)") == 18


def test_a_page_has_a_section_for_each_that_has_blocks_and_a_link_to_it() -> None:
    document = page("title", "lead", [Section("What it is", (paragraph("words"),)), Section("Empty", ())])
    seen = Page(document)
    assert seen.open == []
    assert [a["href"] for tag, a in seen.tags if tag == "a"] == ["#what-it-is"]
    assert [a["id"] for tag, a in seen.tags if tag == "section"] == ["what-it-is"]


def test_both_colour_schemes_are_defined_in_full() -> None:
    light, dark = page("t", "l", []).split("prefers-color-scheme:dark")
    for name, (bright, dim) in THEME.items():
        assert f"--{name}:{bright}" in light
        assert f"--{name}:{dim}" in dark


def test_a_page_is_written_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "report.html"
    assert write_page(target, text("a name of no UTF-8: \udcff, and ü")) == target
    assert target.read_text(encoding="utf-8") == r"a name of no UTF-8: \udcff, and ü"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (percent(0.975), "97.5\u00a0%"),
        (percent(None), "–"),
        (percent(float("nan")), "–"),
        (interval([0.9, 0.99]), "90.0 to 99.0\u00a0%"),
        (interval([float("nan"), 1.0]), "–"),
        (duration(3.21), "3.2 s"),
        (duration(125.4), "2 min 5 s"),
        (duration(3600), "1 h"),
        (readable({"clips": 4, "flip": False, "stride": None}), "clips 4, flip no, stride –"),
        (readable(1_234_567), "1 234 567"),
        (readable(1e-4), "0.0001"),
    ],
)
def test_numbers_are_short_and_unknown_ones_a_dash(given: str, shown: str) -> None:
    assert given == shown


def test_wide_tables_scroll_and_rows_of_a_wrong_length_are_refused() -> None:
    assert table(["a"], [[1]]).startswith('<div class="scroll">')
    with pytest.raises(ValueError):
        table(["a", "b"], [[1]])


def test_on_a_phone_figures_shrink_and_only_tables_and_files_scroll() -> None:
    document = page("t", "l", [Section("s", (figure(curves([Line("a", [1, 2], [1.0, 2.0])], x="x", y="y"), "c"),))])
    assert '<meta name="viewport" content="width=device-width,initial-scale=1">' in document
    rules = dict(re.findall(r"([^{}@\n]+)\{([^{}]*)\}", STYLE.partition("@media(max-width")[0]))
    assert "width:100%" in rules["figure svg"] and "min-width" not in rules["figure svg"]
    assert "overflow-x:auto" in rules[".scroll"] and "overflow-x:auto" in rules["pre"]
    assert "overflow-wrap:anywhere" in rules["p,h2,h3,summary,figcaption,footer"]
    svg = next(attributes for tag, attributes in Page(document).tags if tag == "svg")
    assert re.fullmatch(r"max-width:\d+px", str(svg["style"]))


def test_what_is_not_seen_is_escaped_and_the_lines_of_a_file_stay() -> None:
    assert text("a\x1b[2J\u202e\u200b\r\n<b>") == r"a\x1b[2J\u202e\u200b\r\n&lt;b&gt;"
    assert preformatted("a: 1\nb:\t\x9b2") == "<pre>a: 1\nb:" + r"\t\x9b2</pre>"


@pytest.mark.parametrize(
    ("number", "written"),
    [(9999.7, "10 000"), (1234.5, "1234"), (float("nan"), "–"), (float("inf"), "–"), (0.5, "0.5")],
)
def test_numbers_are_written_without_powers_of_ten_or_nan(number: float, written: str) -> None:
    assert readable(number) == written
