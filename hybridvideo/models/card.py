"""A checkpoint folder: `model.safetensors`, and `model.json` with everything that belongs to the weights.

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
    """Path, `torchvision:NAME`, `timm:NAME` or `hf:REPO`."""
    layout: str
    """The code base that named the tensors."""
    sha256: str
    """Of the file; empty if there was none."""
    notes: tuple[str, ...] = ()
    """What was taken, and what was assumed."""


@dataclass(frozen=True)
class ModelCard:
    """Everything that belongs to a model's weights."""

    name: str
    """Name of the model, as for `create_model`."""
    labels: tuple[str, ...]
    """Names of the classes, in the order of the logits."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of the model, as for `create_model`."""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Views that the model is evaluated with by default."""
    origin: Origin | None = None
    """The source of the weights, if they were not trained here."""


def write_checkpoint(folder: Path, state: dict[str, Tensor], card: ModelCard) -> None:
    """Write weights and card into an existing folder; inside `folders.replacing_folder`, both or neither."""
    write_tensors(folder / WEIGHTS, state)
    with writing(folder):
        (folder / CARD).write_text(json.dumps(asdict(card), indent=1))


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the permissions of any new file. Raises EnvironmentFault, as `files.writing`."""
    contiguous = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with writing(path):
        path.touch()
        permissions = path.stat().st_mode
        try:
            save_file(contiguous, path, notes)
        except SafetensorError as error:
            found = re.search(r"os error (\d+)", str(error))
            number = int(found[1]) if found else errno.EIO
            raise OSError(number, os.strerror(number)) from error
        path.chmod(permissions)  # safetensors makes the file readable by its owner alone


def read_card(folder: Path) -> ModelCard:
    """Read the card of a checkpoint folder. Raises UserError if it is damaged or more than data."""
    path = folder / CARD
    return parsed(ModelCard, read_json(path, "the checkpoint is damaged"), str(path))


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise UserError if the folder holds something that a checkpoint must not replace."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / CARD).is_file():
        raise UserError(f"{folder} holds something that is not a checkpoint; give another folder")
    if not overwrite:
        raise UserError(f"{folder} holds a checkpoint already; add --overwrite to replace it, or give another folder")
    if others := sorted({path.name for path in folder.iterdir()} - {CARD, WEIGHTS, COMPLETE}):
        raise UserError(
            f"{folder} holds {', '.join(others[:3])} besides its checkpoint; move them, or give another folder"
        )
