"""The page of a classification job: labels, certainty, clips, files that could not be read, videos, settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.markup import Html, box, columns, facts, table
from hybridvideo.report.numbers import percent, readable
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.results import Failure, Rows
from hybridvideo.report.sections.accuracy import score_blocks
from hybridvideo.report.sections.settings import UNSTATED, MadeWith, setting_blocks
from hybridvideo.report.sections.videos import contact_blocks, prediction_table, unreadable_blocks

MOST_LABELS = 20
"""Most labels in the table of counts; the others are one line."""


def predictions_page(
    path: str | Path,
    rows: Rows,
    samples: Sequence[Sample] = (),
    summary: Mapping[str, object] | None = None,
    made_with: MadeWith = UNSTATED,
    *,
    title: str = "Predictions",
    mark: str = "",
) -> Path:
    """Write the page of a classification job.

    rows: `path`, `status`, `reason`, `label`, `score`, `topk_labels`, `topk_scores`; a row without a label was
    unreadable.
    """
    named = [row for row in rows if row.get("label") is not None]
    failures = [Failure.of(row) for row in rows if row.get("label") is None]
    at_a_glance = [*label_blocks(named), *score_blocks([float(row["score"]) for row in named])]
    sections = [
        Section("Summary", (*summary_blocks(summary), *([columns(*at_a_glance)] if at_a_glance else []))),
        Section("Clips", contact_blocks(samples, "of the videos")),
        Section("Unreadable files", unreadable_blocks(failures)),
        Section("Videos", (prediction_table(named),) if named else ()),
        Section("Settings", setting_blocks(made_with)),
    ]
    return write_page(path, page(title, job_lead("videos classified", named, failures), sections, mark=mark))


def label_blocks(named: Rows) -> tuple[Html, ...]:
    """Count the videos of the most frequent labels."""
    counted = Counter(str(row["label"]) for row in named)
    if not counted:
        return ()
    lines = [(label, count, percent(count / len(named), 0)) for label, count in counted.most_common(MOST_LABELS)]
    if rest := len(named) - sum(count for _, count, _ in lines):
        lines.append((f"{len(counted) - MOST_LABELS} other labels", rest, percent(rest / len(named), 0)))
    return (box(table(("label", "videos", "share"), lines, numbers=(1, 2)), title="Labels"),)


# ---- every bulk job --------------------------------------------------------------------------------------------------


def summary_blocks(summary: Mapping[str, object] | None) -> tuple[Html, ...]:
    """Show what a job did, as names and values."""
    return (box(facts(summary)),) if summary else ()


def job_lead(what: str, read: Rows, failures: Sequence[Failure]) -> str:
    """Describe what a bulk job did; a file that could not be read is one failure."""
    partial = len({str(row["path"]) for row in read if row["status"] == "partial"})
    faults = [(len(failures), "could not be read"), (partial, "only read in part")]
    counted = [f"{readable(count)} {'file' if count == 1 else 'files'} {fault}" for count, fault in faults if count]
    return f"{readable(len(read))} {what}; {', '.join(counted) or 'every file was read'}."
