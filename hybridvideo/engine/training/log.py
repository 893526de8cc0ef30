"""What a run reports: metrics.jsonl, Accelerate's trackers, a line per epoch, the list of bad videos."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hybridvideo.documents import read_json_lines
from hybridvideo.engine.progress import Advance, progress
from hybridvideo.files import append_line, write_text
from hybridvideo.text import duration, encodable


class Log:
    """What `fit` reports to; this one ignores everything. A subclass overrides what it wants to see."""

    def begin(self, step: int, epochs: int) -> None:
        """Training begins, after `step` steps and `epochs` complete epochs."""

    def write(self, line: dict[str, Any]) -> None:
        """Take a line of figures: `kind` is start, resume, step, skipped, warning, epoch or end."""

    def say(self, text: str) -> None:
        """Take a line for the user."""

    def bad(self, videos: dict[str, list[str]]) -> Path | None:
        """Take the videos not read completely (path -> status and reason); return where they are listed."""
        return None

    def progress(self, total: int, done: int) -> AbstractContextManager[Advance]:
        """Return a context around the training that yields a function to call as batches are done."""
        return progress("training", total, visible=False)


class RunLog(Log):
    """Writes into a run folder and to standard error, from the first process only."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.path = folder / "metrics.jsonl"
        self.bad_path = folder / "bad_videos.jsonl"

    def begin(self, step: int, epochs: int) -> None:
        """Drop the lines of steps that will be run again."""
        if self.accelerator.is_main_process:
            keep_until(self.path, step, epochs)
            self.write({"kind": "resume" if step else "start", "step": step})

    def write(self, line: dict[str, Any]) -> None:
        """Write a line of metrics.jsonl, with the time; numbers also go to the trackers. Non-finite values are null."""
        if not self.accelerator.is_main_process:
            return
        line = {name: finite(value) for name, value in line.items()}
        stamped = line | {"time": datetime.now(UTC).isoformat(timespec="milliseconds")}
        append_line(self.path, json.dumps(stamped, allow_nan=False))
        numbers = {
            f"{line['kind']}/{name}": value
            for name, value in line.items()
            if isinstance(value, int | float) and name not in ("step", "kind")
        }
        if numbers:
            self.accelerator.log(numbers, step=line["step"])

    def say(self, text: str) -> None:
        """Print a line with the time, above the progress bar."""
        if self.accelerator.is_main_process:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def bad(self, videos: dict[str, list[str]]) -> Path:
        """Rewrite bad_videos.jsonl."""
        if self.accelerator.is_main_process and videos:
            rows = ((path, *what) for path, what in sorted(videos.items()))
            lines = (dict(zip(("path", "status", "reason"), map(encodable, row), strict=True)) for row in rows)
            write_text(self.bad_path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return self.bad_path

    def progress(self, total: int, done: int) -> AbstractContextManager[Advance]:
        """Show a bar on a terminal, or a line now and then."""
        return progress("training", total, self.accelerator.is_main_process, done)


def finite(value: Any) -> Any:
    """Return the value, or None for a number that JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_until(path: Path, step: int, epochs: int) -> None:
    """Drop the lines of a JSONL file after a step and a number of complete epochs, and a truncated last line.

    Step 0 drops all.
    """
    if not os.path.lexists(path):
        return
    rows = read_json_lines(path, "remove it to continue without the earlier figures") if step else ()
    write_text(path, "".join(f"{line}\n" for line, row in rows if is_final(row, step, epochs)))


def is_final(row: dict[str, Any], step: int, epochs: int) -> bool:
    """Return whether a line belongs to a step and an epoch that will not be run again."""
    kind, at = row.get("kind"), row.get("step")
    if not isinstance(kind, str) or not isinstance(at, int) or at > step or kind == "end":
        return False
    return kind != "epoch" or (isinstance(row.get("epoch"), int) and row["epoch"] < epochs)


# --- the line of an epoch ---------------------------------------------------------------------------------------------


def epoch_text(line: Mapping[str, Any], epochs: int, figures: list[str], lr: float, seconds_left: float) -> str:
    """Format an epoch's line of metrics.jsonl for the terminal. `figures`: of validation, as phrases."""
    parts = [f"train loss {number(line['train_loss'])}", *figures]
    parts += [f"lr {lr:.2e}", f"{line['clips_per_second']:.3g} clips/s"]
    parts += [f"{line[name]} {words[line[name] != 1]}" for name, words in NOTED.items() if line.get(name)]
    left = [f"{duration(seconds_left)} left"] if line["epoch"] + 1 < epochs else []
    return f"epoch {line['epoch'] + 1}/{epochs}: {', '.join(parts + left)}"


NOTED = {
    "skipped_steps": ("step skipped", "steps skipped"),
    "bad_clips": ("training video not read completely", "training videos not read completely"),
    "val_failed": ("validation video unreadable", "validation videos unreadable"),
}
"""What an epoch's line counts, for one and for several; nothing is written for none."""


def number(value: float | None) -> str:
    """Format a loss, or a dash for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(share: float | None) -> str:
    """Format a share as a percentage, or a dash for none."""
    return "-" if share is None else f"{100 * share:.1f} %"
