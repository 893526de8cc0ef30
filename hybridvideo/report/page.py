"""The building blocks of a page, and the one HTML file they are written to.

`Html` is markup; a plain `str` is text. Every block escapes the text it is given, so nothing from a file name, a label
or a config can become markup, turn the direction of writing or hide. A page holds its style and its pictures itself: no
script, no link to anything outside.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NewType, TypeGuard

from hybridvideo.files import write_text
from hybridvideo.text import shown

Html = NewType("Html", str)
Cell = str | int | float | None

MARK, LONGEST_HEAD = "hybridvideo", 4096  # name of the tag that holds a page's mark; bytes in which it stands


@dataclass(frozen=True)
class Markup:
    """A table cell that is markup already; a plain str in a table is always escaped."""

    html: Html


# name -> (light, dark). Figures are drawn in the light colours, then each is replaced by its CSS variable.
THEME = {
    "paper": ("#f6f7f9", "#11151b"),
    "card": ("#fefefe", "#191f27"),
    "ink": ("#1b2330", "#e3e8ef"),
    "soft": ("#566172", "#9aa6b6"),
    "line": ("#dfe4ea", "#2d3642"),
    "accent": ("#2c69d1", "#77a6fb"),
    "second": ("#c9761c", "#eda456"),
    "good": ("#1f8a4c", "#58c486"),
    "bad": ("#c43d37", "#f2786f"),
}


def _variables(which: int) -> str:
    return "".join(f"--{name}:{colours[which]};" for name, colours in THEME.items())


STYLE = (
    f":root{{color-scheme:light dark;{_variables(0)}}}\n"
    f"@media(prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}\n"
    """*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue","DejaVu Sans",sans-serif;font-variant-numeric:tabular-nums}
header,main,footer{max-width:1120px;margin:0 auto;padding:0 24px}
header{padding-top:36px}
h1{font-size:28px;line-height:1.2;margin:0 0 8px;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:19px;margin:40px 0 12px}
h3{font-size:15px;margin:0 0 8px}
p{margin:0 0 12px;max-width:78ch}
p,h2,h3,summary,figcaption,footer{overflow-wrap:anywhere}
.lead{font-size:17px;color:var(--soft);overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin-top:14px;padding-bottom:14px;border-bottom:1px solid var(--line)}
a{color:var(--accent);text-decoration:none}
a:hover{text-decoration:underline}
.box{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px 18px;min-width:0}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,440px),1fr));gap:14px;align-items:start}
.columns>*{margin:0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,150px),1fr));gap:14px}
.card .name{color:var(--soft);font-size:13px}
.card .value{font-size:26px;font-weight:620;line-height:1.25;letter-spacing:-.01em;overflow-wrap:anywhere}
.card .note{color:var(--soft);font-size:13px}
.card.big{border-top:4px solid var(--tone,var(--line))}
.card.big .value{font-size:46px;color:var(--tone,var(--ink))}
figure{margin:0}
figure svg{display:block;width:100%;height:auto;margin:0 auto}
figure svg text{font-family:inherit!important}
figcaption{color:var(--soft);font-size:13px;margin-top:8px}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;width:100%;font-size:14px}
th{text-align:left;color:var(--soft);font-weight:600;font-size:13px;white-space:nowrap}
th,td{padding:6px 14px 6px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
td.number,th.number{text-align:right;white-space:nowrap}
.facts td:first-child{color:var(--soft);white-space:nowrap;width:1%;padding-right:28px}
.facts td{overflow-wrap:anywhere}
.bar{display:inline-block;vertical-align:middle;width:110px;height:8px;border-radius:4px;background:var(--line);overflow:hidden}
.bar i{display:block;height:100%;background:var(--accent)}
.tag{font-size:13px;font-weight:600}
.good{color:var(--good)}.bad{color:var(--bad)}
details>summary{cursor:pointer;font-weight:600}
details>summary+*{margin-top:12px}
pre{margin:0;overflow-x:auto;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace}
.notice{border-left:4px solid var(--second)}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:14px}
.clip{border:2px solid var(--line);border-radius:8px;overflow:hidden;background:var(--card);min-width:0}
.clip.good-border{border-color:var(--good)}.clip.bad-border{border-color:var(--bad)}
.clip img{display:block;width:100%;height:auto}
.clip div{padding:6px 10px 8px;font-size:13px;overflow-wrap:anywhere}
.clip .file{color:var(--soft);padding:0 10px 8px;margin-top:-6px}
section>*+*,.stack>*+*{margin-top:14px}
footer{color:var(--soft);font-size:13px;margin-top:40px;padding-bottom:40px}
@media(max-width:600px){header,main,footer{padding:0 12px}header{padding-top:20px}h1{font-size:22px}
.box{padding:12px}.card .value{font-size:21px}.card.big .value{font-size:34px}.facts td:first-child{white-space:normal;
width:40%;padding-right:12px}th,td{padding-right:10px}.cards{grid-template-columns:repeat(auto-fit,minmax(130px,1fr))}}
@media print{body{background:none}.box,.clip{break-inside:avoid}nav{display:none}}
"""
)


# ---- numbers as text -------------------------------------------------------------------------------------------------


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number: an accuracy over no video is None or NaN."""
    return value is not None and not math.isnan(value)


