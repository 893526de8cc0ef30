"""A training run's `metrics.jsonl` as curves and numbers.

A resumed run writes some steps again; the later line of a step counts. `seconds` (of training, without validation) and
`clips_seen` of an epoch's line are those of the whole run up to there; what does not exist is null.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

from hybridvideo.documents import read_json_lines
from hybridvideo.report.page import (
    Html,
    card,
    cards,
    columns,
    figure,
    paragraph,
    percent,
    readable,
)
from hybridvideo.report.plots import ACCENT, BAD, GOOD, SECOND, SOFT, Line, curves
from hybridvideo.report.sections import Results, Rows, named_correctly, telling_measures
from hybridvideo.text import duration

# of a step row: key, title, name of the axis, how to read it, colour
STEP_CHARTS = (
    ("clips_per_second", "Throughput", "clips a second", "A dip is slow files or a busy machine.", ACCENT),
    ("wait_share", "Waiting for data", "share of the time", "Waiting for clips; over a third, add workers.", BAD),
    ("lr", "Learning rate", "learning rate", "Linear warm-up, then decay.", GOOD),
    ("grad_norm", "Gradient norm", "norm", "Before clipping; a steep rise is the first sign of divergence.", SECOND),
)  # fmt: skip

OF_STEPS = ("step", "epoch", "skipped")  # kinds of lines
TEXTS = ("kind", "time")  # what is no number in a line
MOST_STEPS = 2**53  # beyond it no figure is exact
MOST = 1e100  # of a figure that is drawn


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, numbers and the line's kind; what is none of its lines is left out.

    That is a last line cut off by a crash, and what others wrote into the file. No file: no lines.
    """
    if not Path(path).exists():
        return []
    rows = (row for _, row in read_json_lines(path, "remove it for a page without curves"))
    return [
        {key: value for key, value in row.items() if value is None or key in TEXTS or _finite(value)}
        for row in rows
        if told(row)
    ]


def told(row: Mapping[str, Any]) -> bool:
    """Whether a line says what it is of."""
    counts = (
        row.get("step") if row.get("kind") in OF_STEPS else 0,
        row.get("epoch") if row.get("kind") == "epoch" else 0,
    )
    return isinstance(row.get("kind"), str) and all(isinstance(n, int) and 0 <= n < MOST_STEPS for n in counts)


def of_kind(rows: Rows, kind: str) -> list[Mapping[str, Any]]:
    """Rows of one kind in order of their step; where a resumed run wrote a step again, the later one."""
    by_step = {int(row["step"]): row for row in rows if row.get("kind") == kind}
    return [by_step[step] for step in sorted(by_step)]


def line_of(rows: Sequence[Mapping[str, Any]], key: str, name: str, **style: Any) -> Line | None:
    """`key` over steps; None where no row has it as a finite number."""
    points = [(row["step"], row[key]) for row in rows if _finite(row.get(key))]
    return Line(name, [x for x, _ in points], [y for _, y in points], **style) if points else None


