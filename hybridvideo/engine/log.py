"""What a run tells: metrics.jsonl, Accelerate's trackers, and the list of videos that could not be read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from hybridvideo.files import write_text, writing


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
        """One line of metrics.jsonl; numbers go to the trackers too."""
        if not self.accelerator.is_main_process:
            return
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        numbers = {
            f"{line['kind']}/{name}": value
            for name, value in line.items()
            if isinstance(value, int | float) and name not in ("step", "kind")
        }
        if numbers:
            self.accelerator.log(numbers, step=line["step"])

    def bad(self, videos: dict[str, list[str]]) -> None:
        """Rewrite the list of videos that were not read whole."""
        if self.accelerator.is_main_process and videos:
            rows = [{"path": path, "status": what[0], "reason": what[1]} for path, what in sorted(videos.items())]
            self.bad_path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def keep_until(path: Path, step: int, epochs: int) -> None:
    """Drop the lines of a JSONL file beyond a step and beyond so many whole epochs; a torn last line goes too.

    Step 0 starts anew.
    """
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines() if step else []:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        again = row["kind"] == "end" or (row["kind"] == "epoch" and row["epoch"] >= epochs)
        if row["step"] <= step and not again:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
