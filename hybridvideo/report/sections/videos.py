"""Videos and clips: a contact sheet, files that could not be read, predictions, features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hybridvideo.report.contact_sheet import CLIPS, Sample, contact_sheet
from hybridvideo.report.markup import Cell, Html, Markup, bar, box, figure, paragraph, table
from hybridvideo.report.numbers import percent
from hybridvideo.report.plots.features import feature_scatter
from hybridvideo.report.results import Failure, Row, Rows

MOST_ROWS = 300
"""Most rows of a table on a page; the table file has them all."""


def contact_blocks(samples: Sequence[Sample], what: str = "clips") -> tuple[Html, ...]:
    """Show a contact sheet and how to read it."""
    if not samples:
        return ()
    some = f"{CLIPS} of {len(samples)}" if len(samples) > CLIPS else f"{len(samples)}"
    judged = any(sample.truth is not None for sample in samples)
    colours = " Green border: right, red: wrong." if judged else ""
    return paragraph(f"{some} {what}; time runs from left to right, then down.{colours}"), contact_sheet(samples)


def unreadable_blocks(failures: Sequence[Failure]) -> tuple[Html, ...]:
    """List files without a result: how many of each kind, then each with its reason."""
    if not failures:
        return ()
    kinds = Counter(failure.status for failure in failures)
    counted = ", ".join(f"{count} {status.replace('_', ' ')}" for status, count in kinds.most_common())
    listed = table(
        ("file", "status", "reason"),
        [(failure.path, failure.status, failure.reason) for failure in failures[:MOST_ROWS]],
    )
    return (box(paragraph(f"{counted}.{first_of(len(failures))}"), listed, kind="notice"),)


def first_of(count: int) -> str:
    """Say that only the first rows are listed, if there are more."""
    return f" The first {MOST_ROWS} of {count} are listed." if count > MOST_ROWS else ""


def prediction_table(rows: Rows) -> Html:
    """List the first 300 videos with their label, score and runners-up."""
    lines: list[Sequence[Cell | Markup]] = [
        (str(row["path"]), str(row["label"]), bar(row["score"]), percent(row["score"]), runners_up(row))
        for row in rows[:MOST_ROWS]
    ]
    listed = table(("file", "label", "", "score", "next"), lines, numbers=(3,))
    more = first_of(len(rows))
    return box(*([paragraph(more.strip())] if more else []), listed)


def runners_up(row: Row) -> str:
    """Name the second and third label with their scores; "" if the table has none."""
    labels, scores = row.get("topk_labels"), row.get("topk_scores")
    if labels is None or scores is None:
        return ""
    return ", ".join(f"{label} {percent(score, 0)}" for label, score in list(zip(labels, scores, strict=True))[1:3])


def feature_blocks(features_ND: npt.ArrayLike, groups: Sequence[str] | None, coloured_by: str) -> tuple[Html, ...]:
    """Draw features in the plane; nothing for fewer than two clips with finite features."""
    features = np.asarray(features_ND)
    if features.ndim != 2 or np.isfinite(features).all(axis=1).sum() < 2:
        return ()
    colour = f", coloured by {coloured_by}" if groups is not None else ""
    caption = f"Each point is a clip{colour}. Points close together are clips that the model sees as alike."
    title = "Features, seen from the side that shows most"
    return (figure(feature_scatter(features, groups), caption, title=title),)
