"""Open weights wherever they are: their tensors, and what else the source states about them.

runs/x, runs/x/checkpoints/last      a run folder or checkpoint folder of this project
FILE                                 .safetensors, .pth, .pt, .pyth, .bin, .ckpt: a state dict, whatever wraps it
FOLDER                               from Hugging Face: config.json and model.safetensors (or shards, or .bin)
torchvision:NAME[.WEIGHTS]           downloaded by torchvision
timm:NAME[.TAG]                      downloaded by timm: weights of images
hf:OWNER/REPO[@REVISION]             downloaded by huggingface_hub: configuration and tensors, never code
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.card import WEIGHTS, read_card
from hybridvideo.models.state_files import KINDS, open_state_file, unwrapped
from hybridvideo.weights import huggingface_weights as huggingface
from hybridvideo.weights import timm_weights as timm
from hybridvideo.weights import torchvision_weights as torchvision
from hybridvideo.weights.find_checkpoint import read_checkpoint
from hybridvideo.weights.source import Facts, Source

From: TypeAlias = str | Path | Mapping[str, Tensor]


def open_source(source: From) -> Source:
    """Open a source. UserError if no weights can be found."""
    if isinstance(source, Mapping):
        inside = unwrapped(source, "the state dict")
        return Source("the state dict", inside.tensors, inside.notes)
    text, path = str(source), Path(source)
    if text.startswith(torchvision.PREFIX):
        return torchvision.open_torchvision(text)
    if text.startswith(timm.PREFIX):
        return timm.open_timm(text)
    if text.startswith(huggingface.PREFIX):
        return huggingface.open_repository(text)
    if path.is_dir():
        return huggingface.open_folder(path) if huggingface.is_hugging_face(path) else open_own(path)
    if not path.exists() and re.match(r"\w+:", text):
        raise UserError(f"no weights {text!r}; give a path ({KINDS}), torchvision:NAME, timm:NAME or hf:OWNER/REPO")
    file = open_state_file(path)
    return Source(text, file.tensors, file.notes, (path,))


def open_own(folder: Path) -> Source:
    """Open a run or checkpoint folder of this project."""
    return read_checkpoint(folder, None, open_checkpoint)


def open_checkpoint(checkpoint: Path) -> Source:
    """Open the weights of a checkpoint folder of this project."""
    weights = checkpoint / WEIGHTS
    card = read_card(checkpoint)
    facts = Facts(normalisation=card.preprocessing.normalisation)
    return Source(f"{weights} ({card.name})", open_state_file(weights).tensors, (), (weights,), facts)


def is_ours(source: str | Path) -> bool:
    """Return whether a source is a run or checkpoint folder of this project, even if it does not exist."""
    path = Path(source)
    if path.is_dir():
        return not huggingface.is_hugging_face(path)
    return not (path.exists() or path.suffix in KINDS.split(", ") or re.match(r"\w+:", str(source)))
