"""A checkpoint folder: `model.safetensors` and, beside it, `model.json` with all that belongs to the weights.

The card names the architecture, the labels, the preprocessing and how scores are averaged, so that a checkpoint
can be evaluated anywhere without the config it was trained with.
"""

from __future__ import annotations

import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from hybridvideo.config.data import Preprocessing
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.documents import read_json
from hybridvideo.errors import UserError
from hybridvideo.files import writing
from hybridvideo.folders import COMPLETE
from hybridvideo.parsing import parsed

CARD, WEIGHTS = "model.json", "model.safetensors"


@dataclass(frozen=True)
class Origin:
    """Where converted weights came from."""

    source: str
    """Path, `torchvision:NAME` or `hf:REPO`."""
    layout: str
    """Whose names the tensors had."""
    sha256: str
    """Of the file; empty where there was none."""
    notes: tuple[str, ...] = ()
    """What was taken, and what had to be assumed."""


@dataclass(frozen=True)
class ModelCard:
    """What belongs to a model's weights."""

    name: str
    """Name of the model, as for `create_model`."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the model, as for `create_model`."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Views the model is evaluated with unless asked otherwise."""
    origin: Origin | None = None
    """Where the weights came from, if they were not trained here."""


def write_checkpoint(folder: Path, state: dict[str, Tensor], card: ModelCard) -> None:
    """Weights and card into an existing folder; inside `folders.replacing_folder` they are whole or absent."""
    write_tensors(folder / WEIGHTS, state)
    with writing(folder):
        (folder / CARD).write_text(json.dumps(asdict(card), indent=1))


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """A safetensors file, with the permissions that any new file has. Raises EnvironmentFault as `files.writing`."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with writing(path):
        path.touch()
        permissions = path.stat().st_mode
        try:
            save_file(whole, path, notes)
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number)) from error
        path.chmod(permissions)  # safetensors writes a file for its owner alone


def read_card(folder: Path) -> ModelCard:
    """The card of a checkpoint folder; UserError where it is damaged, or more than data."""
    path = folder / CARD
    return parsed(ModelCard, read_json(path, "the checkpoint is damaged"), str(path))


def check_free(folder: Path, overwrite: bool) -> None:
    """UserError where the folder holds something that a checkpoint must not replace."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} holds something that is no checkpoint; give another folder")
    if not overwrite:
        raise UserError(f"{folder} holds a checkpoint already; add --overwrite to replace it, or give another folder")
    if others := sorted({path.name for path in folder.iterdir()} - {CARD, WEIGHTS, COMPLETE}):
        raise UserError(
            f"{folder} holds {', '.join(others[:3])} beside its checkpoint; move that, or give another folder"
        )
