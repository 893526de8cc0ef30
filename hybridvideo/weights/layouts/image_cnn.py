"""Any network of images into the stem of a hybrid: the keys of timm or torchvision, for the stem of the same name.

The stem takes what lies before its cut, and bottlenecks after it what a ResNet has for them; the rest is left out.
Everything else after the stem keeps its fresh weights, paths in time start as identity.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridvideo.errors import UserError
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.hybrid import Hybrid
from hybridvideo.models.parts.backbone import BackboneTrunk
from hybridvideo.models.parts.stems import LibraryStem, TimmTrunk, names_in_network
from hybridvideo.text import shown
from hybridvideo.weights.layouts.image_botnet import bottlenecks, reshaped
from hybridvideo.weights.layouts.layout import Architecture, Layout, State

COUNTERS = "num_batches_tracked"  # of BatchNorm; old files have none
# What the names in a trunk start with, and what the library's start with in its place.
STARTS: dict[type, tuple[str, str]] = {TimmTrunk: ("model.", ""), BackboneTrunk: ("", "patch_embed.")}


@dataclass(frozen=True)
class Place:
    """Where a tensor of the stem is found in the library's network."""

    theirs: str
    own: Tensor


def stem_layout(state: Mapping[str, Tensor], model: VideoModel) -> Layout | None:
    """Return the layout that fills the stem of a hybrid from these weights; None if they are not of its network."""
    if not isinstance(model, Hybrid):
        return None
    places = places_in(model)
    used = {place.theirs for place in places.values()}
    if not used or not {key for key in used if not key.endswith(COUNTERS)} <= state.keys():
        return None
    after = bottlenecks(state, model, {place.theirs: place.own for place in places.values()})
    return Layout(
        name=f"image network ({model.config.stem.name})",
        family="Hybrid",
        signature=(),
        renames=(),
        architecture=no_architecture,
        computed=tuple(key for key in state if key not in used and key not in after and not re.search("[{}]", key)),
        fix=lambda state: filled(state, places) | {name: reshaped(name, state[key]) for key, name in after.items()},
        of_images=True,
        lacks=lambda model: outside(model, places),
        check=lambda model, _facts: check_network(state, used, model),
    )


def places_in(model: Hybrid) -> dict[str, Place]:
    """Return where each tensor of the model's stems is found, by its name in the model."""
    places: dict[str, Place] = {}
    for name, module in model.stem.named_modules():
        if isinstance(module, LibraryStem):
            ours, theirs = STARTS.get(type(module.trunk), ("", ""))
            for key, own in module.trunk.state_dict().items():
                places[f"stem.{name}.trunk.{key}"] = Place(theirs + key.removeprefix(ours), own)
    return places


def filled(state: State, places: Mapping[str, Place]) -> State:
    """Return the tensors of every trunk under the model's names."""
    present = {name: place for name, place in places.items() if place.theirs in state}
    return {name: widened(state[place.theirs], place.own) for name, place in present.items()}


def widened(kernel: Tensor, own: Tensor) -> Tensor:
    """Extend a first convolution of three channels: for frames and differences it is repeated, for more it sees zeros.

    The channels after the third are a correlation's, whose part of the kernel is zero in a library's stem at the start.
    """
    if kernel.ndim != 4 or kernel.shape[1] != 3 or own.shape[1] <= 3:
        return kernel
    if own.shape[1] == 6:
        return torch.cat([kernel, kernel], 1) / 2
    return torch.cat([kernel, kernel.new_zeros(len(kernel), own.shape[1] - 3, *kernel.shape[2:])], 1)


def check_network(state: Mapping[str, Tensor], used: Collection[str], model: VideoModel) -> list[str]:
    """Raise UserError if the weights are of a deeper network, or of one with other blocks, of which the stem is a part.

    What its own network has after the cut is left out, and so is any head.
    """
    assert isinstance(model, Hybrid)
    name, within = model.config.stem.name, set(containers(used))
    foreign = [key for key in state if key not in used and not within.isdisjoint(containers([key]))]
    if foreign:
        own = names_in_network(name)
        foreign = [key for key in foreign if key not in own]
    if foreign:
        raise UserError(
            f"these weights have {len(foreign)} tensors among the stem's that {name} does not have, such as "
            f"{shown(foreign[0])}: they are of another network; name that in stem.name, or give weights of {name}"
        )
    return []


def containers(names: Iterable[str]) -> Iterable[str]:
    """Yield the names of the modules that hold these tensors, outermost first."""
    for name in names:
        parts = name.split(".")
        yield from (".".join(parts[:count]) for count in range(1, len(parts)))


def outside(model: VideoModel, places: Mapping[str, Place]) -> list[str]:
    """Return the names of all tensors that are not in a trunk, the classifier's apart."""
    head = f"{model.classifier_name}."
    return [name for name in model.state_dict() if name not in places and not name.startswith(head)]


def no_architecture(_state: State) -> Architecture:
    """Raise UserError: a stem does not determine what follows it."""
    raise UserError(
        "weights of a stem do not determine the hybrid; name it and train the rest "
        "(`hybridvideo train --model.name NAME --model.weights SOURCE --model.head replace`)"
    )
