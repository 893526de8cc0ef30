"""The demo's page: a hybrid that sees motion next to the same network with every path between frames removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.history import line_of, of_kind
from hybridvideo.report.markup import Html, box, card, columns, facts, figure, paragraph
from hybridvideo.report.numbers import interval, percent
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.plots.bars import accuracy_bars, stage_bars
from hybridvideo.report.plots.curves import Line, curves
from hybridvideo.report.plots.figure import ACCENT, SECOND
from hybridvideo.report.results import Accuracy, Failure, Results, Rows
from hybridvideo.report.sections.accuracy import confusion_figure
from hybridvideo.report.sections.settings import UNSTATED, MadeWith, setting_blocks
from hybridvideo.report.sections.videos import contact_blocks, feature_blocks, prediction_table, unreadable_blocks
from hybridvideo.text import duration

REVERSES = {
    "left": "right",
    "up": "down",
    "clockwise": "anticlockwise",
    "approach": "recede",
}
"""The demo's motions in pairs; each shows the same frames as its partner, in the opposite order."""
MOST_PREDICTIONS = 12
"""Most classified files that are listed."""


@dataclass(frozen=True)
class Arm:
    """One of the demo's two trainings. metrics: rows of metrics.jsonl."""

    name: str
    results: Results
    metrics: Rows

    @property
    def top1(self) -> Accuracy:
        """Accuracy on the held-out videos, under the arm's name."""
        assert self.results.top1 is not None, "the demo's videos can be read"
        return replace(self.results.top1, name=self.name)


@dataclass(frozen=True)
class Findings:
    """What the demo shows besides its two arms.

    timings: seconds per stage, in order. features_ND: one row per clip, with its class in `feature_labels`.
    """

    timings: Mapping[str, float]
    samples: Sequence[Sample] = ()
    predictions: Rows = ()
    features_ND: npt.ArrayLike | None = None
    feature_labels: Sequence[str] | None = None


def demo_page(
    path: str | Path,
    summary: Mapping[str, object],
    hybrid: Arm,
    control: Arm,
    findings: Findings,
    made_with: MadeWith = UNSTATED,
    *,
    title: str = "Demo: motion that no single frame shows",
) -> Path:
    """Write the page of the demo: the complete path on generated videos."""
    features = findings.features_ND
    scatter = feature_blocks(features, findings.feature_labels, "true motion") if features is not None else ()
    sections = [
        Section("Result", result_blocks(hybrid, control)),
        Section("What each confuses", confusion_blocks(hybrid, control)),
        Section("Training", curve_blocks(hybrid, control)),
        Section("Clips", contact_blocks(findings.samples, "held-out clips with the hybrid's answer")),
        Section("Features", scatter),
        Section("Classified files", prediction_blocks(findings.predictions)),
        Section("Time and data", time_blocks(summary, findings.timings)),
        Section("Settings", setting_blocks(made_with, hybrid.results.protocol)),
    ]
    return write_page(path, page(title, demo_lead(hybrid, control), sections))


def demo_lead(hybrid: Arm, control: Arm) -> str:
    """Tell the demo's story in four sentences."""
    results = hybrid.results
    return (
        f"{len(results.labels)} motions, each paired with its reverse. {hybrid.name} names "
        f"{percent(hybrid.top1.value)} of {results.judged} held-out videos correctly. {control.name} is the same "
        f"network with every path between frames removed: {percent(control.top1.value)}. "
        f"Guessing: {percent(results.chance)}."
    )


def result_blocks(hybrid: Arm, control: Arm) -> tuple[Html, ...]:
    """Show both accuracies, large and as bars."""
    arms = ((hybrid, "accent"), (control, "second"))
    big = [card(arm.name, percent(arm.top1.value), note_of(arm), tone=tone) for arm, tone in arms]
    caption = "Videos never seen in training. Whisker: 95 % confidence interval; dotted line: guessing."
    bars = accuracy_bars([hybrid.top1, control.top1], chance=hybrid.results.chance, colours=(ACCENT, SECOND))
    return columns(*big), figure(bars, caption)


