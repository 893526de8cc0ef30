"""The parts that several pages share: accuracy, confusion, classes, unreadable files, clips, settings.

Each takes a part of a result as it stands in `results.json` or in a table, and gives blocks, or none where it is empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hybridvideo.report.contact_sheet import CLIPS, Sample, contact_sheet
from hybridvideo.report.page import (
    Cell,
    Html,
    Markup,
    bar,
    box,
    card,
    cards,
    columns,
    facts,
    figure,
    folded,
    interval,
    known,
    paragraph,
    percent,
    preformatted,
    readable,
    table,
)
from hybridvideo.report.plots import (
    CLASSES_WITH_NAMES,
    Accuracy,
    accuracy_bars,
    confused_pairs,
    confusion_matrix,
    feature_scatter,
    score_histogram,
)
from hybridvideo.text import duration

Results = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
MOST_ROWS = 300
"""Most rows of a table on a page; the files beside it have them all."""
CLASSES_SHOWN = 20
"""With more classes, the table of classes is folded."""
MEASURES = {"top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean of classes"}


# ---- one evaluation --------------------------------------------------------------------------------------------------


def telling_measures(results: Results) -> list[str]:
    """The measures worth showing: top-5 is always 1 of five classes or fewer."""
    return [name for name in MEASURES if name != "top5" or len(results["labels"]) > 5]


def judged(results: Results) -> int:
    """Videos that the accuracies are over: those that could be read."""
    return int(results["num_videos"]) - int(results["num_failed"])


def accuracy_blocks(results: Results) -> tuple[Html, ...]:
    """The accuracies as numbers, and as bars with their intervals and the chance level; none without a video."""
    told = [name for name in telling_measures(results) if judged(results) and known(results[name])]
    numbers = [card(MEASURES[name], percent(results[name]), interval(results.get(f"{name}_interval"))) for name in told]
    numbers += [
        card("videos", readable(judged(results)), f"{readable(results['num_failed'])} more could not be read"),
        *([card("time", duration(results["seconds"]), _speed(results))] if results.get("seconds") else []),
    ]
    bars = [Accuracy(MEASURES[name], results[name], results.get(f"{name}_interval")) for name in told]
    if not bars:
        return (cards(*numbers),)
    drawing = accuracy_bars(bars, chance=1 / len(results["labels"]))
    caption = "The whisker is the 95 % confidence interval; the dotted line is the top-1 of guessing."
    return cards(*numbers), figure(drawing, caption)


def named_correctly(results: Results, what: str) -> str:
    """`97.5 % of 40 test videos named correctly (95 % interval 90.0 to 99.0 %)`, or that there was none to name."""
    if not judged(results):
        return f"None of {results['num_videos']} {what} could be read"
    bounds = interval(results.get("top1_interval"))
    return f"{percent(results['top1'])} of {judged(results)} {what} named correctly (95 % interval {bounds})"


def _speed(results: Results) -> str:
    rate = results.get("videos_per_second")
    return f"{readable(float(rate))} videos a second" if rate else ""


def confusion_figure(results: Results, title: str | None = None) -> Html:
    """The confusion matrix with how to read it."""
    classes = len(results["labels"])
    caption = "Rows: what it is. Columns: what the model calls it. Blue: right, red: wrong; stronger: more of the row."
    if classes > CLASSES_WITH_NAMES:
        caption += " Colour follows the square root of the share; the pairs are named in the table."
    return figure(confusion_matrix(results["confusion"], results["labels"]), caption, title=title)


def pairs_box(results: Results) -> Html | None:
    """The most frequent mistakes as a table."""
    pairs = confused_pairs(results["confusion"], results["labels"])
    if not pairs:
        return None
    rows = [(true, predicted, count, percent(share, 0)) for true, predicted, count, share in pairs]
    listed = table(("it is", "called", "videos", "of the class"), rows, numbers=(2, 3))
    return box(listed, title="Most frequent mistakes")


def class_table(results: Results) -> Html | None:
    """Accuracy of each class, lowest first."""
    rated = [row for row in results["per_class"] if known(row["accuracy"]) and row["videos"]]
    if not rated:
        return None
    rows: list[Sequence[Cell | Markup]] = [
        (row["label"], row["videos"], percent(row["accuracy"], 0), bar(row["accuracy"]))
        for row in sorted(rated, key=lambda row: float(row["accuracy"]))
    ]
    listed = table(("class", "videos", "right", ""), rows, numbers=(1, 2))
    without = len(results["per_class"]) - len(rows)
    title = f"Classes, lowest accuracy first{f'; {readable(without)} without a video' if without else ''}"
    if len(rows) > CLASSES_SHOWN:
        return folded(title, listed)
    return box(listed, title=title)


def mistakes_blocks(results: Results) -> tuple[Html, ...]:
    """Confusion matrix, frequent mistakes and classes, beside each other where there are few classes."""
    if not judged(results):
        return ()
    beside = [block for block in (pairs_box(results), class_table(results)) if block]
    matrix = confusion_figure(results)
    if len(results["labels"]) <= 12:
        return (columns(matrix, Html("\n".join(["<div class=stack>", *beside, "</div>"]))),)
    return (matrix, *beside)


def histogram_block(scores: Sequence[float], correct: Sequence[bool] | None = None) -> Html | None:
    """Winning scores; None where there are none."""
    if not len(scores):
        return None
    caption = "How sure the model was of each video: the score of the label it chose, from 0 to 1."
    if correct is not None:
        caption += " A good model is sure where it is right."
    return figure(score_histogram(scores, correct), caption, title="Scores")


# ---- videos ----------------------------------------------------------------------------------------------------------


def contact_blocks(samples: Sequence[Sample], what: str = "clips") -> tuple[Html, ...]:
    """A contact sheet and how to read it; nothing without samples."""
    if not samples:
        return ()
    some = f"{CLIPS} of {len(samples)}" if len(samples) > CLIPS else f"{len(samples)}"
    known = any(sample.truth is not None for sample in samples)
    colours = " Green border: right, red: wrong." if known else ""
    return paragraph(f"{some} {what}; time runs from left to right, then down.{colours}"), contact_sheet(samples)


def unreadable_blocks(rows: Iterable[Mapping[str, Any]]) -> tuple[Html, ...]:
    """Files that gave no result: how many of each kind, then each with its reason."""
    failed = list(rows)
    if not failed:
        return ()
    kinds = Counter(str(row["status"]) for row in failed)
    counted = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in kinds.most_common())
    listed = table(
        ("file", "status", "reason"),
        [(str(row["path"]), str(row["status"]), str(row.get("reason") or "")) for row in failed[:MOST_ROWS]],
    )
    return (box(paragraph(f"{counted}.{_of_many(len(failed))}"), listed, kind="notice"),)


def _of_many(count: int) -> str:
    return f" The first {MOST_ROWS} of {count} are listed." if count > MOST_ROWS else ""


def prediction_table(rows: Rows) -> Html:
    """Videos with their label, score and runners-up; the first 300."""
    lines: list[Sequence[Cell | Markup]] = [
        (str(row["path"]), str(row["label"]), bar(row["score"]), percent(row["score"]), _runners_up(row))
        for row in rows[:MOST_ROWS]
    ]
    listed = table(("file", "label", "", "score", "then"), lines, numbers=(3,))
    more = _of_many(len(rows))
    return box(*([paragraph(more.strip())] if more else []), listed)


def _runners_up(row: Mapping[str, Any]) -> str:
    labels, scores = row.get("topk_labels"), row.get("topk_scores")
    if labels is None or scores is None:
        return ""
    return ", ".join(f"{label} {percent(score, 0)}" for label, score in list(zip(labels, scores, strict=True))[1:3])


def feature_block(features_ND: npt.ArrayLike, groups: Sequence[str] | None, coloured_by: str) -> Html | None:
    """Features in the plane; None for fewer than two clips with finite features."""
    features = np.asarray(features_ND)
    if features.ndim != 2 or np.isfinite(features).all(axis=1).sum() < 2:
        return None
    colour = f", coloured by {coloured_by}" if groups is not None else ""
    caption = f"Each point is a clip{colour}. Points close together are clips that the model sees as alike."
    return figure(feature_scatter(features, groups), caption, title="Features, seen from the side that shows most")


# ---- how it was made -------------------------------------------------------------------------------------------------


def setting_blocks(
    environment: Mapping[str, str] | None, config: str | None, protocol: Mapping[str, Any] | None = None
) -> tuple[Html, ...]:
    """How the result was measured, what it ran on, and the resolved config (folded)."""
    beside = [
        box(facts(pairs), title=title)
        for title, pairs in (("Protocol", protocol), ("Environment", environment))
        if pairs
    ]
    blocks = [columns(*beside) if len(beside) > 1 else beside[0]] if beside else []
    return (*blocks, *([folded("Resolved config", preformatted(config))] if config else []))
