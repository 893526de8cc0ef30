"""A model as a drawing: its parts from top to bottom, the steps in each from left to right, shapes, joints and costs.

What is drawn is plain data (`Network`), whoever found it out. Colours are the page's; `standalone` adds them.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hybridvideo.report.markup import Html
from hybridvideo.report.numbers import percent
from hybridvideo.report.plots.figure import GROUPS
from hybridvideo.report.style import THEME
from hybridvideo.text import shown

# --- the facts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tile:
    """A step: `kind` is a name in COLOURS."""

    kind: str
    label: str


@dataclass(frozen=True)
class Repeat:
    """Steps that are run several times in a row, each time with weights of their own."""

    steps: tuple[Step, ...]
    times: int


@dataclass(frozen=True)
class Lanes:
    """Steps that run side by side, and how they are joined; `coupled`: each gives to the other on the way."""

    lanes: tuple[tuple[Step, ...], ...]
    joint: str = "+"
    coupled: bool = False


Step = Tile | Repeat | Lanes


@dataclass(frozen=True)
class Part:
    """Stem, a stage or the head."""

    name: str
    shape: tuple[int, ...] | None
    """Frames, rows, columns and channels after it; null: of the head."""
    gmacs: float
    parameters: int
    steps: tuple[Step, ...]
    begins: bool = False
    """Whether it reads the clip, as the first part does."""


@dataclass(frozen=True)
class Link:
    """What a part takes from an earlier one apart from the one before it."""

    source: str
    target: str


@dataclass(frozen=True)
class Network:
    """A model: its parts in order."""

    name: str
    input: tuple[int, int, int, int]
    """Channels, frames, rows, columns."""
    parts: tuple[Part, ...]
    links: tuple[Link, ...]
    gmacs: float
    parameters: int


# --- boxes ------------------------------------------------------------------------------------------------------------

COLOURS = {
    "conv": (GROUPS[0], "convolution"),
    "attention": (GROUPS[1], "attention"),
    "time": (GROUPS[4], "between frames only"),
    "mlp": (GROUPS[8], "MLP"),
    "gate": (GROUPS[2], "gates and couplings"),
    "grid": (GROUPS[5], "changes the grid"),
}
LETTER, TILE, GAP = 6.7, 30, 16  # width of a letter, height of a tile, space between two


class Box(NamedTuple):
    """A drawing and its size; flow enters at the middle of its left side and leaves at that of its right."""

    width: float
    height: float
    svg: str

    def at(self, x: float, y: float) -> str:
        return f'<g transform="translate({x:.1f} {y:.1f})">{self.svg}</g>'


def label(words: str, x: float, y: float, style: str = "", fill: str = "ink", size: float = 13) -> str:
    """Text whose left end (or middle, or right end, by `style`) is at a point."""
    safe = html.escape(shown(words), quote=True)
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="var(--{fill})" {style}>{safe}</text>'


def line(*points: tuple[float, float], arrow: bool = False) -> str:
    """A line through points, in the colour of what connects."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    head = ' marker-end="url(#arrow)"' if arrow else ""
    return f'<polyline points="{path}" fill="none" stroke="var(--soft)" stroke-width="1.4"{head}/>'


MIDDLE, END = 'text-anchor="middle"', 'text-anchor="end"'


def tile(step: Tile) -> Box:
    """A coloured box with its name."""
    colour, _ = COLOURS[step.kind]
    width = LETTER * len(step.label) + 22
    frame = f'<rect width="{width:.1f}" height="{TILE}" rx="7" fill="{colour}" fill-opacity=".2" stroke="{colour}"/>'
    return Box(width, TILE, frame + label(step.label, width / 2, 19.5, MIDDLE))


def repeat(step: Repeat, most: float) -> Box:
    """A frame around the steps, with how often they run."""
    inner = chain(step.steps, most - 64)
    width, height = inner.width + 64, inner.height + 18
    frame = (
        f'<rect width="{width - 34:.1f}" height="{height:.1f}" rx="9" fill="none" stroke="var(--soft)" '
        'stroke-dasharray="4 3"/>'
    )
    ends = line((0, height / 2), (15, height / 2)) + line((inner.width + 15, height / 2), (width - 34, height / 2))
    times = label(f"x {step.times}", width - 28, height / 2 + 4.5, 'font-weight="600"')
    return Box(width, height, frame + ends + inner.at(15, 9) + times)


def lanes(step: Lanes, most: float) -> Box:
    """Lanes below one another between a fork and a joint."""
    joint = max(26.0, LETTER * len(step.joint) + 14)
    boxes = [chain(lane, most - 48 - joint) for lane in step.lanes]
    inner, space = max(box.width for box in boxes), 30 if step.coupled else 12
    height = sum(box.height for box in boxes) + space * (len(boxes) - 1)
    parts, y, middle = [], 0.0, height / 2
    for box in boxes:
        centre, x = y + box.height / 2, 22 + (inner - box.width) / 2
        parts.append(line((0, middle), (10, middle), (10, centre), (x, centre)))
        parts.append(line((x + box.width, centre), (34 + inner, centre), (34 + inner, middle), (40 + inner, middle)))
        parts.append(box.at(x, y))
        y += box.height + space
    if step.coupled:
        top = boxes[0].height
        parts += [line((22 + inner / 2 - 12, top + 2), (22 + inner / 2 - 12, top + space - 3), arrow=True)]
        parts += [line((22 + inner / 2 + 12, top + space - 2), (22 + inner / 2 + 12, top + 3), arrow=True)]
    mark = f'<rect width="{joint}" height="26" rx="13" fill="var(--card)" stroke="{COLOURS["gate"][0]}"/>'
    mark += label(step.joint, joint / 2, 17.5, MIDDLE)
    width = 40 + inner + joint
    return Box(width, max(height, 26), "".join(parts) + Box(joint, 26, mark).at(40 + inner, middle - 13))


def box_of(step: Step, most: float) -> Box:
    """The drawing of a step, if possible no wider than `most`."""
    if isinstance(step, Tile):
        return tile(step)
    return repeat(step, most) if isinstance(step, Repeat) else lanes(step, most)


def chain(steps: Sequence[Step], most: float) -> Box:
    """Steps one after another, on several lines if they are too wide for one."""
    rows: list[list[Box]] = [[]]
    for box in (box_of(step, most) for step in steps):
        if rows[-1] and sum(other.width + GAP for other in rows[-1]) + box.width > most:
            rows.append([])
        rows[-1].append(box)
    drawn = [row_of(row) for row in rows]
    width, height = max(row.width for row in drawn), sum(row.height for row in drawn) + GAP * (len(drawn) - 1)
    parts, y = [], 0.0
    for row, following in zip(drawn, [*drawn[1:], None], strict=True):
        parts.append(row.at(0, y))
        if following is not None:
            start, turn, end = y + row.height / 2, y + row.height + GAP / 2, y + row.height + GAP + following.height / 2
            ends = [(row.width, start), (row.width + 9, start), (row.width + 9, turn), (-9, turn), (-9, end), (0, end)]
            parts.append(line(*ends))
        y += row.height + GAP
    return Box(width, height, "".join(parts))


def row_of(boxes: Sequence[Box]) -> Box:
    """Boxes in one line; none: a line that passes everything on."""
    if not boxes:
        return Box(40, TILE, line((0, TILE / 2), (40, TILE / 2)))
    height, x, parts = max(box.height for box in boxes), 0.0, []
    for i, box in enumerate(boxes):
        if i:
            parts.append(line((x, height / 2), (x + GAP - 2, height / 2), arrow=True))
            x += GAP
        parts.append(box.at(x, (height - box.height) / 2))
        x += box.width
    return Box(x, height, "".join(parts))


# --- the drawing ------------------------------------------------------------------------------------------------------

WIDTH, NAME, STEPS, PANEL, BARS = 1140, 30, 150, 834, 908  # places along the width, from the left
BETWEEN, TOP = 38, 92  # heights between panels and above the first
ARROW = (
    '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
    'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="var(--soft)"/></marker></defs>'
)


def network_svg(network: Network) -> Html:
    """Draw a model as an `<svg>` element."""
    parts, y, spans = [ARROW, heading(network)], float(TOP), {}
    for i, part in enumerate(network.parts):
        box = chain(part.steps, PANEL - STEPS - 20)
        height = max(58.0, box.height + 26)
        parts.append(panel(part, box, y, height))
        parts.append(cost(part, network, y + height / 2))
        spans[part.name] = (y, y + height)
        y += height
        apart = i + 1 < len(network.parts) and network.parts[i + 1].begins
        parts.append(flow(part, y, end=not apart))
        y += BETWEEN
        if apart:
            parts.append(line((STEPS + 20, y), (STEPS + 20, y + BETWEEN - 2), arrow=True))
            parts.append(label("the clip", STEPS + 32, y + BETWEEN / 2 + 4.5, fill="soft"))
            y += BETWEEN
    parts += [link(spans, each, place) for place, each in enumerate(network.links)]
    parts.append(legend(y + 18))
    size = f'viewBox="0 0 {WIDTH} {y + 40:.0f}"'
    words = html.escape(f"{network.name}: {', '.join(part.name for part in network.parts)}", quote=True)
    opening = f'<svg {size} role="img" aria-label="{words}" style="max-width:{WIDTH}px" font-family="sans-serif">'
    return Html(opening + "".join(parts) + "</svg>")


def flow(part: Part, y: float, end: bool) -> str:
    """What a part returns: an arrow to the next, unless the next one reads the clip."""
    words = "x".join(map(str, part.shape)) if part.shape else "logits"
    shape = label(words, STEPS + 32, y + BETWEEN / 2 + 4.5, fill="soft")
    return shape + (line((STEPS + 20, y), (STEPS + 20, y + BETWEEN - 2), arrow=True) if end else "")


def heading(network: Network) -> str:
    """Name and input, and the titles of the bars."""
    _, frames, rows, columns = network.input
    title = label(network.name, 16, 28, 'font-weight="700"', size=20)
    about = f"{frames} frames of {rows}x{columns}; {network.gmacs:.2f} GMACs a view, {network.parameters / 1e6:.1f} M"
    titles = label("GMACs", BARS, TOP - 14, fill="soft") + label("parameters", BARS + 120, TOP - 14, fill="soft")
    return title + label(f"{about} parameters with 400 classes", 16, 52, fill="soft") + titles


def panel(part: Part, box: Box, y: float, height: float) -> str:
    """The frame of a part with its name and its steps."""
    frame = (
        f'<rect x="16" y="{y:.1f}" width="{PANEL - 16}" height="{height:.1f}" rx="10" fill="var(--card)" '
        'stroke="var(--line)"/>'
    )
    name = label(part.name, NAME, y + height / 2 + 4.5, 'font-weight="600"')
    return frame + name + box.at(STEPS, y + (height - box.height) / 2)


def cost(part: Part, network: Network, y: float) -> str:
    """The share of a part in multiply-adds and in parameters, as bars."""
    pairs = (
        (BARS, part.gmacs, network.gmacs, f"{part.gmacs:.2f}"),
        (BARS + 120, part.parameters, network.parameters, f"{part.parameters / 1e6:.2f} M"),
    )
    return "".join(share_bar(x, y, value / whole if whole else 0.0, words) for x, value, whole, words in pairs)


def share_bar(x: float, y: float, share: float, words: str) -> str:
    """A bar of at most 100 pixels, with its number and its share above."""
    ground = f'<rect x="{x}" y="{y:.1f}" width="100" height="9" rx="4" fill="var(--line)"/>'
    filled = f'<rect x="{x}" y="{y:.1f}" width="{100 * share:.1f}" height="9" rx="4" fill="var(--accent)"/>'
    numbers = label(words, x, y - 7, size=12) + label(percent(share, 0), x + 100, y - 7, END, "soft", 12)
    return ground + filled + numbers


def link(spans: dict[str, tuple[float, float]], each: Link, place: int) -> str:
    """An arrow on the right, from what an earlier part returns to a later one."""
    start, end = spans[each.source][1] - 10, spans[each.target][0] + 14 + 5 * place
    out = PANEL + 18 + 13 * place
    colour = COLOURS["gate"][0]
    path = f"M{PANEL} {start:.1f} H{out - 6} Q{out} {start:.1f} {out} {start + 6:.1f} V{end - 6:.1f}"
    path += f" Q{out} {end:.1f} {out - 6} {end:.1f} H{PANEL + 3}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.8" marker-end="url(#arrow)"/>'


def legend(y: float) -> str:
    """What the colours say."""
    parts, x = [], 16.0
    for colour, words in COLOURS.values():
        square = f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="13" height="13" rx="3" fill="{colour}" fill-opacity=".2" '
        parts.append(f'{square}stroke="{colour}"/>' + label(words, x + 20, y, fill="soft", size=12))
        x += 20 + 6.4 * len(words) + 26
    return "".join(parts)


def standalone(svg: Html) -> str:
    """Return an `<svg>` element as a file of its own, in the colours of a page, light or dark."""
    light, dark = ("".join(f"--{name}:{pair[i]};" for name, pair in THEME.items()) for i in (0, 1))
    style = f"<style>svg{{{light}background:var(--paper)}}@media(prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    head, body = svg.split(">", 1)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head} xmlns="http://www.w3.org/2000/svg">{style}{body}\n'
