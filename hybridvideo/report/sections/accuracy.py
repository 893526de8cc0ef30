"""Results of an evaluation: accuracies, mistakes, classes, winning scores."""

from __future__ import annotations

from collections.abc import Sequence

from hybridvideo.report.markup import (
    Cell,
    Html,
    Markup,
    bar,
    box,
    card,
    cards,
    columns,
    figure,
    folded,
    stack,
    table,
)
from hybridvideo.report.numbers import interval, known, percent, readable
from hybridvideo.report.plots.bars import accuracy_bars, score_histogram
from hybridvideo.report.plots.confusion import CLASSES_WITH_NAMES, confused_pairs, confusion_matrix
from hybridvideo.report.results import ClassAccuracy, Results
from hybridvideo.text import duration

CLASSES_UNFOLDED = 20
"""With more classes, the table of classes is folded."""
CLASSES_BESIDE_TABLES = 12
"""With more classes, the confusion matrix takes the full width."""


def accuracy_blocks(results: Results) -> tuple[Html, ...]:
    """Show the accuracies as numbers, and as bars with their intervals and the chance level."""
    accuracies = results.accuracies
    numbers = [card(one.name, percent(one.value), interval(one.interval)) for one in accuracies]
    numbers.append(card("videos", readable(results.judged), f"{readable(results.num_failed)} more could not be read"))
    if results.seconds:
        rate = results.videos_per_second
        speed = f"{readable(float(rate))} videos per second" if rate else ""
        numbers.append(card("time", duration(results.seconds), speed))
    if not accuracies:
        return (cards(*numbers),)
    caption = "The whisker is the 95 % confidence interval; the dotted line is the top-1 of guessing."
    return cards(*numbers), figure(accuracy_bars(accuracies, chance=results.chance), caption)


def named_correctly(results: Results, what: str) -> str:
    """Say `97.5 % of 40 test videos named correctly (95 % interval 90.0 to 99.0 %)`, or that none could be read."""
    if not results.judged:
        return f"None of {results.num_videos} {what} could be read"
    share, bounds = (results.top1.value, results.top1.interval) if results.top1 else (None, None)
    return f"{percent(share)} of {results.judged} {what} named correctly (95 % interval {interval(bounds)})"


# ---- mistakes --------------------------------------------------------------------------------------------------------


def mistakes_blocks(results: Results) -> tuple[Html, ...]:
    """Show confusion matrix, frequent mistakes and classes, side by side if there are few classes."""
    if not results.judged:
        return ()
    tables = [block for block in (pairs_box(results), class_table(results)) if block]
    matrix = confusion_figure(results)
    if len(results.labels) <= CLASSES_BESIDE_TABLES:
        return (columns(matrix, stack(*tables)),)
    return (matrix, *tables)


def confusion_figure(results: Results, title: str | None = None) -> Html:
    """Draw the confusion matrix with how to read it."""
    caption = "Rows: what it is. Columns: what the model calls it. Blue: right, red: wrong; stronger: more of the row."
    if len(results.labels) > CLASSES_WITH_NAMES:
        caption += " Colour follows the square root of the share; the pairs are named in the table."
    return figure(confusion_matrix(results.confusion, results.labels), caption, title=title)


def pairs_box(results: Results) -> Html | None:
    """List the most frequent mistakes; None without a mistake."""
    pairs = confused_pairs(results.confusion, results.labels)
    if not pairs:
        return None
    rows = [(true, predicted, count, percent(share, 0)) for true, predicted, count, share in pairs]
    listed = table(("it is", "called", "videos", "of the class"), rows, numbers=(2, 3))
    return box(listed, title="Most frequent mistakes")


def class_table(results: Results) -> Html | None:
    """List the accuracy of each class, lowest first; None without a class that has videos."""
    rated = sorted((row for row in results.per_class if known(row.accuracy) and row.videos), key=accuracy_of)
    if not rated:
        return None
    rows: list[Sequence[Cell | Markup]] = [
        (row.label, row.videos, percent(row.accuracy, 0), bar(row.accuracy)) for row in rated
    ]
    listed = table(("class", "videos", "right", ""), rows, numbers=(1, 2))
    without = len(results.per_class) - len(rows)
    title = f"Classes, lowest accuracy first{f'; {readable(without)} without a video' if without else ''}"
    return folded(title, listed) if len(rows) > CLASSES_UNFOLDED else box(listed, title=title)


def accuracy_of(row: ClassAccuracy) -> float:
    """Return the accuracy of a class that has one."""
    assert row.accuracy is not None
    return row.accuracy


# ---- scores ----------------------------------------------------------------------------------------------------------


def score_blocks(scores: Sequence[float], correct: Sequence[bool] | None = None) -> tuple[Html, ...]:
    """Draw the winning scores, with right and wrong answers separately if `correct` is given."""
    if not len(scores):
        return ()
    caption = "How sure the model was of each video: the score of the label it chose, from 0 to 1."
    if correct is not None:
        caption += " A good model is confident when it is right."
    return (figure(score_histogram(scores, correct), caption, title="Scores"),)
