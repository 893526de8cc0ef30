"""Where weights come from, and what their source says of them beside the tensors.

runs/x, runs/x/checkpoints/last      this project's run folder or checkpoint folder
FILE                                 .safetensors, .pth, .pt, .pyth, .bin, .ckpt: a state dict, whatever wraps it
FOLDER                               of Hugging Face: config.json and model.safetensors (or shards, or .bin)
torchvision:NAME[.WEIGHTS]           downloaded by torchvision
hf:OWNER/REPO[@REVISION]             downloaded by huggingface_hub: configuration and tensors, never code
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from hybridvideo.config.data import ClipConfig, Normalisation
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.documents import read_json
from hybridvideo.errors import UserError
from hybridvideo.models.card import CARD, WEIGHTS, read_card
from hybridvideo.models.state_files import KINDS, open_state_file, unwrapped
from hybridvideo.weights.find_checkpoint import read_whole

From: TypeAlias = str | Path | Mapping[str, Tensor]

TORCHVISION, HUGGING_FACE = "torchvision:", "hf:"
HF_CONFIG = "config.json"
HF_WEIGHTS = (WEIGHTS, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Facts:
    """What a source says of its weights beside the tensors; None: nothing."""

    labels: tuple[str, ...] | None = None
    normalisation: Normalisation | None = None
    clip: ClipConfig | None = None
    views: EvalConfig | None = None
    size: tuple[int, int] | None = None
    """Rows and columns of the crop."""
    short_side: int | None = None
    """Before the crop."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of the model that its tensors do not tell."""


@dataclass(frozen=True)
class Source:
    """Tensors as they lie in a source, under the names they have there."""

    where: str
    """For messages, and for the card of a converted model."""
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """What was said of the file: which of several sets of weights was taken."""
    files: tuple[Path, ...] = ()
    facts: Facts = field(default_factory=Facts)

    def sha256(self) -> str:
        """Of the weights' file, or of its shards one after another; empty for a state dict."""
        return sha256_of(self.files) if self.files else ""


def sha256_of(files: tuple[Path, ...]) -> str:
    """Hexadecimal digest of some files, one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def open_source(source: From) -> Source:
    """The tensors of a source and what it says of them. UserError where there are none to be had."""
    if isinstance(source, Mapping):
        inside = unwrapped(source, "the state dict")
        return Source("the state dict", inside.tensors, inside.notes)
    text = str(source)
    if text.startswith((TORCHVISION, HUGGING_FACE)):
        from hybridvideo.weights import hub

        return hub.open_torchvision(text) if text.startswith(TORCHVISION) else hub.open_hugging_face(text)
    path = Path(source)
    if path.is_dir():
        return open_folder(path)
    if not path.exists() and re.match(r"\w+:", text):
        raise UserError(f"no weights {text!r}; give a path ({KINDS}), torchvision:NAME or hf:OWNER/REPO")
    file = open_state_file(path)
    return Source(text, file.tensors, file.notes, (path,))


def open_folder(folder: Path) -> Source:
    """Our own run or checkpoint folder, or one of Hugging Face."""
    if is_hugging_face(folder):
        from hybridvideo.weights.huggingface import facts_of

        files = hugging_face_files(folder)
        states = [open_state_file(file) for file in files]
        state = {name: tensor for part in states for name, tensor in part.tensors.items()}
        return Source(str(folder), state, states[0].notes, files, facts_of(folder))
    return read_whole(folder, None, open_own)


def open_own(checkpoint: Path) -> Source:
    """The weights of a checkpoint folder of this project."""
    weights = checkpoint / WEIGHTS
    card = read_card(checkpoint)
    facts = Facts(normalisation=card.preprocessing.normalisation)
    return Source(f"{weights} ({card.name})", open_state_file(weights).tensors, (), (weights,), facts)


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder was written by transformers: its config.json, and no card of ours."""
    return (folder / HF_CONFIG).is_file() and not (folder / CARD).is_file()


def hugging_face_files(folder: Path) -> tuple[Path, ...]:
    """The file of weights, or its shards. UserError where there is none."""
    for name in HF_WEIGHTS:
        if (folder / name).is_file():
            return shards(folder / name) if name.endswith(".index.json") else (folder / name,)
    raise UserError(f"{folder} has a {HF_CONFIG} but no weights; expected {' or '.join(HF_WEIGHTS)}")


def shards(index: Path) -> tuple[Path, ...]:
    """The files that an index names; only those beside it."""
    try:
        names = sorted(set(read_json(index, "download the folder again")["weight_map"].values()))
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{index} is no index of shards ({error}); download the folder again") from error
    return tuple(index.parent / Path(str(name)).name for name in names)


def is_ours(source: str | Path) -> bool:
    """Whether a source is a run folder or a checkpoint folder of this project (also one that is not there)."""
    path = Path(source)
    if path.is_dir():
        return not is_hugging_face(path)
    return not (path.exists() or path.suffix in KINDS.split(", ") or re.match(r"\w+:", str(source)))
