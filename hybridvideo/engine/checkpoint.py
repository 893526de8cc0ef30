"""The state of a training run on disk: the checkpoint folder of `weights`, and beside it what resuming needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hybridvideo.documents import read_json
from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.parsing import parsed
from hybridvideo.weights.checkpoint import ModelCard, write_checkpoint
from hybridvideo.weights.folders import WEIGHTS, replacing, settle

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
    bad: dict[str, list[str]] = field(default_factory=dict)
    """Training video -> status and reason, of those that could not be read whole."""


def save_run(
    folder: Path,
    evaluated: VideoModel,
    card: ModelCard,
    state: LoopState,
    optimizer: dict[str, Any],
    raw: VideoModel | None,
) -> None:
    """A checkpoint that can be evaluated and resumed; complete or absent.

    Args:
        evaluated: the weights to evaluate, which are the moving average where there is one.
        optimizer: state of optimizer and gradient scaler.
        raw: the weights in training where they are not the evaluated ones.
    """
    with replacing(folder) as new:
        write_checkpoint(new, evaluated.state_dict(), card)
        if raw is not None:
            save_file({name: value.contiguous().cpu() for name, value in raw.state_dict().items()}, new / RAW_WEIGHTS)
        torch.save(optimizer, new / OPTIMIZER)
        (new / STATE).write_text(json.dumps(asdict(state), indent=1))


def save_best(folder: Path, evaluated: VideoModel, card: ModelCard) -> None:
    """A checkpoint to evaluate only."""
    with replacing(folder) as new:
        write_checkpoint(new, evaluated.state_dict(), card)


def load_run(folder: Path, evaluated: VideoModel, raw: VideoModel | None) -> tuple[LoopState, dict[str, Any]]:
    """Weights into the models; gives the state and that of optimizer and scaler. UserError where it is damaged."""
    settle(folder)
    try:
        damaged = "the checkpoint is damaged"
        notes = read_json(folder / STATE, damaged, largest=LARGEST_STATE, any_name=True)
        state = parsed(LoopState, notes, str(folder / STATE))
        evaluated.load_state_dict(load_file(folder / WEIGHTS))
        if raw is not None:
            raw.load_state_dict(load_file(folder / RAW_WEIGHTS))
        optimizer = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot resume from {folder}: {str(error).splitlines()[0]}") from error
    return state, optimizer
