"""Whole trainings through the command line: the same twice, and the same when stopped and resumed.

Each run is `hybridvideo train` in a process of its own, with decoding workers, a moving average and mixed precision.
Three start together: two that are left alone and one that is stopped in the middle and then resumed. If their weights
differ, they are repeated with torch's deterministic algorithms, which is then what equality needs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gpu_proof.finding import Check, Context, Figures, Finding, judged
from gpu_proof.videos import motions

FIRST_STEPS = 3  # of a run before it is asked to stop
STOPPED = 75  # exit code of a run that was stopped and saved
NEEDS = ("av", "accelerate", "timm", "safetensors")
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "PROOF_DETERMINISTIC": "1"}


def checks() -> list[Check]:
    """One for each precision."""
    question = "a training of the demo with workers, EMA and {} is the same twice, and the same when resumed"
    return [
        Check(f"training/{precision}", question.format(precision), partial(repeated, precision), 100, NEEDS)
        for precision in ("fp32", "bf16", "fp16")
    ]


def repeated(precision: str, context: Context) -> Finding:
    """Run, repeat, stop and resume."""
    if precision == "fp16" and not context.cuda:
        return Finding("skipped", "fp16 trains on a GPU only")
    videos = motions(context)
    plain = trio(context, videos, precision, {})
    figures: Figures = {"plain": plain.figures(), "settings": " ".join(options(videos, precision, context))}
    if plain.equal:
        what = f"equal twice and when resumed at step {plain.stopped_at} of {plain.steps}, with no special settings"
        return judged(True, what, **figures)
    fixed = trio(context, videos, precision, DETERMINISTIC)
    figures["deterministic"] = fixed.figures()
    if not fixed.equal:
        return judged(False, f"not equal: {fixed.difference()}, even with deterministic algorithms", **figures)
    what = f"equal with torch's deterministic algorithms and CUBLAS_WORKSPACE_CONFIG; without: {plain.difference()}"
    return judged(True, what, **figures)


@dataclass(frozen=True)
class Trio:
    """What came of three runs: how far the weights of the second and of the resumed one are from the first's."""

    steps: int
    stopped_at: int
    seconds: float
    repeated: float
    resumed: float
    losses_equal: bool
    final_loss: float
    nondeterministic: list[str]
    """Operations that torch names as not deterministic."""

    @property
    def equal(self) -> bool:
        """Bit for bit."""
        return self.repeated == self.resumed == 0.0 and self.losses_equal

    def difference(self) -> str:
        """What is not equal."""
        losses = "" if self.losses_equal else ", logged losses differ"
        return f"largest difference of weights {self.repeated:.1e} repeated, {self.resumed:.1e} resumed{losses}"

    def figures(self) -> Figures:
        """As the JSON holds it."""
        return {**vars(self)}


def trio(context: Context, videos: Path, precision: str, environment: dict[str, str]) -> Trio:
    """Three runs side by side; the third is stopped after its first steps, and resumed."""
    folder = context.folder / f"runs-{precision}-{len(environment)}"
    runs = [folder / name for name in ("first", "second", "stopped")]
    start = time.monotonic()
    processes = [begin(run, ["--out", str(run), *options(videos, precision, context)], environment) for run in runs]
    stopped_at = stop(processes[2], runs[2])
    finish(processes[2], runs[2], STOPPED)
    finish(begin(runs[2], ["--resume", str(runs[2])], environment), runs[2], 0)
    for process, run in zip(processes[:2], runs[:2], strict=True):
        finish(process, run, 0)
    weights = [tensors_of(run / "checkpoints" / "last") for run in runs]
    losses = [losses_of(run) for run in runs]
    return Trio(
        steps=max(losses[0]),
        stopped_at=stopped_at,
        seconds=time.monotonic() - start,
        repeated=largest_difference(weights[0], weights[1]),
        resumed=largest_difference(weights[0], weights[2]),
        losses_equal=losses[0] == losses[1] == losses[2],
        final_loss=losses[0][max(losses[0])],
        nondeterministic=sorted({name for run in runs for name in named_operations(log_of(run))}),
    )


def options(
    videos: Path, precision: str, context: Context, changes: Mapping[str, object] = MappingProxyType({})
) -> list[str]:
    """Of the command, but for the run folder: the demo's training on fewer videos."""
    epochs, batch = (6, 4) if context.small else (20, 8)  # long enough to be stopped in the middle
    values: dict[str, Any] = {
        "data.train": videos / "train", "data.val": videos / "val", "data.workers": 2, "model.name": "hybrid_micro",
        "clip.frames": 8, "clip.interval": 0.1, "frame.height": 32, "frame.width": 32, "frame.scaling": "rgb",
        "augment.flip": 0.0, "augment.mixup": 0.2, "optim.lr": 4e-3, "optim.ema": 0.9, "train.epochs": epochs,
        "train.batch_size": batch, "train.accumulate": 2, "train.log_every": 1, "train.checkpoint_every": 5,
        "train.precision": precision, "train.trackers": "[]", "eval.clips": 1, "eval.crops": 1, "seed": 3,
        "device": context.device,
    }  # fmt: skip
    return [word for name, value in {**values, **changes}.items() for word in (f"--{name}", str(value))]


def begin(run: Path, words: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """`hybridvideo train`, its output kept next to the run's folder."""
    run.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "gpu_proof.command", "train", *words]
    with log_of(run).open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log)


def stop(process: subprocess.Popen[bytes], run: Path) -> int:
    """Ask it to stop once it has logged its first steps; how many it then had."""
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.01)
    while process.poll() is None and len(losses_of(run)) < FIRST_STEPS:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.wait()
    return max(losses_of(run), default=0)


def finish(process: subprocess.Popen[bytes], run: Path, code: int) -> None:
    """Wait for it. RuntimeError, with the end of its output, if it ends with another code."""
    if process.wait() != code:
        raise RuntimeError(
            f"training ended with code {process.returncode} in place of {code}: {log_of(run).read_text()[-2000:]}"
        )


def log_of(run: Path) -> Path:
    """The output of a run's commands."""
    return run.with_suffix(".log")


# --- what is compared -------------------------------------------------------------------------------------------------


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """All that a checkpoint holds: average, weights in training, and the optimizer's state."""
    from safetensors.torch import load_file

    found = {
        f"{path.name} {key}": value
        for path in checkpoint.glob("*.safetensors")
        for key, value in load_file(path).items()
    }
    optimizer = torch.load(checkpoint / "optimizer.pt", map_location="cpu", weights_only=True)
    return found | dict(leaves(optimizer, "optimizer"))


def leaves(value: Any, name: str) -> list[tuple[str, Tensor]]:
    """Tensors within nested dicts and lists, by the path to them."""
    if isinstance(value, Tensor):
        return [(name, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [leaf for key, item in items for leaf in leaves(item, f"{name} {key}")]


def largest_difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Of all numbers; infinite if not the same tensors are there."""
    if one.keys() != other.keys():
        return float("inf")
    return max((value.double() - other[name].double()).abs().max().item() for name, value in one.items())


def losses_of(run: Path) -> dict[int, float]:
    """Loss by step, of the lines that are complete."""
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return {row["step"]: row["loss"] for row in rows if row.get("kind") == "step"}


def named_operations(log: Path) -> list[str]:
    """What torch warned of: `NAME does not have a deterministic implementation`."""
    mark = " does not have a deterministic implementation"
    return [line.split(mark)[0].split()[-1] for line in log.read_text().splitlines() if mark in line]
