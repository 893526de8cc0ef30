"""The weights that a command is given as RUN: the model, and the folder of its results unless --out names one.

runs/x, runs/x/checkpoints/best      results go into that folder
anything else                        runs/foreign/NAME: model.pth -> model, hf:OWNER/REPO -> hf-OWNER-REPO
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from hybridvideo.models.card import WEIGHTS, ModelCard
from hybridvideo.models.contract import VideoModel
from hybridvideo.text import shown
from hybridvideo.weights.find_checkpoint import find_checkpoint
from hybridvideo.weights.load_model import load_model
from hybridvideo.weights.open_source import is_ours
from hybridvideo.weights.source import sha256_of

FOREIGN = Path("runs") / "foreign"


def open_model(run: str, which: str | None = None) -> VideoModel:
    """Open the model of a run, a checkpoint or foreign weights; print assumptions about foreign ones."""
    model = load_model(run, which)
    origin = card_of(model).origin
    if not is_ours(run) and origin and os.environ.get("LOCAL_RANK", "0") == "0":
        for note in origin.notes:
            print(shown(f"{run}: {note}"), file=sys.stderr)
    return model


def card_of(model: VideoModel) -> ModelCard:
    """Return the card of a loaded model."""
    assert model.card is not None, "not from load_model"
    return model.card


def results_folder(run: str) -> Path:
    """Return the folder for results of these weights."""
    if is_ours(run):
        return Path(run)
    path = Path(run)
    name = (path.stem if path.is_file() else path.resolve().name) if path.exists() else run
    return FOREIGN / re.sub(r"[^\w.]+", "-", name).strip("-.")


def weights_name(run: str, which: str | None = None) -> str:
    """Return the checkpoint folder of a run, or the source as it was given."""
    return str(find_checkpoint(run, which)) if is_ours(run) else run


def weights_digest(run: str, model: VideoModel, which: str | None = None) -> str:
    """Return the SHA-256 of the file the model's weights were read from."""
    if is_ours(run):
        return sha256_of((find_checkpoint(run, which) / WEIGHTS,))
    origin = card_of(model).origin
    return origin.sha256 if origin else ""
