"""Figures as inline SVG that takes the colours of the page, so one drawing serves light and dark.

Shape legend: K classes, N clips, D features. Text in a figure is text (`svg.fonttype: none`), never parsed as formulae.
A figure is drawn with the light colours of THEME; each is then replaced by its CSS variable.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from hybridvideo.report.page import THEME, Html, known, text
from hybridvideo.text import duration, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure

INK, SOFT, LINE = (THEME[name][0] for name in ("ink", "soft", "line"))
ACCENT, SECOND, GOOD, BAD = (THEME[name][0] for name in ("accent", "second", "good", "bad"))
# Middle tones, told apart on light and on dark; more groups repeat them with another marker.
GROUPS = ("#3f77cf", "#e0832b", "#37a05c", "#cf4d47", "#8f69c8", "#22a3ad", "#d268a6", "#96942b", "#8a6f5a", "#6f93b8")
MARKERS = ("o", "^", "s", "D")

PIXELS_PER_INCH = 95
"""Of a figure at its largest on the page, so that text has one size in all of them."""
WIDTH = 4.8
"""Inches of most figures: half a page on a screen, and on a phone, where they shrink to its width, still to be read."""
CELLS_WITH_TEXT = 20
CLASSES_WITH_NAMES = 40
GROUPS_WITH_LEGEND = 24
POINTS = 2000
"""Most points in a scatter; of more, evenly spaced ones are drawn."""

STYLE: dict[str, Any] = {
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


@dataclass(frozen=True)
class Line:
    """One curve: `x` and `y` of the same length. `faint`: thin, for values that jump from step to step."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str = ACCENT
    dashed: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Accuracy:
    """A named accuracy with its confidence interval; fractions."""

    name: str
    value: float
    interval: Sequence[float] | None = None
    colour: str = ACCENT


# ---- drawing and turning into SVG ------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """One pair of axes; inches. pyplot and its global state stay out of it."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(width, height), layout="constrained")
    return drawing, drawing.add_subplot()


def _svg(drawing: Figure, says: str) -> Html:
    """The figure as an `<svg>` element; `says` is its text for those who cannot see it."""
    target = io.StringIO()
    # Only widths are guessed from matplotlib's own font; the browser has the glyphs it lacks.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        drawing.savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    body = target.getvalue()
    body = re.sub(r"<metadata>.*?</metadata>", "", body[body.index("<svg") :], flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _for_a_page(tag[0]), body)
    widest = drawing.get_figwidth() * PIXELS_PER_INCH
    opening = f'<svg role="img" aria-label="{text(says)}" style="max-width:{widest:.0f}px"'
    return Html(body.replace("<svg", opening, 1).strip())


def _for_a_page(tag: str) -> str:
    """An SVG tag as HTML has it, with the page's colours; what stands between tags is text and stays."""
    tag = re.sub(r'\sxmlns(:xlink)?="[^"]*"', "", tag).replace("xlink:href", "href")
    for name, (light, _) in THEME.items():
        tag = tag.replace(light, f"var(--{name})")
    return tag


def _styled() -> Any:
    import matplotlib

    return matplotlib.rc_context(cast(Any, STYLE))


def shortened(label: str, length: int = 22) -> str:
    """A label as it may be shown, no longer than `length`, its end cut."""
    flat = shown(" ".join(label.split()))
    return flat if len(flat) <= length else flat[: length - 1] + "…"


# ---- curves ----------------------------------------------------------------------------------------------------------


def curves(lines: Sequence[Line], *, x: str, y: str, share: bool = False, chance: float | None = None) -> Html:
    """Curves over steps; points that are not finite are left out. `share`: y is a share, shown in percent."""
    from matplotlib.ticker import MaxNLocator

    with _styled():
        drawing, axes = _figure(WIDTH, 3)
        for line in lines:
            _draw(axes, line)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.margins(x=0.02)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if chance is not None:
            axes.axhline(chance, color=SOFT, linewidth=1, linestyle=":", label="chance")
        if share:
            _percent(axes.yaxis)
            axes.set_ylim(0, 1.02)
        if len(lines) > 1 or chance is not None:
            axes.legend(loc="best", fontsize=8)
        return _svg(drawing, f"{y} over {x}")


def _draw(axes: Axes, line: Line) -> None:
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


def _percent(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))


# ---- accuracy --------------------------------------------------------------------------------------------------------


