"""The state of a training run on disk: the checkpoint folder of `weights`, and beside it what resuming needs."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hybridvideo.documents import read_json
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.folders import filling, put_in_place, replacing_folder, settle
from hybridvideo.models.card import WEIGHTS, ModelCard, write_checkpoint, write_tensors
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import parsed
from hybridvideo.text import one_line

LAST, BEST = "last", "best"
UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError)
STATE, OPTIMIZER, RAW_WEIGHTS = "state.json", "optimizer.pt", "training.safetensors"
LARGEST_STATE = 2**28  # bytes: the reasons of a million bad videos


@dataclass
class LoopState:
    """Where a run stands; all that the loop remembers from one step to the next."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    step: int = 0
    """Optimizer steps that are done."""
    clips_seen: int = 0
    skipped: int = 0
    """Steps that were left out."""
    skipped_in_a_row: int = 0
    loss_sum: float = 0.0
    """Of this epoch, over `weight_sum` clips."""
    weight_sum: float = 0.0
    seconds: float = 0.0
    """Of training, without validation."""
    epoch_seconds: float = 0.0
    epoch_skipped: int = 0
    best: float = -1.0
    """Best top-1 on the validation list."""
    best_step: int = -1
    """Steps that were done when it was reached."""
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Training video -> status and reason, of those that could not be read whole."""


@dataclass(frozen=True)
class Saved:
    """What a checkpoint is made of."""

    evaluated: VideoModel
    """The weights to evaluate, which are the moving average where there is one."""
    card: ModelCard
    state: LoopState
    optimizer: dict[str, Any]
    """State of optimizer and gradient scaler."""
    raw: VideoModel | None
    """The weights in training where they are not the evaluated ones."""


def save_run(checkpoints: Path, saved: Saved, best: bool) -> None:
    """`last`, which can be evaluated and resumed, and `best` with the same weights if they are: both or neither.

    The new `last` is what makes a new `best` count: `settle_run` finishes or undoes the swap of `best` by it.
    Raises EnvironmentFault where the disk is full or cannot be written; both are then as they were.
    """
    if best:
        with filling(checkpoints / BEST, mark(saved.state)) as new:
            write_checkpoint(new, saved.evaluated.state_dict(), saved.card)
    try:
        with replacing_folder(checkpoints / LAST) as new:
            write_checkpoint(new, saved.evaluated.state_dict(), saved.card)
            if saved.raw is not None:
                write_tensors(new / RAW_WEIGHTS, saved.raw.state_dict())
            write_pickle(new / OPTIMIZER, saved.optimizer)
            (new / STATE).write_text(json.dumps(asdict(saved.state), indent=1))
    except EnvironmentFault:
        settle_run(checkpoints)  # a `best` without its `last` takes no room on a full disk
        raise
    if best:
        put_in_place(checkpoints / BEST)


def mark(state: LoopState) -> str:
    """What the new folder of `best` is known by."""
    return f"step {state.best_step}"


def write_pickle(path: Path, value: Any) -> None:
    """As torch.save, whose own writing turns a full disk into a RuntimeError that does not say so."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getbuffer())


def settle_run(checkpoints: Path) -> LoopState | None:
    """Finish or undo what a killed run left of its last save; gives where it stands, None before the first save.

    For the one process that holds the run's lock.
    """
    settle(checkpoints / LAST)
    state = read_state(checkpoints / LAST) if (checkpoints / LAST).exists() else None
    settle(checkpoints / BEST, mark(state or LoopState()))
    return state


def read_state(last: Path) -> LoopState:
    """Where a run stands. UserError where the checkpoint is damaged."""
    try:
        notes = read_json(last / STATE, "the checkpoint is damaged", largest=LARGEST_STATE, any_name=True)
        state = parsed(LoopState, notes, str(last / STATE))
    except UserError as error:
        raise UserError(f"cannot resume from {last}: {error}") from None
    if min(state.epoch, state.batch, state.step, state.clips_seen, state.skipped, state.skipped_in_a_row) < 0:
        raise UserError(f"cannot resume from {last}: {STATE} is damaged (a count below 0); restore it")
    return state


def load_run(folder: Path, evaluated: VideoModel, raw: VideoModel | None) -> tuple[LoopState, dict[str, Any]]:
    """Weights into the models; gives the state and that of optimizer and scaler. UserError where it is damaged."""
    state = read_state(folder)
    with damage_said(folder, WEIGHTS):
        evaluated.load_state_dict(load_file(folder / WEIGHTS))
    if raw is not None:
        with damage_said(folder, RAW_WEIGHTS):
            raw.load_state_dict(load_file(folder / RAW_WEIGHTS))
    with damage_said(folder, OPTIMIZER):
        optimizer = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    return state, optimizer


@contextmanager
def damage_said(folder: Path, name: str) -> Iterator[None]:
    """UserError for a file of a checkpoint that cannot be read."""
    try:
        if (folder / name).exists() and not (folder / name).is_file():
            raise OSError("no ordinary file")  # a pipe would be waited for
        yield
    except UNREADABLE as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else one_line(error) or type(error).__name__
        raise UserError(
            f"cannot resume from {folder}: {name} is damaged ({why}); restore it, or start a new run"
        ) from error
