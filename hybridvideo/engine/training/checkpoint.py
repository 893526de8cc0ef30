"""The state of a training run on disk: a checkpoint folder, with what resuming needs besides the weights."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from hybridvideo.documents import read_json
from hybridvideo.engine.training.run import State
from hybridvideo.errors import EnvironmentFault, UserError
from hybridvideo.folders import filling, put_in_place, replacing_folder, settle
from hybridvideo.models.card import WEIGHTS, ModelCard, write_checkpoint, write_tensors
from hybridvideo.parsing import parsed
from hybridvideo.text import one_line

LAST, BEST = "last", "best"
UNREADABLE = (OSError, ValueError, TypeError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError)
STATE, OPTIMIZER, RAW_WEIGHTS = "state.json", "optimizer.pt", "training.safetensors"
LARGEST_STATE = 2**28  # bytes: the reasons of a million bad videos


@dataclass(frozen=True)
class Saved:
    """What a checkpoint is made of."""

    evaluated: nn.Module
    """The weights to evaluate: the moving average, if there is one."""
    raw: nn.Module | None
    """The weights in training, if they are not the evaluated ones."""
    state: State
    memory: dict[str, Any]
    """What optimizer, gradient scaler and objective remember."""


class Keeper(Protocol):
    """What `fit` saves to and resumes from."""

    def load(self, evaluated: nn.Module, raw: nn.Module | None) -> tuple[State, dict[str, Any]] | None:
        """Load the weights of the last save into the networks, and return its state and memory; None to start fresh."""

    def save(self, saved: Saved, best: bool) -> None:
        """Save a run, and the same weights as its best if they are. Called in the first process only."""

    def refuse(self, why: str) -> UserError:
        """Return the error for a checkpoint that does not fit the run."""


@dataclass(frozen=True)
class RunKeeper:
    """Keeps a run in a folder of checkpoints. `card`: what travels with the weights; `resume`: whether to load."""

    checkpoints: Path
    card: ModelCard
    resume: bool

    def load(self, evaluated: nn.Module, raw: nn.Module | None) -> tuple[State, dict[str, Any]] | None:
        return load_run(self.checkpoints / LAST, evaluated, raw) if self.resume else None

    def save(self, saved: Saved, best: bool) -> None:
        save_run(self.checkpoints, saved, self.card, best)

    def refuse(self, why: str) -> UserError:
        return UserError(f"cannot resume from {self.checkpoints / LAST}: {why}; restore it, or start a new run")


def save_run(checkpoints: Path, saved: Saved, card: ModelCard, best: bool) -> None:
    """Write `last`, which can be evaluated and resumed, and `best` too if these weights are the best: both or neither.

    A new `best` counts once the new `last` is in place: `settle_run` finishes or undoes the swap of `best` accordingly.
    Raises EnvironmentFault if the disk is full or cannot be written; both are then as they were.
    """
    if best:
        with filling(checkpoints / BEST, mark(saved.state)) as new:
            write_checkpoint(new, saved.evaluated.state_dict(), card)
    try:
        with replacing_folder(checkpoints / LAST) as new:
            write_checkpoint(new, saved.evaluated.state_dict(), card)
            if saved.raw is not None:
                write_tensors(new / RAW_WEIGHTS, saved.raw.state_dict())
            write_pickle(new / OPTIMIZER, saved.memory)
            (new / STATE).write_text(json.dumps(asdict(saved.state), indent=1))
    except EnvironmentFault:
        settle_run(checkpoints)  # a `best` without its `last` takes no room on a full disk
        raise
    if best:
        put_in_place(checkpoints / BEST)


def mark(state: State) -> str:
    """Return what identifies the new folder of `best`."""
    return f"step {state.best_step}"


def write_pickle(path: Path, value: Any) -> None:
    """Like torch.save, which reports a full disk as a RuntimeError that does not mention the disk."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    path.write_bytes(buffer.getbuffer())


def settle_run(checkpoints: Path) -> State | None:
    """Finish or undo what a killed run left of its last save. Return its state, or None before the first save.

    Only for the process that holds the run's lock.
    """
    settle(checkpoints / LAST)
    state = read_state(checkpoints / LAST) if (checkpoints / LAST).exists() else None
    settle(checkpoints / BEST, mark(state or State()))
    return state


def read_state(last: Path) -> State:
    """Read where a run is. Raises UserError if the checkpoint is damaged."""
    try:
        notes = read_json(last / STATE, "the checkpoint is damaged", largest=LARGEST_STATE, any_name=True)
        state = parsed(State, notes, str(last / STATE))
    except UserError as error:
        raise UserError(f"cannot resume from {last}: {error}") from None
    if min(state.epoch, state.batch, state.step, state.clips_seen, state.skipped, state.skipped_in_a_row) < 0:
        raise UserError(f"cannot resume from {last}: {STATE} is damaged (a count below 0); restore it")
    return state


def load_run(folder: Path, evaluated: nn.Module, raw: nn.Module | None) -> tuple[State, dict[str, Any]]:
    """Load the weights into the networks; return the state, and what optimizer, scaler and objective remember.

    Raises UserError if the checkpoint is damaged.
    """
    state = read_state(folder)
    with damage_named(folder, WEIGHTS):
        evaluated.load_state_dict(load_file(folder / WEIGHTS))
    if raw is not None:
        with damage_named(folder, RAW_WEIGHTS):
            raw.load_state_dict(load_file(folder / RAW_WEIGHTS))
    with damage_named(folder, OPTIMIZER):
        memory = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    return state, memory


@contextmanager
def damage_named(folder: Path, name: str) -> Iterator[None]:
    """A context that turns the failure to read a file of a checkpoint into a UserError."""
    try:
        if (folder / name).exists() and not (folder / name).is_file():
            raise OSError("not a regular file")  # reading a pipe would wait for ever
        yield
    except UNREADABLE as error:
        why = "no such file" if isinstance(error, FileNotFoundError) else one_line(error) or type(error).__name__
        raise UserError(
            f"cannot resume from {folder}: {name} is damaged ({why}); restore it, or start a new run"
        ) from error
