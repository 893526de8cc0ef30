"""Any network of images into the stem of a hybrid: the keys of timm or torchvision, for the stem of the same name.

The stem takes what lies before its cut, and bottlenecks after it what a ResNet has for them; the rest is left out.
Everything else after the stem keeps its fresh weights, paths in time start as identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.stems import LibraryStem, TimmTrunk
from hybridvideo.weights.layouts.image_botnet import bottlenecks, reshaped
from hybridvideo.weights.layouts.layout import Architecture, Layout, State

COUNTERS = "num_batches_tracked"  # of BatchNorm; old files have none


def stem_layout(state: Mapping[str, Tensor], model: VideoModel) -> Layout | None:
    """Return the layout that fills the stem of a hybrid from these weights; None if they are not of its network."""
    if not isinstance(model, Hybrid):
        return None
    trunks = trunks_of(model.stem)
    needed = {key for key in next(iter(trunks.values()), {}) if not key.endswith(COUNTERS)}
    if not needed or not needed <= state.keys():
        return None
    trunk = next(iter(trunks.values()))
    after = bottlenecks(state, model, trunk)
    return Layout(
        name=f"image network ({model.config.stem.name})",
        family="Hybrid",
        signature=(),
        renames=(),
        architecture=no_architecture,
        computed=tuple(re.sub(r"[{}]", "", key) for key in state if key not in trunk and key not in after),
        fix=lambda state: filled(state, trunks) | {name: reshaped(name, state[key]) for key, name in after.items()},
        of_images=True,
        lacks=outside_the_stem,
    )


def trunks_of(stem: nn.Module) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each trunk under the library's own names, by what precedes these in the model's."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, module in stem.named_modules():
        if isinstance(module, LibraryStem):
            within = "model." if isinstance(module.trunk, TimmTrunk) else ""
            tensors = module.trunk.state_dict()
            parts[f"stem.{name}.trunk.{within}"] = {key.removeprefix(within): value for key, value in tensors.items()}
    return parts


def filled(state: State, trunks: Mapping[str, Mapping[str, Tensor]]) -> State:
    """Return the tensors of every trunk under the model's names."""
    return {
        f"{below}{key}": widened(state[key], own)
        for below, tensors in trunks.items()
        for key, own in tensors.items()
        if key in state
    }


def widened(kernel: Tensor, own: Tensor) -> Tensor:
    """Repeat a first convolution of three channels for a stem of six, frames and their differences."""
    if kernel.ndim == 4 and kernel.shape[1] == 3 and own.shape[1] == 6:
        return torch.cat([kernel, kernel], 1) / 2
    return kernel


def outside_the_stem(model: VideoModel) -> list[str]:
    """Return the names of all tensors after the stem, the classifier's apart."""
    head = f"{model.classifier_name}."
    return [name for name in model.state_dict() if not name.startswith(("stem.", head))]


def no_architecture(_state: State) -> Architecture:
    """Raise UserError: a stem does not determine what follows it."""
    raise UserError("weights of a stem do not determine the hybrid; name it with --model")
