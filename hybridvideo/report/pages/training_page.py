"""The page of a training run: curves, speed, the evaluation if there is one, clips, settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hybridvideo.report.contact_sheet import Sample
from hybridvideo.report.history import epochs_done, is_finite, line_of, of_kind, speed_of_last
from hybridvideo.report.markup import Html, card, cards, columns, figure, paragraph
from hybridvideo.report.numbers import percent, readable
from hybridvideo.report.page import Section, page, write_page
from hybridvideo.report.plots.curves import curves
from hybridvideo.report.plots.figure import ACCENT, BAD, GOOD, SECOND, SOFT
from hybridvideo.report.results import Results, Rows
from hybridvideo.report.sections.accuracy import accuracy_blocks, mistakes_blocks, named_correctly
from hybridvideo.report.sections.settings import UNSTATED, MadeWith, setting_blocks
from hybridvideo.report.sections.videos import contact_blocks, unreadable_blocks
from hybridvideo.text import duration


@dataclass(frozen=True)
class StepChart:
    """A chart over the steps of a run."""

    key: str
    """In the lines of metrics.jsonl."""
    title: str
    axis: str
    caption: str
    colour: str


STEP_CHARTS = (
    StepChart("clips_per_second", "Throughput", "clips a second", "A dip is slow files or a busy machine.", ACCENT),
    StepChart(
        "wait_share", "Waiting for data", "share of the time", "Waiting for clips; over a third, add workers.", BAD
    ),
    StepChart("lr", "Learning rate", "learning rate", "Linear warm-up, then decay.", GOOD),
    StepChart(
        "grad_norm",
        "Gradient norm",
        "norm",
        "Before clipping; a steep rise is the first sign of divergence.",
        SECOND,
    ),
)


def training_page(
    path: str | Path,
    rows: Rows,
    results: Results | None = None,
    samples: Sequence[Sample] = (),
    made_with: MadeWith = UNSTATED,
    *,
    title: str = "Training",
) -> Path:
    """Write the page of a run from the rows of its metrics.jsonl and its evaluation."""
    sections = [
        Section("Summary", training_cards(rows)),
        Section("Curves", curve_blocks(rows, results)),
        Section("Accuracy", accuracy_blocks(results) if results else ()),
        Section("Mistakes", mistakes_blocks(results) if results else ()),
        Section("Clips", contact_blocks(samples, "validation clips, picked so that mistakes are seen")),
        Section("Unreadable files", unreadable_blocks(results.failures) if results else ()),
        Section("Speed and steps", step_blocks(rows)),
        Section("Settings", setting_blocks(made_with, results.protocol if results else None)),
    ]
    return write_page(path, page(title, training_lead(rows, results), sections))


def training_lead(rows: Rows, results: Results | None) -> str:
    """Say how long the run was, and how well the evaluation at its end went."""
    epochs = of_kind(rows, "epoch")
    count = epochs_done(epochs)
    took = (
        f" in {duration(epochs[-1]['seconds'])} of training" if epochs and is_finite(epochs[-1].get("seconds")) else ""
    )
    done = f"{count} {'epoch' if count == 1 else 'epochs'}{took}."
    return f"{done} {named_correctly(results, 'validation videos')}." if results else done


# ---- numbers ---------------------------------------------------------------------------------------------------------


def training_cards(rows: Rows) -> tuple[Html, ...]:
    """Show the run in a few numbers."""
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
            card("speed", readable(speed_of_last(epochs)), "clips per second of training, last epoch"),
            card("clips seen", readable(last.get("clips_seen")), f"{readable(bad)} videos were not read completely"),
        ),
    )


def validation_cards(epochs: Rows) -> list[Html]:
    """Show the accuracy after the last epoch and after the best; nothing for a run without validation."""
    measured = [row for row in epochs if is_finite(row.get("val_top1"))]
    if not measured:
        return []
    best = max(measured, key=lambda row: float(row["val_top1"]))
    return [
        card("validation top-1", percent(epochs[-1].get("val_top1")), "last epoch, one view"),
        card("best top-1", percent(best["val_top1"]), f"epoch {int(best['epoch']) + 1}, one view"),
    ]


# ---- curves ----------------------------------------------------------------------------------------------------------


def curve_blocks(rows: Rows, results: Results | None = None) -> tuple[Html, ...]:
    """Draw loss, and accuracy if it was measured, over optimizer steps."""
    blocks = [block for block in (loss_figure(rows), accuracy_figure(rows, results)) if block]
    return (columns(*blocks),) if blocks else ()


def loss_figure(rows: Rows) -> Html | None:
    """Draw training and validation loss; None if there is neither."""
    steps, epochs = of_kind(rows, "step"), of_kind(rows, "epoch")
    lines = (
        line_of(steps, "loss", "training, each step", faint=True),
        line_of(epochs, "train_loss", "training, mean of the epoch"),
        line_of(epochs, "val_loss", "validation", colour=SECOND),
    )
    if not (drawn := [line for line in lines if line]):
        return None
    caption = "Lower is better. Validation rising while training falls means that the model memorises."
    return figure(curves(drawn, x="optimizer step", y="loss"), caption, title="Loss")


def accuracy_figure(rows: Rows, results: Results | None) -> Html | None:
    """Draw the accuracies of the epochs; None for a run without validation."""
    epochs = of_kind(rows, "epoch")
    # Before the evaluation the classes are not known, but top-5 of five or fewer is always 1.
    shows_top5 = results.shows_top5 if results else any(row.get("val_top5") != 1 for row in epochs)
    lines = (
        line_of(epochs, "val_top1", "top-1"),
        line_of(epochs, "val_mean_class_accuracy", "mean class accuracy", colour=GOOD, dashed=True),
        line_of(epochs, "val_top5", "top-5", colour=SOFT) if shows_top5 else None,
    )
    if not (drawn := [line for line in lines if line]):
        return None
    caption = "Share of validation videos named correctly from one view, after each epoch."
    chance = results.chance if results else None
    chart = curves(drawn, x="optimizer step", y="accuracy", share=True, chance=chance)
    return figure(chart, caption, title="Validation accuracy")


def step_blocks(rows: Rows) -> tuple[Html, ...]:
    """Draw what is measured at each step: speed, waiting, learning rate, gradient."""
    steps = of_kind(rows, "step")
    drawn = []
    for chart in STEP_CHARTS:
        if line := line_of(steps, chart.key, chart.axis, colour=chart.colour):
            drawing = curves([line], x="optimizer step", y=chart.axis, share=chart.key == "wait_share")
            drawn.append(figure(drawing, chart.caption, title=chart.title))
    return (columns(*drawn),) if drawn else ()
