"""The building blocks of a page: text, boxes, cards, tables, figures.

`Html` is markup; a plain `str` is text. Every block escapes the text it is given, so nothing in a file name, a label or
a config can become markup, change the direction of writing, or hide.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

from hybridvideo.report.numbers import known, readable
from hybridvideo.report.style import THEME
from hybridvideo.text import shown

Html = NewType("Html", str)
Cell = str | int | float | None


@dataclass(frozen=True)
class Markup:
    """A table cell that is already markup; a plain str in a table is always escaped."""

    html: Html


def text(words: str) -> Html:
    """Put `words` on one line, with everything that could be markup or is invisible escaped."""
    return Html(html.escape(shown(words), quote=True))


def join(blocks: Iterable[Html]) -> Html:
    """Join blocks, one after another."""
    return Html("\n".join(blocks))


def paragraph(words: str) -> Html:
    """Make a paragraph."""
    return Html(f"<p>{text(words)}</p>")


def box(*blocks: Html, title: str | None = None, kind: str = "") -> Html:
    """Frame blocks; `kind` is a class in STYLE, such as `notice`."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    return Html(f'<div class="box stack {kind}">{head}{join(blocks)}</div>')


def columns(*blocks: Html) -> Html:
    """Put blocks side by side if the window is wide enough."""
    return Html(f'<div class="columns">{join(blocks)}</div>')


def stack(*blocks: Html) -> Html:
    """Put blocks below one another, as one column."""
    return Html("\n".join(["<div class=stack>", *blocks, "</div>"]))


def card(name: str, value: str, note: str = "", *, tone: str | None = None) -> Html:
    """Show one number with its name. A `tone` (a name in THEME) makes it large and gives it that colour."""
    assert tone is None or tone in THEME, tone
    kind, style = (" big", f' style="--tone:var(--{tone})"') if tone else ("", "")
    parts = f'<div class="name">{text(name)}</div><div class="value">{text(value)}</div>'
    below = f'<div class="note">{text(note)}</div>' if note else ""
    return Html(f'<div class="box card{kind}"{style}>{parts}{below}</div>')


def cards(*items: Html) -> Html:
    """Put cards in rows."""
    return Html(f'<div class="cards">{join(items)}</div>')


def figure(svg: Html, caption: str, *, title: str | None = None) -> Html:
    """Frame a drawing with one line on how to read it."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    return Html(
        f'<figure class="box">{head}<div class="scroll">{svg}</div><figcaption>{text(caption)}</figcaption></figure>'
    )


def bar(share: float | None) -> Markup:
    """Draw a share from 0 to 1 as a small bar."""
    filled = min(max(share, 0.0), 1.0) if known(share) else 0.0
    return Markup(Html(f'<span class="bar"><i style="width:{100 * filled:.1f}%"></i></span>'))


def _cell(value: Cell | Markup) -> Html:
    if isinstance(value, Markup):
        return value.html
    return text(value if isinstance(value, str) else readable(value))


def table(header: Sequence[str], rows: Iterable[Sequence[Cell | Markup]], *, numbers: Iterable[int] = ()) -> Html:
    """Make a table that scrolls sideways if it is wide; the columns in `numbers` are right-aligned."""
    right = set(numbers)
    kinds = [' class="number"' if column in right else "" for column in range(len(header))]
    head = "".join(f"<th{kind}>{text(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(value)}</td>" for kind, value in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def facts(pairs: Mapping[str, object]) -> Html:
    """List names and values, one line each; underscores in names are shown as spaces."""
    rows = "\n".join(
        f"<tr><td>{text(name.replace('_', ' '))}</td><td>{text(readable(value))}</td></tr>"
        for name, value in pairs.items()
    )
    return Html(f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>')


def preformatted(words: str) -> Html:
    """Show text with its line breaks, such as a YAML file; wide lines scroll."""
    lines = "\n".join(text(line) for line in words.split("\n"))
    return Html(f"<pre>{lines}</pre>")


def folded(summary: str, *blocks: Html) -> Html:
    """Hide blocks until their summary is clicked."""
    return Html(f'<details class="box"><summary>{text(summary)}</summary><div>{join(blocks)}</div></details>')
