"""What a run tells: metrics.jsonl, Accelerate's trackers, a line per epoch, the list of bad videos."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hybridvideo.documents import read_json_lines
from hybridvideo.files import append_line, write_text
from hybridvideo.text import duration, encodable


class RunLog:
    """Writes from the first process only; on resuming, lines of steps that will be run again are dropped."""

    def __init__(self, folder: Path, accelerator: Accelerator, from_step: int, epochs: int = 0) -> None:
        self.accelerator = accelerator
        self.path = folder / "metrics.jsonl"
        self.bad_path = folder / "bad_videos.jsonl"
        if accelerator.is_main_process:
            keep_until(self.path, from_step, epochs)
            self.write({"kind": "resume" if from_step else "start", "step": from_step})

    def write(self, line: dict[str, Any]) -> None:
        """One line of metrics.jsonl, with the time; numbers go to the trackers too. What is not finite is null."""
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
        """A line for the person, with the time; a progress bar stays below it."""
        if self.accelerator.is_main_process:
            print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)

    def bad(self, videos: dict[str, list[str]]) -> None:
        """Rewrite the list of videos that were not read whole."""
        if self.accelerator.is_main_process and videos:
            rows = ((path, *what) for path, what in sorted(videos.items()))
            lines = (dict(zip(("path", "status", "reason"), map(encodable, row), strict=True)) for row in rows)
            write_text(self.bad_path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def finite(value: Any) -> Any:
    """The value, or None for a number that JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def keep_until(path: Path, step: int, epochs: int) -> None:
    """Drop the lines of a JSONL file beyond a step and beyond so many whole epochs; a torn last line goes too.

    Step 0 starts anew.
    """
    if not os.path.lexists(path):
        return
    rows = read_json_lines(path, "remove it to go on without the figures until here") if step else ()
    write_text(path, "".join(f"{line}\n" for line, row in rows if stands(row, step, epochs)))


def stands(row: dict[str, Any], step: int, epochs: int) -> bool:
    """Whether a line is of a step, and of an epoch, that will not be run again."""
    kind, at = row.get("kind"), row.get("step")
    if not isinstance(kind, str) or not isinstance(at, int) or at > step or kind == "end":
        return False
    return kind != "epoch" or (isinstance(row.get("epoch"), int) and row["epoch"] < epochs)


# --- the line of an epoch ---------------------------------------------------------------------------------------------


def epoch_text(line: dict[str, Any], epochs: int, best: float, lr: float, seconds_left: float) -> str:
    """An epoch's line of metrics.jsonl for a person. `best`: top-1, or below 0 for none."""
    parts = [f"train loss {number(line['train_loss'])}"]
    if "val_loss" in line:
        parts += [f"val loss {number(line['val_loss'])}", f"top-1 {percent(line['val_top1'])}",
                  f"best {percent(best if best >= 0 else None)}"]  # fmt: skip
    parts += [f"lr {lr:.2e}", f"{line['clips_per_second']:.3g} clips/s"]
    parts += [f"{line[name]} {words}" for name, words in NOTED.items() if line.get(name)]
    left = [f"{duration(seconds_left)} left"] if line["epoch"] + 1 < epochs else []
    return f"epoch {line['epoch'] + 1}/{epochs}: {', '.join(parts + left)}"


NOTED = {
    "skipped_steps": "steps left out",
    "bad_clips": "training videos not read whole",
    "val_failed": "validation videos unreadable",
    "val_not_finite": "validation videos without a finite score",
}


def number(value: float | None) -> str:
    """A loss; a dash for none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:.3f}"


def percent(share: float | None) -> str:
    """A share; a dash for none."""
    return "-" if share is None else f"{100 * share:.1f} %"