def _finite(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < MOST


def training_lead(rows: Rows, results: Results | None) -> str:
    epochs = of_kind(rows, "epoch")
    count = epochs_done(epochs)
    took = f" in {duration(epochs[-1]['seconds'])} of training" if epochs and _finite(epochs[-1].get("seconds")) else ""
    done = f"{count} {'epoch' if count == 1 else 'epochs'}{took}."
    return f"{done} {named_correctly(results, 'validation videos')}." if results else done


def epochs_done(epochs: Rows) -> int:
    """Epochs of the whole run, also where its first lines are gone."""
    return int(epochs[-1]["epoch"]) + 1 if epochs else 0


def training_cards(rows: Rows) -> tuple[Html, ...]:
    epochs = of_kind(rows, "epoch")
    if not epochs:
        return (paragraph("No epoch has been completed yet."),)
    last = epochs[-1]
    bad = int(last.get("bad_clips") or 0)
    skipped = len(of_kind(rows, "skipped"))
    left_out = f", {readable(skipped)} left out" if skipped else ""
    return (
        cards(
            card("epochs", readable(epochs_done(epochs)), f"{readable(last['step'])} steps{left_out}"),
            card("training loss", readable(last.get("train_loss")), "last epoch"),
            *validation_cards(epochs),
            card("speed", readable(speed_of_last(epochs)), "clips a second of training, last epoch"),
            card("clips seen", readable(last.get("clips_seen")), f"{readable(bad)} videos were not read whole"),
        ),
    )


def validation_cards(epochs: Rows) -> list[Html]:
    """Accuracy after the last epoch and after the best; nothing of a run without validation."""
    measured = [row for row in epochs if _finite(row.get("val_top1"))]
    if not measured:
        return []
    best = max(measured, key=lambda row: float(row["val_top1"]))
    return [
        card("validation top-1", percent(epochs[-1].get("val_top1")), "last epoch, one view"),
        card("best top-1", percent(best["val_top1"]), f"epoch {int(best['epoch']) + 1}, one view"),
    ]


def speed_of_last(epochs: Rows) -> float | None:
    """Clips a second in the last epoch alone; None where its own share of the run cannot be told."""
    start = {"epoch": -1, "clips_seen": 0, "seconds": 0}
    before, last = [start, *epochs][-2:]
    if int(last["epoch"]) != int(before["epoch"]) + 1:
        return None
    clips, seconds = (grown(before.get(key), last.get(key)) for key in ("clips_seen", "seconds"))
    return clips / seconds if clips is not None and seconds else None


def grown(before: object, after: object) -> float | None:
    """By how much a total has grown; None where one is not known."""
    return float(after) - float(before) if _finite(before) and _finite(after) else None


def curve_blocks(rows: Rows, results: Results | None = None) -> tuple[Html, ...]:
    """Loss, and accuracy where it was measured, over optimizer steps."""
    steps, epochs = of_kind(rows, "step"), of_kind(rows, "epoch")
    losses = (
        line_of(steps, "loss", "training, each step", colour=ACCENT, faint=True),
        line_of(epochs, "train_loss", "training, mean of the epoch", colour=ACCENT),
        line_of(epochs, "val_loss", "validation", colour=SECOND),
    )
    # Of a run that is not yet evaluated the classes are not known, but top-5 of five or fewer is always 1.
    telling = "top5" in telling_measures(results) if results else any(row.get("val_top5") != 1 for row in epochs)
    accuracies = (
        line_of(epochs, "val_top1", "top-1", colour=ACCENT),
        line_of(epochs, "val_mean_class_accuracy", "mean of classes", colour=GOOD, dashed=True),
        line_of(epochs, "val_top5", "top-5", colour=SOFT) if telling else None,
    )
    chance = 1 / len(results["labels"]) if results else None
    blocks = []
    if drawn := [line for line in losses if line]:
        caption = "Lower is better. Validation rising while training falls means that the model memorises."
        blocks.append(figure(curves(drawn, x="optimizer step", y="loss"), caption, title="Loss"))
    if drawn := [line for line in accuracies if line]:
        caption = "Share of validation videos named correctly from one view, after each epoch."
        chart = curves(drawn, x="optimizer step", y="accuracy", share=True, chance=chance)
        blocks.append(figure(chart, caption, title="Validation accuracy"))
    return (columns(*blocks),) if blocks else ()


def step_blocks(rows: Rows) -> tuple[Html, ...]:
    steps = of_kind(rows, "step")
    drawn = []
    for key, title, name, caption, colour in STEP_CHARTS:
        if line := line_of(steps, key, name, colour=colour):
            chart = curves([line], x="optimizer step", y=name, share=key == "wait_share")
            drawn.append(figure(chart, caption, title=title))
    return (columns(*drawn),) if drawn else ()