def accuracy_bars(entries: Sequence[Accuracy], *, chance: float | None = None) -> Html:
    """A bar for each accuracy with its confidence interval as a whisker, and the chance level as a dotted line."""
    with _styled():
        drawing, axes = _figure(WIDTH, 0.75 + 0.45 * len(entries))
        for place, entry in enumerate(entries):
            axes.barh(place, entry.value, height=0.5, color=entry.colour)
            end = entry.value
            if entry.interval is not None and all(known(bound) for bound in entry.interval):
                low, end = entry.interval
                axes.plot([low, end], [place, place], color=INK, linewidth=1.4, marker="|", markersize=8)
            axes.text(max(end, entry.value) + 0.015, place, f"{100 * entry.value:.1f} %", va="center", weight="bold")
        axes.set_yticks(range(len(entries)), [shortened(entry.name, 30) for entry in entries])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_xlim(0, 1.13)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        axes.set_ylim(len(entries) - 0.45, -0.85 if chance is not None else -0.55)
        axes.grid(visible=False, axis="y")
        _percent(axes.xaxis)
        if chance is not None:
            axes.axvline(chance, color=SOFT, linewidth=1.2, linestyle=":")
            axes.text(chance + 0.01, -0.62, f"chance {100 * chance:.3g} %", color=SOFT, fontsize=8, va="center")
        said = "; ".join(f"{entry.name} {100 * entry.value:.1f} %" for entry in entries)
        return _svg(drawing, said)


def score_histogram(scores: Sequence[float], correct: Sequence[bool] | None = None) -> Html:
    """How many videos have which winning score, from 0 to 1; with `correct`, right and wrong answers apart."""
    from matplotlib.ticker import MaxNLocator

    edges = np.linspace(0, 1, 21).tolist()
    values = np.clip(np.asarray(scores, dtype=float), 0, 1)
    with _styled():
        drawing, axes = _figure(WIDTH, 3)
        if correct is None:
            axes.hist(values, edges, color=ACCENT, rwidth=0.9)
        else:
            right = np.asarray(correct, dtype=bool)
            parts, names = [values[right], values[~right]], ["right", "wrong"]
            axes.hist(parts, edges, color=[GOOD, BAD], label=names, stacked=True, rwidth=0.9)
            axes.legend(loc="upper left", fontsize=8)
        axes.set_xlim(0, 1)
        axes.set_xlabel("score of the predicted label")
        axes.set_ylabel("videos")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        return _svg(drawing, f"histogram of {len(values)} scores")


def stage_bars(seconds: Mapping[str, float]) -> Html:
    """How long each stage of a job took, in the order given."""
    longest = max(seconds.values(), default=1.0) or 1.0
    with _styled():
        drawing, axes = _figure(WIDTH, 0.5 + 0.32 * max(len(seconds), 1))
        for place, value in enumerate(seconds.values()):
            axes.barh(place, value, height=0.55, color=ACCENT)
            axes.text(value + 0.012 * longest, place, duration(value), va="center", fontsize=8)
        axes.set_yticks(range(len(seconds)), [shortened(name, 36) for name in seconds])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_xlim(0, 1.16 * longest)
        axes.set_ylim(len(seconds) - 0.5, -0.5)
        axes.set_xlabel("seconds")
        axes.grid(visible=False, axis="y")
        return _svg(drawing, "; ".join(f"{name} {duration(value)}" for name, value in seconds.items()))


# ---- confusion -------------------------------------------------------------------------------------------------------


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Html:
    """Rows are the true class, columns the predicted one; colour is the share of the row, the text its count.

    Up to 20 classes have counts in their cells, up to 40 their names; beyond, the colour follows the square root of the
    share, so that single mistakes among hundreds of classes still show.
    """
    counts_KK = np.asarray(confusion, dtype=float)
    classes = len(labels)
    assert counts_KK.shape == (classes, classes), counts_KK.shape
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    side = 2.1 + 0.34 * classes if classes <= CELLS_WITH_TEXT else 7.0
    with _styled():
        drawing, axes = _figure(min(side, 8.0), min(side, 8.0) * 0.92)
        axes.imshow(_tinted(share_KK, classes > CLASSES_WITH_NAMES), interpolation="none", aspect="equal")
        if classes <= CELLS_WITH_TEXT:
            _write_counts(axes, counts_KK, share_KK)
        if classes <= CLASSES_WITH_NAMES:
            names = [shortened(label) for label in labels]
            axes.set_xticks(range(classes), names, rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(classes), names)
            axes.tick_params(length=0, labelcolor=INK, labelsize=9 if classes <= CELLS_WITH_TEXT else 6)
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return _svg(drawing, f"confusion matrix of {classes} classes")


