"""Curves over the steps of a training run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hybridvideo.report.markup import Html
from hybridvideo.report.plots.figure import ACCENT, SOFT, WIDTH, in_percent, new_figure, page_style, shortened, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Line:
    """One curve: `x` and `y` of the same length. `faint`: thin, for values that jump from step to step."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = ACCENT
    dashed: bool = False
    faint: bool = False


def curves(lines: Sequence[Line], *, x: str, y: str, share: bool = False, chance: float | None = None) -> Html:
    """Draw curves over steps, without points that are not finite. share: y is a share, shown in percent."""
    from matplotlib.ticker import MaxNLocator

    with page_style():
        drawing, axes = new_figure(WIDTH, 3)
        for line in lines:
            draw_line(axes, line)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if chance is not None:
            axes.axhline(chance, color=SOFT, linewidth=1, linestyle=":", label="chance")
        if share:
            in_percent(axes.yaxis)
            axes.set_ylim(0, 1.02)
        if len(lines) > 1 or chance is not None:
            axes.legend(loc="best", fontsize=8)
        return to_svg(drawing, f"{y} over {x}")


def draw_line(axes: Axes, line: Line) -> None:
    points = np.asarray([line.x, line.y], dtype=float)
    x, y = points[:, np.isfinite(points).all(axis=0)]
    few = len(x) <= 30 and not line.faint
    axes.plot(
        x,
        y,
        label=shortened(line.name, 40),
        color=line.colour,
        linestyle="--" if line.dashed else "-",
        linewidth=0.8 if line.faint else 1.6,
        alpha=0.55 if line.faint else 1.0,
        marker="o" if few else None,
        markersize=3.2,
    )
