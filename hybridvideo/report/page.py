"""Sections to one HTML file that holds its style and its pictures itself: no script, no link to anything outside."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridvideo.files import write_text
from hybridvideo.report.markup import Html, join, text
from hybridvideo.report.style import STYLE

MARK = "hybridvideo"  # name of the <meta> tag that holds a page's mark
LONGEST_HEAD = 4096  # bytes at the start of a page that contain it


@dataclass(frozen=True)
class Section:
    """A titled part of a page, linked from the line at its top."""

    title: str
    blocks: tuple[Html, ...]

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def page(title: str, lead: str, sections: Sequence[Section], *, mark: str = "") -> Html:
    """Return the document, without sections that have no blocks. mark: what it was made from, for `mark_in`."""
    filled = [section for section in sections if section.blocks]
    links = join(Html(f'<a href="#{section.anchor}">{text(section.title)}</a>') for section in filled)
    body = join(
        Html(f'<section id="{section.anchor}"><h2>{text(section.title)}</h2>\n{join(section.blocks)}</section>')
        for section in filled
    )
    return Html(
        f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="{MARK}" content="{text(mark)}">
<title>{text(title)}</title>
<style>{STYLE}</style></head>
<body>
<header><h1>{text(title)}</h1><p class="lead">{text(lead)}</p><nav>{links}</nav></header>
<main>
{body}
</main>
<footer>Written by hybridvideo. This file is complete in itself and loads nothing.</footer>
</body></html>
"""
    )


def mark_in(path: Path) -> str:
    """Return the mark of a page; "" if it has none or is not a page."""
    try:
        with path.open("rb") as file:
            head = file.read(LONGEST_HEAD).decode("utf-8", "replace")
    except OSError:
        return ""
    found = re.search(f'<meta name="{MARK}" content="([^"]*)">', head)
    return html.unescape(found[1]) if found else ""


def write_page(path: str | Path, document: Html) -> Path:
    """Write the document completely or not at all, creating missing folders. Raises EnvironmentFault."""
    write_text(Path(path), document)
    return Path(path)
