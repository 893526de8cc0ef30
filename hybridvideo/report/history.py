"""A training run's `metrics.jsonl`: its lines by kind, and curves over them.

A resumed run writes some steps again; the later line of a step counts. `seconds` (of training, without validation) and
`clips_seen` in an epoch's line are those of the complete run up to there; a figure that does not exist is null.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, TypeGuard

from hybridvideo.documents import read_json_lines
from hybridvideo.report.plots.curves import Line
from hybridvideo.report.plots.figure import ACCENT
from hybridvideo.report.results import Row, Rows

WITH_STEP = ("step", "epoch", "skipped")  # kinds of lines that belong to an optimizer step
TEXTS = ("kind", "time")  # values in a line that are not numbers
MOST_STEPS = 2**53  # beyond it a float is not exact
MOST = 1e100  # largest figure that is drawn


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, with their kind and their numbers; none if there is no file.

    What is not a line of a run is left out: a last line cut off by a crash, and what others wrote into the file.
    """
    if not Path(path).exists():
        return []
    rows = (row for _, row in read_json_lines(path, "remove it for a page without curves"))
    return [
        {key: value for key, value in row.items() if value is None or key in TEXTS or is_finite(value)}
        for row in rows
        if is_line(row)
    ]


def is_line(row: Row) -> bool:
    """Return whether a row states its kind, and the step and epoch that this kind has."""
    kind = row.get("kind")
    counts = (row.get("step") if kind in WITH_STEP else 0, row.get("epoch") if kind == "epoch" else 0)
    return isinstance(kind, str) and all(isinstance(n, int) and 0 <= n < MOST_STEPS for n in counts)


def of_kind(rows: Rows, kind: str) -> list[Row]:
    """Return the rows of one kind in order of their step; of a step written twice, the later one."""
    by_step = {int(row["step"]): row for row in rows if row.get("kind") == kind}
    return [by_step[step] for step in sorted(by_step)]


def line_of(
    rows: Rows, key: str, name: str, *, colour: str = ACCENT, faint: bool = False, dashed: bool = False
) -> Line | None:
    """Return `key` over steps; None if no row has it as a finite number."""
    points = [(row["step"], row[key]) for row in rows if is_finite(row.get(key))]
    if not points:
        return None
    return Line(name, [x for x, _ in points], [y for _, y in points], colour=colour, dashed=dashed, faint=faint)


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether a value is a number that can be drawn."""
    return isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < MOST


def epochs_done(epochs: Rows) -> int:
    """Return the epochs of the complete run, even if its first lines are gone."""
    return int(epochs[-1]["epoch"]) + 1 if epochs else 0


def speed_of_last(epochs: Rows) -> float | None:
    """Return clips per second in the last epoch alone; None if its share of the run is unknown."""
    start = {"epoch": -1, "clips_seen": 0, "seconds": 0}
    before, last = [start, *epochs][-2:]
    if int(last["epoch"]) != int(before["epoch"]) + 1:
        return None
    clips, seconds = (growth(before.get(key), last.get(key)) for key in ("clips_seen", "seconds"))
    return clips / seconds if clips is not None and seconds else None


def growth(before: object, after: object) -> float | None:
    """Return by how much a total has grown; None if one is not known."""
    return float(after) - float(before) if is_finite(before) and is_finite(after) else None
