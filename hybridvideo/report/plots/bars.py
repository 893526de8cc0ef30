"""Bars: accuracies, winning scores, stages of a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hybridvideo.report.markup import Html
from hybridvideo.report.numbers import known
from hybridvideo.report.plots.figure import (
    ACCENT,
    BAD,
    GOOD,
    INK,
    SOFT,
    WIDTH,
    in_percent,
    new_figure,
    page_style,
    shortened,
    to_svg,
)
from hybridvideo.report.results import Accuracy
from hybridvideo.text import duration


def accuracy_bars(entries: Sequence[Accuracy], *, chance: float | None = None, colours: Sequence[str] = ()) -> Html:
    """Draw a bar per accuracy with its confidence interval as a whisker, and the chance level as a dotted line."""
    with page_style():
        drawing, axes = new_figure(WIDTH, 0.75 + 0.45 * len(entries))
        for place, entry in enumerate(entries):
            axes.barh(place, entry.value, height=0.5, color=colours[place] if colours else ACCENT)
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
        in_percent(axes.xaxis)
        if chance is not None:
            axes.axvline(chance, color=SOFT, linewidth=1.2, linestyle=":")
            axes.text(chance + 0.01, -0.62, f"chance {100 * chance:.3g} %", color=SOFT, fontsize=8, va="center")
        return to_svg(drawing, "; ".join(f"{entry.name} {100 * entry.value:.1f} %" for entry in entries))


def score_histogram(scores: Sequence[float], correct: Sequence[bool] | None = None) -> Html:
    """Count videos by winning score, from 0 to 1; with `correct`, right and wrong answers separately."""
    from matplotlib.ticker import MaxNLocator

    edges = np.linspace(0, 1, 21).tolist()
    values = np.clip(np.asarray(scores, dtype=float), 0, 1)
    with page_style():
        drawing, axes = new_figure(WIDTH, 3)
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
        return to_svg(drawing, f"histogram of {len(values)} scores")


def stage_bars(seconds: Mapping[str, float]) -> Html:
    """Draw how many seconds each stage of a job took, in the order given."""
    longest = max(seconds.values(), default=1.0) or 1.0
    with page_style():
        drawing, axes = new_figure(WIDTH, 0.5 + 0.32 * max(len(seconds), 1))
        for place, value in enumerate(seconds.values()):
            axes.barh(place, value, height=0.55, color=ACCENT)
            axes.text(value + 0.012 * longest, place, duration(value), va="center", fontsize=8)
        axes.set_yticks(range(len(seconds)), [shortened(name, 36) for name in seconds])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.set_xlim(0, 1.16 * longest)
        axes.set_ylim(len(seconds) - 0.5, -0.5)
        axes.set_xlabel("seconds")
        axes.grid(visible=False, axis="y")
        return to_svg(drawing, "; ".join(f"{name} {duration(value)}" for name, value in seconds.items()))