def note_of(arm: Arm) -> str:
    """Describe how certain an accuracy is."""
    return f"95 % interval {interval(arm.top1.interval)}, {arm.results.judged} videos"


# ---- mistakes --------------------------------------------------------------------------------------------------------


def confusion_blocks(hybrid: Arm, control: Arm) -> tuple[Html, ...]:
    """Show both confusion matrices, and the share of the control's mistakes that name the reverse."""
    share = reverse_share(control.results)
    story = "Each motion and its reverse show the same frames in the opposite order. "
    if share is not None:
        story += (
            f"{percent(share, 0)} of the control's mistakes name the reverse: without a path between frames it can "
            "tell the pair, but not which of the two."
        )
    figures = [confusion_figure(in_pairs(arm.results), arm.name) for arm in (hybrid, control)]
    return paragraph(story), columns(*figures)


def in_pairs(results: Results) -> Results:
    """Put each motion next to its reverse; other labels keep their order at the end."""
    labels = list(results.labels)
    paired = [label for pair in REVERSES.items() for label in pair if label in labels]
    order = [labels.index(label) for label in dict.fromkeys(paired + labels)]
    confusion = np.asarray(results.confusion)[np.ix_(order, order)]
    return replace(results, labels=tuple(labels[index] for index in order), confusion=confusion.tolist())


def reverse_share(results: Results) -> float | None:
    """Return the share of mistakes that name the reverse of the motion; None without a mistake."""
    labels = list(results.labels)
    confusion = np.asarray(results.confusion)
    pairs = [(labels.index(a), labels.index(b)) for a, b in REVERSES.items() if a in labels and b in labels]
    mistakes = int(confusion.sum() - np.trace(confusion))
    reversed_ = sum(int(confusion[a, b] + confusion[b, a]) for a, b in pairs)
    return reversed_ / mistakes if mistakes else None


# ---- training, files, time -------------------------------------------------------------------------------------------


def curve_blocks(hybrid: Arm, control: Arm) -> tuple[Html, ...]:
    """Draw training loss and accuracy of both arms."""
    charts = []
    if lines := lines_of(hybrid, control, "train_loss"):
        caption = "Mean of each epoch; lower is better."
        charts.append(figure(curves(lines, x="optimizer step", y="loss"), caption, title="Training loss"))
    if lines := lines_of(hybrid, control, "val_top1"):
        chart = curves(lines, x="optimizer step", y="accuracy", share=True, chance=hybrid.results.chance)
        caption = "Held-out videos named correctly from one view, after each epoch."
        charts.append(figure(chart, caption, title="Accuracy"))
    return (columns(*charts),) if charts else ()


def lines_of(hybrid: Arm, control: Arm, key: str) -> list[Line]:
    """Return a figure of each epoch as a curve per arm that has it."""
    arms = ((hybrid, ACCENT), (control, SECOND))
    found = [line_of(of_kind(arm.metrics, "epoch"), key, arm.name, colour=colour) for arm, colour in arms]
    return [line for line in found if line]


def prediction_blocks(rows: Rows) -> tuple[Html, ...]:
    """List the first classified files, and those that could not be read."""
    if not rows:
        return ()
    named = [row for row in rows if row.get("label") is not None]
    failures = [Failure.of(row) for row in rows if row.get("label") is None]
    few = f"; the first {MOST_PREDICTIONS} are listed" if len(named) > MOST_PREDICTIONS else ""
    count = paragraph(f"{len(named)} held-out files, classified by the hybrid{few}.")
    listed = [prediction_table(named[:MOST_PREDICTIONS])] if named else []
    return (count, *listed, *unreadable_blocks(failures))


def time_blocks(summary: Mapping[str, object], timings: Mapping[str, float]) -> tuple[Html, ...]:
    """Show how long each stage took, and the data and models."""
    blocks = []
    if timings:
        caption = f"Wall-clock time of each stage; together {duration(sum(timings.values()))}."
        blocks.append(figure(stage_bars(timings), caption, title="Time"))
    if summary:
        blocks.append(box(facts(summary), title="Data and models"))
    return (columns(*blocks),) if blocks else ()
