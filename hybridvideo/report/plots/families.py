"""Many models in one picture: the drawing of each, small and without words, in columns."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace

from hybridvideo.report.markup import Html
from hybridvideo.report.plots.network import (
    ARROW,
    COLOURS,
    Box,
    Lanes,
    Network,
    Part,
    Repeat,
    Step,
    Tile,
    chain,
    label,
    legend,
    line,
)

COLUMNS, CARD, SPACE = 4, 262, 18  # cards in a row, width of one, space around it
SCALE = 0.58  # of the steps, against those in the drawing of one model
TOP, BETWEEN, BAR = 54, 8, 44  # height of a card's title, between its parts; width of the bars


def families_svg(networks: Sequence[Network]) -> Html:
    """Draw models as small multiples in an `<svg>` element, each in the column that ends highest."""
    parts, ends = [ARROW, legend(24)], [44.0] * COLUMNS
    for card in map(card_of, networks):
        column = ends.index(min(ends))
        parts.append(card.at(SPACE + column * (CARD + SPACE), ends[column]))
        ends[column] += card.height + SPACE
    width = SPACE + COLUMNS * (CARD + SPACE)
    words = html.escape(", ".join(network.name for network in networks), quote=True)
    opening = f'<svg viewBox="0 0 {width} {max(ends):.0f}" role="img" aria-label="{words}" font-family="sans-serif">'
    return Html(opening + "".join(parts) + "</svg>")


def card_of(network: Network) -> Box:
    """Name and cost of a model, and below them its parts."""
    parts, y, spans = [heading(network)], float(TOP), {}
    for part in network.parts:
        box = small(part)
        parts.append(row_of(part, box, network, y))
        spans[part.name] = y + box.height / 2
        y += box.height + BETWEEN
    parts += [arc(spans[each.source], spans[each.target], place) for place, each in enumerate(network.links)]
    frame = f'<rect width="{CARD}" height="{y + 6:.1f}" rx="10" fill="var(--card)" stroke="var(--line)"/>'
    return Box(CARD, y + 6, frame + "".join(parts))


def heading(network: Network) -> str:
    """Name, cost and size."""
    about = f"{network.gmacs:.3g} GMACs, {network.parameters / 1e6:.3g} M parameters"
    return label(network.name, 14, 23, 'font-weight="700"', size=14) + label(about, 14, 41, "", "soft", 11)


def small(part: Part) -> Box:
    """The steps of a part without words, small."""
    box = chain([wordless(step) for step in part.steps], (CARD - BAR - 44) / SCALE)
    return Box(box.width * SCALE, box.height * SCALE, f'<g transform="scale({SCALE})">{box.svg}</g>')


def wordless(step: Step) -> Step:
    """The same without labels on its tiles."""
    if isinstance(step, Tile):
        return replace(step, label="")
    if isinstance(step, Repeat):
        return replace(step, steps=tuple(map(wordless, step.steps)))
    return Lanes(tuple(tuple(map(wordless, lane)) for lane in step.lanes), step.joint, step.coupled)


def row_of(part: Part, box: Box, network: Network, y: float) -> str:
    """A part: a line from the one above, its steps, its share of the cost as a bar."""
    middle, share = y + box.height / 2, part.gmacs / max(network.gmacs, 1e-9)
    above = line((22, y - BETWEEN), (22, y)) if not part.begins and part is not network.parts[0] else ""
    bar = f'<rect x="{CARD - BAR - 12}" y="{middle - 3:.1f}" width="{BAR}" height="6" rx="3" fill="var(--line)"/>'
    filled = f'<rect x="{CARD - BAR - 12}" y="{middle - 3:.1f}" width="{BAR * share:.1f}" height="6" rx="3" '
    return above + box.at(14, y) + bar + filled + 'fill="var(--accent)"/>'


def arc(start: float, end: float, place: int) -> str:
    """From an earlier part to a later one, between the steps and the bars."""
    x, out = CARD - BAR - 32, CARD - BAR - 24 + 4 * place
    colour = COLOURS["gate"][0]
    path = f"M{x} {start:.1f} C{out + 8} {start:.1f} {out + 8} {end:.1f} {x + 2} {end:.1f}"
    return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4" marker-end="url(#arrow)"/>'
