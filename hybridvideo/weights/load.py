"""Weights into a model, strictly: what does not fit is an error, what was adapted is reported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.positions import resized_space, resized_time
from hybridvideo.models.stems import read_state_dict
from hybridvideo.weights.folders import WEIGHTS, find_checkpoint

Head = Literal["strict", "replace", "drop"]


@dataclass
class LoadReport:
    """Names of tensors: `matched` (as they are or resized), `missing` in the source, `unexpected` in it, `resized`."""

    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    resized: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.matched)} tensors loaded ({len(self.resized)} resized), "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected"
        )


def load_weights(model: VideoModel, source: str | Path | Mapping[str, Tensor], head: Head = "strict") -> LoadReport:
    """Load weights of this project's layout into `model`.

    Args:
        model: receives the weights, in place.
        source: a run folder, a checkpoint folder, a .safetensors or .pth file, or a state dict.
        head: strict: the classifier must fit. replace: a new classifier where it does not. drop: a new one always.

    Returns:
        What was matched, missing, unexpected and resized. Position tables of another size are resized.

    Raises:
        UserError: a tensor is missing, unexpected or of another shape.
    """
    if head not in ("strict", "replace", "drop"):
        raise UserError(f"head is {head!r}; give strict, replace or drop")
    where, state = open_source(source)
    own = model.state_dict()
    report = LoadReport()
    state = fit_head(model, state, own, head, where)
    for name in own:
        if name not in state:
            report.missing.append(name)
        elif fitted := fit(name, state[name], own[name]):
            own[name].copy_(fitted[0])
            report.matched.append(name)
            report.resized += [name] if fitted[1] else []
        else:
            shapes = f"{tuple(state[name].shape)} in the weights, {tuple(own[name].shape)} in the model"
            raise UserError(f"{where}: {name} has another shape ({shapes}); build the model that the weights belong to")
    report.unexpected = [name for name in state if name not in own]
    report.missing = [name for name in report.missing if head == "strict" or not is_head(model, name)]
    if report.missing or report.unexpected:
        first = (report.missing + report.unexpected)[0]
        raise UserError(f"{where} does not fit this model: {report} (first: {first})")
    return report


def open_source(source: str | Path | Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """A name for messages, and the tensors."""
    if isinstance(source, Mapping):
        return "the state dict", dict(source)
    path = Path(source)
    if path.is_dir():
        path = find_checkpoint(path) / WEIGHTS
    return str(path), read_state_dict(str(path))


def fit_head(
    model: VideoModel, state: dict[str, Tensor], own: Mapping[str, Tensor], head: Head, where: str
) -> dict[str, Tensor]:
    """Without the classifier's tensors where a new one is wanted; UserError where it has other classes."""
    name = f"{model.classifier_name}.weight"
    fits = name in state and state[name].shape == own[name].shape
    if head == "drop" or (head == "replace" and not fits):
        return {key: value for key, value in state.items() if not is_head(model, key)}
    if name in state and state[name].shape[0] != own[name].shape[0]:
        raise UserError(
            f"{where} has {state[name].shape[0]} classes, the model {own[name].shape[0]}; "
            "use the label set of the weights, or head=replace (--model.head replace) to train a new classifier"
        )
    return state


def is_head(model: VideoModel, name: str) -> bool:
    """Whether a tensor belongs to the classifier."""
    return name.startswith(f"{model.classifier_name}.")


def fit(name: str, source: Tensor, own: Tensor) -> tuple[Tensor, bool] | None:
    """The source's tensor in the model's shape and whether it was resized; None where that cannot be."""
    if source.shape == own.shape:
        return source, False
    if name.endswith("position.space_CHW") and source.shape[0] == own.shape[0]:
        return resized_space(source, *own.shape[1:]), True
    if name.endswith("position.time_CT") and source.shape[0] == own.shape[0]:
        return resized_time(source, own.shape[1]), True
    return None
