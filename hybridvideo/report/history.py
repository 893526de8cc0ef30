"""A training run's `metrics.jsonl` as curves and numbers.

A resumed run writes some steps again; the later line of a step counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hybridvideo.report.page import (
    Html,
    card,
    cards,
    columns,
    duration,
    figure,
    interval,
    paragraph,
    percent,
    readable,
)
from hybridvideo.report.plots import ACCENT, BAD, GOOD, SECOND, SOFT, Line, curves
from hybridvideo.report.sections import Results, Rows, judged

# of a step row: key, title, name of the axis, how to read it, colour
STEP_CHARTS = (
    ("clips_per_second", "Throughput", "clips a second", "A dip is slow files or a busy machine.", ACCENT),
    ("wait_share", "Waiting for data", "share of the time", "Waiting for clips; over a third, add workers.", BAD),
    ("lr", "Learning rate", "learning rate", "Linear warm-up, then decay.", GOOD),
    ("grad_norm", "Gradient norm", "norm", "Before clipping; a steep rise is the first sign of divergence.", SECOND),
)  # fmt: skip


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a crash is left out. No file: no lines."""
    file = Path(path)
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def of_kind(rows: Rows, kind: str) -> list[Mapping[str, Any]]:
    """Rows of one kind in order of their step; where a resumed run wrote a step again, the later one."""
    by_step = {int(row["step"]): row for row in rows if row.get("kind") == kind}
    return [by_step[step] for step in sorted(by_step)]


def line_of(rows: Sequence[Mapping[str, Any]], key: str, name: str, **style: Any) -> Line | None:
    """`key` over steps; None where no row has it as a finite number."""
    points = [(row["step"], row[key]) for row in rows if _finite(row.get(key))]
    return Line(name, [x for x, _ in points], [y for _, y in points], **style) if points else None


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def training_lead(rows: Rows, results: Results | None) -> str:
    epochs = of_kind(rows, "epoch")
    took = f" in {duration(sum(float(row.get('seconds') or 0) for row in epochs))}" if epochs else ""
    done = f"{len(epochs)} {'epoch' if len(epochs) == 1 else 'epochs'}{took}."
    if results:
        bounds = interval(results.get("top1_interval"))
        done += f" On {judged(results)} validation videos it is right in {percent(results['top1'])} ({bounds})."
    return done


def training_cards(rows: Rows) -> tuple[Html, ...]:
    epochs = of_kind(rows, "epoch")
    if not epochs:
        return (paragraph("No epoch has been completed yet."),)
    last = epochs[-1]
    items = [card("epochs", str(len(epochs)), f"{readable(last['step'])} steps")]
    items.append(card("training loss", readable(last["train_loss"]), "last epoch"))
    measured = [row for row in epochs if _finite(row.get("val_top1"))]
    if measured:
        best = max(measured, key=lambda row: float(row["val_top1"]))
        items.append(card("validation top-1", percent(measured[-1]["val_top1"]), "last epoch, one view"))
        items.append(card("best top-1", percent(best["val_top1"]), f"epoch {int(best['epoch']) + 1}, one view"))
    items.append(card("speed", f"{float(last['clips_per_second']):.3g}", "clips a second, last epoch"))
    bad = int(last.get("bad_clips") or 0)
    items.append(card("clips seen", readable(last["clips_seen"]), f"{bad} could not be read in the last epoch"))
    return (cards(*items),)


def curve_blocks(rows: Rows, results: Results | None = None) -> tuple[Html, ...]:
    """Loss, and accuracy where it was measured, over optimizer steps."""
    steps, epochs = of_kind(rows, "step"), of_kind(rows, "epoch")
    losses = (
        line_of(steps, "loss", "training, each step", colour=ACCENT, faint=True),
        line_of(epochs, "train_loss", "training, mean of the epoch", colour=ACCENT),
        line_of(epochs, "val_loss", "validation", colour=SECOND),
    )
    few = results is not None and len(results["labels"]) <= 5
    accuracies = (
        line_of(epochs, "val_top1", "top-1", colour=ACCENT),
        line_of(epochs, "val_mean_class_accuracy", "mean of classes", colour=GOOD, dashed=True),
        None if few else line_of(epochs, "val_top5", "top-5", colour=SOFT),
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
