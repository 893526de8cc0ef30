"""What a run says on the way: lines that are JSON, a line per epoch, a word on clips longer than their videos."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import Accelerator

from hybridvideo.config.data import Normalisation
from hybridvideo.engine.progress import progress
from hybridvideo.engine.training.classification import Classification, Row
from hybridvideo.engine.training.log import RunLog, epoch_text, keep_until
from hybridvideo.engine.training.objective import Figures
from hybridvideo.errors import UserError
from tests.engine.training.runs import lines, run, settings

LINE = {
    "kind": "epoch", "epoch": 2, "step": 9, "train_loss": 1.23456, "seconds": 4.0, "clips_seen": 72,
    "clips_per_second": 123.4, "skipped_steps": 0, "bad_clips": 0,
}  # fmt: skip


def test_every_line_is_json_with_its_time(tmp_path: Path) -> None:
    log = RunLog(tmp_path, Accelerator(cpu=True))
    log.write({"kind": "step", "step": 1, "loss": math.nan, "grad_norm": math.inf, "lr": -math.inf, "rate": 0.5})
    (row,) = lines(tmp_path, "step")
    assert [row[name] for name in ("loss", "grad_norm", "lr", "rate")] == [None, None, None, 0.5]
    written = datetime.fromisoformat(row["time"])
    assert written.tzinfo is not None and abs((datetime.now(UTC) - written).total_seconds()) < 60


def test_lines_that_a_crash_has_damaged_are_dropped_on_resuming(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = [b'{"kind": "start", "step": 0}', b'{"kind": "epoch", "epoch": 0, "step": 2}']
    bad = [
        b"\xff\xfe\x00",
        b"[1]",
        b'{"kind": "step"}',
        b'{"kind": "epoch", "step": 1}',
        b'{"kind": 1, "step": 1}',
        b"{",
    ]
    path.write_bytes(b"\n".join([*bad, *good, *bad]))
    keep_until(path, 2, 1)
    assert path.read_bytes().splitlines() == good


def test_an_epoch_is_a_line_for_a_person() -> None:
    assert epoch_text(LINE, 5, [], 2e-4, 3725) == (
        "epoch 3/5: train loss 1.235, lr 2.00e-04, 123 clips/s, 1 h 2 min left"
    )
    figures: Figures = {"val_loss": 0.5, "val_top1": 0.25}
    counts = {"skipped_steps": 2, "bad_clips": 1, "val_failed": 3}
    phrases = Classification(("a", "b"), Normalisation()).summary(figures, 0.5)
    assert epoch_text(LINE | figures | counts, 3, phrases, 2e-4, 0) == (
        "epoch 3/3: train loss 1.235, val loss 0.500, top-1 25.0 %, best 50.0 %, lr 2.00e-04, 123 clips/s, "
        "2 steps skipped, 1 training video not read completely, 3 validation videos unreadable"
    )
    phrases = Classification(("a", "b"), Normalisation()).summary({"val_loss": None, "val_top1": None}, None)
    assert "train loss -, val loss -, top-1 -, best -," in epoch_text(LINE | {"train_loss": None}, 3, phrases, 2e-4, 0)


def test_a_run_says_each_epoch_as_it_ends(motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path / "run", settings(motion))
    said = [line for line in capsys.readouterr().err.splitlines() if re.search(r":\d\d epoch ", line)]  # no progress
    rows = lines(folder, "epoch")
    assert len(said) == 2
    for line, row in zip(said, rows, strict=True):
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d epoch [12]/2: ", line)
        assert f"train loss {row['train_loss']:.3f}, val loss {row['val_loss']:.3f}" in line
        assert f"best {100 * max(row['val_top1'] for row in rows[: rows.index(row) + 1]):.1f} %" in line
        assert f"{row['clips_per_second']:.3g} clips/s" in line
    assert said[0].endswith(" left") and not said[1].endswith(" left")


def test_a_bar_on_a_terminal_does_not_swallow_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "200")
        with progress("training", 3) as advance:
            for number in range(3):
                advance(1, "loss 1.000")
                RunLog.say(RunLog(tmp_path, Accelerator(cpu=True)), f"epoch {number} of the lines that stay")
        terminal.flush()
        shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert all(f"epoch {number} of the lines that stay\r\n" in shown for number in range(3))


@pytest.mark.parametrize(("frames", "interval", "said"), [(64, 0.1, True), (4, 0.1, False), (4, 1.0, True)])
def test_clips_longer_than_their_videos_are_reported_once(
    motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], frames: int, interval: float, said: bool
) -> None:
    plan = settings(motion, clip={"frames": frames, "interval": interval}, data={"val": ""})
    folder = run(tmp_path / "run", plan)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(warnings) == len(lines(folder, "warning")) == said
    if said:
        assert "24 of 24 clips are longer than their videos" in warnings[0] and "clip.stride" in warnings[0]
        padding = np.mean([1 - math.ceil(seconds / interval - 1e-6) / frames for seconds in durations(motion)])
        assert f"{padding:.0%} of such a clip" in warnings[0]


def durations(motion: Path) -> list[float]:
    from hybridvideo.data.decode import VideoReader
    from hybridvideo.data.sampling import video_duration

    found = []
    for file in sorted((motion / "train").rglob("*.*")):
        with VideoReader(file) as reader:
            found.append(video_duration(frame_times=reader.times, fps=reader.fps))
    return found


@pytest.mark.parametrize("broken", [3, 8])
def test_validation_counts_a_video_with_nan_logits_as_wrong(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    real = Classification.scored

    def scored(*arguments: Any) -> list[Row]:
        right = [(i, label, [float(k == label) for k in range(8)]) for i, label, _ in real(*arguments)]
        return [(i, label, [math.nan] * 8 if i < broken else logits) for i, label, logits in right]

    monkeypatch.setattr(Classification, "scored", scored)
    folder = run(tmp_path / "run", settings(motion, train={"epochs": 1}))
    (row,) = lines(folder, "epoch")
    assert row["val_top1"] == row["val_mean_class_accuracy"] == 1 - broken / 8 and row["val_loss"] is None
    assert row["val_videos"] == 8 and row["val_not_finite"] == broken
    assert json.loads((folder / "checkpoints" / "last" / "state.json").read_text())["best"] == 1 - broken / 8


def test_lines_that_no_run_wrote_are_dropped_and_end_no_run(tmp_path: Path) -> None:
    good = {"kind": "step", "step": 1, "loss": 0.5}
    bad = [b"null", b"3", b"{}", b'{"kind": "epoch", "step": 1, "epoch": "x"}', b"[" * 100_000, b"\xff", b'{"a": NaN}']
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([*bad, json.dumps(good).encode(), b'{"kind"']))
    RunLog(tmp_path, Accelerator(cpu=True)).begin(1, 1)
    assert lines(tmp_path, "step")[0]["loss"] == 0.5
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (tmp_path / "metrics.jsonl").unlink()
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match="not a regular file"):
        RunLog(tmp_path, Accelerator(cpu=True)).begin(1, 1)
