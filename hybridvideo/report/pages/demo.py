"""The demo's story: a hybrid that sees motion, beside the same network with every path between frames removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hybridvideo.report.history import line_of, of_kind
from hybridvideo.report.page import Html, box, card, columns, facts, figure, interval, paragraph, percent
from hybridvideo.report.plots import ACCENT, SECOND, Accuracy, accuracy_bars, curves, stage_bars
from hybridvideo.report.sections import Results, Rows, confusion_figure, judged, prediction_table, unreadable_blocks
from hybridvideo.text import duration

REVERSES = {
    "left": "right",
    "up": "down",
    "clockwise": "anticlockwise",
    "approach": "recede",
}
"""The demo's motions in pairs; each shows the same frames as its partner, in the opposite order."""
# of an epoch row: key, title, name of the axis, whether it is a share, how to read it
EPOCH_CHARTS = (
    ("train_loss", "Training loss", "loss", False, "Mean of each epoch; lower is better."),
    ("val_top1", "Accuracy", "accuracy", True, "Held-out videos named correctly from one view, after each epoch."),
)


@dataclass(frozen=True)
class Arm:
    """One of the demo's two trainings. `results`: as in results.json; `metrics`: rows of metrics.jsonl."""

    name: str
    results: Results
    metrics: Rows


def demo_lead(hybrid: Arm, control: Arm) -> str:
    labels = hybrid.results["labels"]
    return (
        f"{len(labels)} motions, each beside its reverse. {hybrid.name} names {percent(hybrid.results['top1'])} of "
        f"{judged(hybrid.results)} held-out videos correctly. {control.name} is the same network with every path "
        f"between frames removed: {percent(control.results['top1'])}. Guessing: {percent(1 / len(labels))}."
    )


def demo_result(hybrid: Arm, control: Arm) -> tuple[Html, ...]:
    bars, big = [], []
    for arm, tone, colour in ((hybrid, "accent", ACCENT), (control, "second", SECOND)):
        results = arm.results
        note = f"95 % interval {interval(results.get('top1_interval'))}, {judged(results)} videos"
        big.append(card(arm.name, percent(results["top1"]), note, tone=tone))
        bars.append(Accuracy(arm.name, results["top1"], results.get("top1_interval"), colour))
    chance = 1 / len(hybrid.results["labels"])
    caption = "Videos never seen in training. Whisker: 95 % confidence interval; dotted line: guessing."
    return columns(*big), figure(accuracy_bars(bars, chance=chance), caption)


def in_pairs(results: Results) -> Results:
    """The results with each motion beside its reverse; others keep their order at the end."""
    labels = list(results["labels"])
    paired = [label for pair in REVERSES.items() for label in pair if label in labels]
    order = [labels.index(label) for label in dict.fromkeys(paired + labels)]
    confusion = np.asarray(results["confusion"])[np.ix_(order, order)]
    return {**results, "labels": [labels[place] for place in order], "confusion": confusion.tolist()}


def reverse_share(results: Results) -> float | None:
    """The share of mistakes that name the reverse of the motion; None without a mistake."""
    labels = list(results["labels"])
    confusion = np.asarray(results["confusion"])
    pairs = [(labels.index(a), labels.index(b)) for a, b in REVERSES.items() if a in labels and b in labels]
    mistakes = int(confusion.sum() - np.trace(confusion))
    reversed_ = sum(int(confusion[a, b] + confusion[b, a]) for a, b in pairs)
    return reversed_ / mistakes if mistakes else None


def demo_confusion(hybrid: Arm, control: Arm) -> tuple[Html, ...]:
    share = reverse_share(control.results)
    said = "Each motion and its reverse show the same frames in the opposite order. "
    if share is not None:
        said += (
            f"{percent(share, 0)} of the control's mistakes name the reverse: without a path between frames it can "
            "tell the pair, but not which of the two."
        )
    figures = [confusion_figure(in_pairs(arm.results), arm.name) for arm in (hybrid, control)]
    return paragraph(said), columns(*figures)


def demo_curves(hybrid: Arm, control: Arm) -> tuple[Html, ...]:
    arms = ((hybrid, ACCENT), (control, SECOND))
    drawn = []
    for key, title, name, share, caption in EPOCH_CHARTS:
        found = [line_of(of_kind(arm.metrics, "epoch"), key, arm.name, colour=colour) for arm, colour in arms]
        if lines := [line for line in found if line]:
            chance = 1 / len(hybrid.results["labels"]) if share else None
            chart = curves(lines, x="optimizer step", y=name, share=share, chance=chance)
            drawn.append(figure(chart, caption, title=title))
    return (columns(*drawn),) if drawn else ()


def demo_predictions(rows: Rows, most: int = 12) -> tuple[Html, ...]:
    named = [row for row in rows if row.get("label") is not None]
    failed = [row for row in rows if row.get("label") is None]
    if not rows:
        return ()
    few = f"; the first {most} are listed" if len(named) > most else ""
    said = paragraph(f"{len(named)} held-out files, classified by the hybrid{few}.")
    return (said, *([prediction_table(named[:most])] if named else []), *unreadable_blocks(failed))


def demo_time(summary: Mapping[str, object], timings: Mapping[str, float]) -> tuple[Html, ...]:
    blocks = []
    if timings:
        caption = f"Wall-clock time of each stage; together {duration(sum(timings.values()))}."
        blocks.append(figure(stage_bars(timings), caption, title="Time"))
    if summary:
        blocks.append(box(facts(summary), title="Data and models"))
    return (columns(*blocks),) if blocks else ()
