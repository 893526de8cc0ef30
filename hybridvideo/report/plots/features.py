"""Features in the plane that shows most of them. N: clips, D: features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hybridvideo.report.markup import Html
from hybridvideo.report.plots.figure import GROUPS, WIDTH, new_figure, page_style, shortened, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

MARKERS = ("o", "^", "s", "D")
GROUPS_WITH_LEGEND = 24
POINTS = 2000
"""Most points in a scatter; of more, evenly spaced ones are drawn."""


def principal_plane(features_ND: npt.ArrayLike) -> tuple[npt.NDArray[np.float64], float]:
    """Project onto the two directions of largest variance: places (N, 2), and the share of the variance they explain.

    The largest weight of each direction is positive, so the same features always yield the same picture.
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
    """Draw each clip as a point in the principal plane of its features, coloured by group.

    Rows with a value that is not finite are left out; of more than 2000 rows, evenly spaced ones are drawn.
    """
    features = np.asarray(features_ND, dtype=np.float64)
    kept = np.flatnonzero(np.isfinite(features).all(axis=1))
    kept = kept[np.linspace(0, len(kept) - 1, POINTS).round().astype(int)] if len(kept) > POINTS else kept
    assert len(kept) >= 2, "a scatter needs two clips"
    names = np.asarray([groups[index] for index in kept.tolist()]) if groups is not None else np.full(len(kept), "")
    places, held = principal_plane(features[kept])
    with page_style():
        drawing, axes = new_figure(1.2 * WIDTH, 4)
        groups_shown = list(dict.fromkeys(names.tolist()))
        dots = [scatter_group(axes, places[names == name], number) for number, name in enumerate(groups_shown)]
        axes.set_xlabel(f"first principal direction (the two hold {100 * held:.0f} % of the variance)")
        axes.set_ylabel("second principal direction")
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        if 1 < len(groups_shown) <= GROUPS_WITH_LEGEND:
            labels = [shortened(str(name)) for name in groups_shown]
            drawing.legend(dots, labels, loc="outside right upper", fontsize=8, handletextpad=0.2)
        return to_svg(drawing, f"{len(kept)} clips in the principal plane of their features")


def scatter_group(axes: Axes, places: npt.NDArray[np.float64], number: int) -> PathCollection:
    """Draw the points (N, 2) of one group in its colour."""
    colour = GROUPS[number % len(GROUPS)]
    marker = MARKERS[number // len(GROUPS) % len(MARKERS)]
    x, y = places.T
    return axes.scatter(x, y, s=16, color=colour, marker=marker, alpha=0.75, linewidths=0)
