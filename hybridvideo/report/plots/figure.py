"""Figures as inline SVG that takes the colours of the page, so one drawing serves light and dark.

Text in a figure is text (`svg.fonttype: none`), never parsed as a formula. A figure is drawn with the light colours of
THEME; each is then replaced by its CSS variable.
"""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any, cast

from hybridvideo.report.markup import Html, text
from hybridvideo.report.style import THEME
from hybridvideo.text import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, LINE = (THEME[name][0] for name in ("ink", "soft", "line"))
ACCENT, SECOND, GOOD, BAD = (THEME[name][0] for name in ("accent", "second", "good", "bad"))
# Middle tones that differ on light and on dark; further groups repeat them with another marker.
GROUPS = ("#3f77cf", "#e0832b", "#37a05c", "#cf4d47", "#8f69c8", "#22a3ad", "#d268a6", "#96942b", "#8a6f5a", "#6f93b8")

PIXELS_PER_INCH = 95
"""Of a figure at its largest on the page, so that text has the same size in all of them."""
WIDTH = 4.8
"""Inches of most figures: half a page on a screen, and still readable on a phone, which shrinks them to its width."""

STYLE: dict[str, object] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of this size, in inches, with one pair of axes, without pyplot and its global state."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    return drawing, drawing.add_subplot()


def to_svg(drawing: Figure, description: str) -> Html:
    """Return the figure as an `<svg>` element; `description` is for those who cannot see it."""
    target = io.StringIO()
    # matplotlib's font only serves to estimate widths; the browser has the glyphs it lacks.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        drawing.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = target.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: for_page(tag[0]), body)
    widest = drawing.get_figwidth() * PIXELS_PER_INCH
    opening = f'<svg role="img" aria-label="{text(description)}" style="max-width:{widest:.0f}px"'
    return Html(body.replace("<svg", opening, 1).strip())


def for_page(tag: str) -> str:
    """Convert an SVG tag to HTML with the page's colours; text between tags is left alone."""
    tag = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", tag).replace("xlink:href", "href")
    for name, (light, _) in THEME.items():
        tag = tag.replace(light, f"var(--{name})")
    return tag


def page_style() -> Any:
    """Return a context in which matplotlib draws in the style of a page."""
    import matplotlib

    return matplotlib.rc_context(cast(Any, STYLE))


def shortened(label: str, length: int = 22) -> str:
    """Return a label that is safe to show, cut to at most `length` characters."""
    flat = shown(" ".join(label.split()))
    return flat if len(flat) <= length else flat[: length - 1] + "…"


def in_percent(axis: Any) -> None:
    """Label an axis of shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