def _tinted(share_KK: npt.NDArray[np.float64], root: bool) -> npt.NDArray[np.float64]:
    """RGBA (K, K, 4): blue on the diagonal, red off it, as opaque as the share is large; readable on any ground."""
    from matplotlib.colors import to_rgb

    tint = np.empty((*share_KK.shape, 4))
    tint[..., :3] = to_rgb(GROUPS[3])
    tint[np.eye(len(share_KK), dtype=bool), :3] = to_rgb(GROUPS[0])
    tint[..., 3] = np.sqrt(share_KK) if root else share_KK
    return tint


def _write_counts(axes: Axes, counts_KK: npt.NDArray[np.float64], share_KK: npt.NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts_KK):
        if count:
            colour = "#ffffff" if share_KK[row, column] > 0.6 else INK
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)


def confused_pairs(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], most: int = 10
) -> list[tuple[str, str, int, float]]:
    """The most frequent mistakes: (true, predicted, count, share of the true class), most frequent first."""
    counts_KK = np.asarray(confusion, dtype=int)
    rows_K = np.maximum(counts_KK.sum(axis=1), 1)
    wrong_KK = counts_KK * ~np.eye(len(labels), dtype=bool)
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), len(labels)) for place in order]
    return [
        (labels[row], labels[column], int(wrong_KK[row, column]), float(wrong_KK[row, column] / rows_K[row]))
        for row, column in pairs
        if wrong_KK[row, column]
    ]


# ---- features --------------------------------------------------------------------------------------------------------


def principal_plane(features_ND: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], float]:
    """The two directions of largest variance: places (N, 2), and the share of the variance they hold.

    Each direction points so that its largest weight is positive: the same features always give the same picture.
    """
    centred = np.asarray(features_ND, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    plane_2D = np.zeros((2, centred.shape[1]))
    plane_2D[: min(2, len(directions))] = directions[:2]
    largest = np.abs(plane_2D).argmax(axis=1)
    plane_2D *= np.where(plane_2D[[0, 1], largest] < 0, -1, 1)[:, None]
    total = float((spread**2).sum())
    return centred @ plane_2D.T, float((spread[:2] ** 2).sum()) / total if total else 0.0


def feature_scatter(features_ND: npt.ArrayLike, groups: Sequence[str] | None = None) -> Html:
    """Each clip as a point in the principal plane of its features, coloured by group. Rows with a value that is not
    finite are left out; of more than 2000 rows, evenly spaced ones are drawn."""
    features = np.asarray(features_ND, dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(features).all(axis=1))
    kept = kept[np.linspace(0, len(kept) - 1, POINTS).round().astype(int)] if len(kept) > POINTS else kept
    assert len(kept) >= 2, "a scatter needs two clips"
    names = np.asarray([groups[index] for index in kept.tolist()]) if groups is not None else np.full(len(kept), "")
    places, held = principal_plane(features[kept])
    with _styled():
        drawing, axes = _figure(1.2 * WIDTH, 4)
        groups_shown = list(dict.fromkeys(names.tolist()))
        dots = [_scatter(axes, places[names == name], number) for number, name in enumerate(groups_shown)]
        axes.set_xlabel(f"first principal direction (the two hold {100 * held:.0f} % of the variance)")
        axes.set_ylabel("second principal direction")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        if 1 < len(groups_shown) <= GROUPS_WITH_LEGEND:
            labels = [shortened(str(name)) for name in groups_shown]
            drawing.legend(dots, labels, loc="outside right upper", fontsize=8, handletextpad=0.2)
        return _svg(drawing, f"{len(kept)} clips in the principal plane of their features")


def _scatter(axes: Axes, places: npt.NDArray[np.float64], number: int) -> PathCollection:
    colour = GROUPS[number % len(GROUPS)]
    marker = MARKERS[number // len(GROUPS) % len(MARKERS)]
    x, y = places.T
    return axes.scatter(x, y, s=16, color=colour, marker=marker, alpha=0.75, linewidths=0)
