"""Confusion matrices, and the mistakes in them. K: classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hybridvideo.report.markup import Html
from hybridvideo.report.plots.figure import GROUPS, INK, new_figure, page_style, shortened, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELLS_WITH_TEXT = 20
CLASSES_WITH_NAMES = 40


def confusion_matrix(confusion: Sequence[Sequence[int]], labels: Sequence[str]) -> Html:
    """Draw a row per true class and a column per predicted one; colour is the share of the row, text the count.

    Up to 20 classes have counts in their cells, up to 40 have names. Beyond that the colour follows the square root of
    the share, so that single mistakes among hundreds of classes still show.
    """
    counts_KK = np.asarray(confusion, dtype=float)
    classes = len(labels)
    assert counts_KK.shape == (classes, classes), counts_KK.shape
    share_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    side = 2.1 + 0.34 * classes if classes <= CELLS_WITH_TEXT else 7.0
    with page_style():
        drawing, axes = new_figure(min(side, 8.0), min(side, 8.0) * 0.92)
        axes.imshow(tints(share_KK, classes > CLASSES_WITH_NAMES), interpolation="none", aspect="equal")
        if classes <= CELLS_WITH_TEXT:
            write_counts(axes, counts_KK, share_KK)
        if classes <= CLASSES_WITH_NAMES:
            names = [shortened(label) for label in labels]
            axes.set_xticks(range(classes), names, rotation=40, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(classes), names)
            axes.tick_params(length=0, labelcolor=INK, labelsize=9 if classes <= CELLS_WITH_TEXT else 6)
        axes.grid(visible=False)
        axes.spines[["top", "right"]].set_visible(True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        return to_svg(drawing, f"confusion matrix of {classes} classes")


def tints(share_KK: npt.NDArray[np.float64], root: bool) -> npt.NDArray[np.float64]:
    """Return RGBA (K, K, 4): blue on the diagonal, red off it, with the share as opacity, to suit any background."""
    from matplotlib.colors import to_rgb

    tint = np.empty((*share_KK.shape, 4))
    tint[..., :3] = to_rgb(GROUPS[3])
    tint[np.eye(len(share_KK), dtype=bool), :3] = to_rgb(GROUPS[0])
    tint[..., 3] = np.sqrt(share_KK) if root else share_KK
    return tint


def write_counts(axes: Axes, counts_KK: npt.NDArray[np.float64], share_KK: npt.NDArray[np.float64]) -> None:
    """Write each count that is not 0 into its cell."""
    for (row, column), count in np.ndenumerate(counts_KK):
        if count:
            colour = "#ffffff" if share_KK[row, column] > 0.6 else INK
            axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=colour, fontsize=8)


def confused_pairs(
    confusion: Sequence[Sequence[int]], labels: Sequence[str], most: int = 10
) -> list[tuple[str, str, int, float]]:
    """Return the most frequent mistakes first: (true, predicted, count, share of the true class)."""
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
