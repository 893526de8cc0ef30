"""An opened source of weights: its tensors, and what else it states about them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from hybridvideo.config.data import ClipConfig, Normalisation
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import EnvironmentFault
from hybridvideo.text import one_line

BLOCK = 2**20  # bytes hashed at a time


@dataclass(frozen=True)
class Facts:
    """What a source states about its weights; None: nothing."""

    labels: tuple[str, ...] | None = None
    normalisation: Normalisation | None = None
    clip: ClipConfig | None = None
    views: EvalConfig | None = None
    size: tuple[int, int] | None = None
    """Rows and columns of the crop."""
    short_side: int | None = None
    """Short side of a frame before the crop."""
    heads: int | None = None
    """Of the attention of a ViT's blocks."""
    activation: str | None = None
    """In the MLPs of a ViT's blocks, as `StageConfig.activation` names it."""
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the model that cannot be inferred from its tensors."""


@dataclass(frozen=True)
class Source:
    """Tensors under the names they have in the source."""

    where: str
    """Name of the source in messages and on the card of a converted model."""
    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    """Remarks made while reading, such as which of several sets of weights was taken."""
    files: tuple[Path, ...] = ()
    facts: Facts = field(default_factory=Facts)

    def sha256(self) -> str:
        """Digest of the weights file, or of its shards in order; empty for a state dict."""
        return sha256_of(self.files) if self.files else ""


def sha256_of(files: tuple[Path, ...]) -> str:
    """Return the hexadecimal digest of several files read one after another."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def cannot_download(source: str, address: str, error: Exception) -> EnvironmentFault:
    """Return the error for a failed download, with the way around it."""
    return EnvironmentFault(
        f"{source} cannot be downloaded ({type(error).__name__}: {one_line(error)[:100]}); on a machine with network "
        f"access download {address}, copy it here, and give its path in place of {source}"
    )