def percent(share: float | None, digits: int = 1) -> str:
    """`0.975` -> `97.5 %` (its space does not break); nothing known -> a dash."""
    return f"{100 * share:.{digits}f}\u00a0%" if known(share) else "–"


def interval(bounds: Sequence[float] | None) -> str:
    """`[0.9, 0.99]` -> `90.0 to 99.0 %`."""
    if bounds is None or not all(known(bound) for bound in bounds):
        return "–"
    low, high = bounds
    return f"{100 * low:.1f} to {100 * high:.1f}\u00a0%"


def readable(value: object) -> str:
    """Any value of a config or a summary in few characters."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–"
        return f"{value:.4g}" if abs(value) < 9_999.5 else f"{value:,.0f}".replace(",", " ")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {readable(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(readable(item) for item in value)
    return str(value)


# ---- blocks ----------------------------------------------------------------------------------------------------------


def text(words: str) -> Html:
    """`words` on one line, with everything that could be markup or would not be seen escaped."""
    return Html(html.escape(shown(words), quote=True))


def join(blocks: Iterable[Html]) -> Html:
    """Blocks one after the other."""
    return Html("\n".join(blocks))


def paragraph(words: str) -> Html:
    return Html(f"<p>{text(words)}</p>")


def box(*blocks: Html, title: str | None = None, kind: str = "") -> Html:
    """A framed block; `kind` is a class of STYLE, such as `notice`."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    return Html(f'<div class="box stack {kind}">{head}{join(blocks)}</div>')


def columns(*blocks: Html) -> Html:
    """Blocks beside each other where the window is wide enough."""
    return Html(f'<div class="columns">{join(blocks)}</div>')


def card(name: str, value: str, note: str = "", *, tone: str | None = None) -> Html:
    """One number with its name. With a `tone` (a name in THEME) it is a large one, in that colour."""
    assert tone is None or tone in THEME, tone
    kind, style = (" big", f' style="--tone:var(--{tone})"') if tone else ("", "")
    parts = f'<div class="name">{text(name)}</div><div class="value">{text(value)}</div>'
    below = f'<div class="note">{text(note)}</div>' if note else ""
    return Html(f'<div class="box card{kind}"{style}>{parts}{below}</div>')


def cards(*items: Html) -> Html:
    return Html(f'<div class="cards">{join(items)}</div>')


def figure(svg: Html, caption: str, *, title: str | None = None) -> Html:
    """A drawing with one line on how to read it."""
    head = f"<h3>{text(title)}</h3>" if title else ""
    return Html(
        f'<figure class="box">{head}<div class="scroll">{svg}</div><figcaption>{text(caption)}</figcaption></figure>'
    )


def bar(share: float | None) -> Markup:
    """A share from 0 to 1 as a small bar."""
    filled = min(max(share, 0.0), 1.0) if known(share) else 0.0
    return Markup(Html(f'<span class="bar"><i style="width:{100 * filled:.1f}%"></i></span>'))


def _cell(value: Cell | Markup) -> Html:
    if isinstance(value, Markup):
        return value.html
    return text(value if isinstance(value, str) else readable(value))


def table(header: Sequence[str], rows: Iterable[Sequence[Cell | Markup]], *, numbers: Iterable[int] = ()) -> Html:
    """A table that scrolls sideways where it is wide; the columns in `numbers` are aligned to the right."""
    right = set(numbers)
    kinds = [' class="number"' if column in right else "" for column in range(len(header))]
    head = "".join(f"<th{kind}>{text(name)}</th>" for kind, name in zip(kinds, header, strict=True))
    body = "\n".join(
        "<tr>" + "".join(f"<td{kind}>{_cell(value)}</td>" for kind, value in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def facts(pairs: Mapping[str, object]) -> Html:
    """Names and values, one line each; an underscore in a name is shown as a space."""
    rows = "\n".join(
        f"<tr><td>{text(name.replace('_', ' '))}</td><td>{text(readable(value))}</td></tr>"
        for name, value in pairs.items()
    )
    return Html(f'<div class="scroll"><table class="facts"><tbody>{rows}</tbody></table></div>')


def preformatted(words: str) -> Html:
    """Text as it stands, such as a YAML file; wide lines scroll."""
    lines = "\n".join(text(line) for line in words.split("\n"))
    return Html(f"<pre>{lines}</pre>")


def folded(summary: str, *blocks: Html) -> Html:
    """Blocks that show when their line is clicked."""
    return Html(f'<details class="box"><summary>{text(summary)}</summary><div>{join(blocks)}</div></details>')


# ---- the page --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """A titled part of a page, reached from the line of links at its top."""

    title: str
    blocks: tuple[Html, ...]

    @property
    def anchor(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def page(title: str, lead: str, sections: Sequence[Section], *, mark: str = "") -> Html:
    """The whole document. Sections without blocks are left out. mark: what it was made from, for `mark_in`."""
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
    """The mark of a page; "" where it has none, or is no page."""
    try:
        with path.open("rb") as file:
            head = file.read(LONGEST_HEAD).decode("utf-8", "replace")
    except OSError:
        return ""
    found = re.search(f'<meta name="{MARK}" content="([^"]*)">', head)
    return html.unescape(found[1]) if found else ""


def write_page(path: str | Path, document: Html) -> Path:
    """Write the document whole or not at all; folders that are missing are made. Raises EnvironmentFault."""
    write_text(Path(path), document)
    return Path(path)
