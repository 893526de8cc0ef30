"""What a hybrid has and an image network lacks: paths in time, which start as identity.

Weights of images fill everything else, so that a still clip, or a single frame, is seen as the image network sees it.
A path in time keeps its fresh weights but for its last layer, which becomes zero; the layer's own gradient is not zero,
and after the first step neither are those of the layers before it. Tables of time become zero.

Kernels and bias tables of one frame are extended over time by the loader (see `weights.resize`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from hybridvideo.models.parts.attention import TemporalAttention
from hybridvideo.models.parts.blocks import Branch, PathInTime
from hybridvideo.models.parts.positions import AbsolutePosition

State = dict[str, Tensor]


def paths_in_time(model: nn.Module) -> list[str]:
    """Return the names of all tensors in paths in time: residual branches, and tables of absolute time."""
    inside = [f"{prefix}.{name}" for prefix, path in branches_in_time(model) for name in path.state_dict()]
    return inside + tables_of_time(model)


def identity_in_time(model: nn.Module) -> State:
    """Return zeros for the last layer of every residual branch in time and for every table of absolute time."""
    own = model.state_dict()
    names = [name for prefix, path in branches_in_time(model) for name in last_layer(prefix, path)]
    return {name: torch.zeros_like(own[name]) for name in names + tables_of_time(model)}


def branches_in_time(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each residual branch that mixes frames and nothing else, with its name."""
    for name, module in model.named_modules():
        if isinstance(module, PathInTime) or (isinstance(module, Branch) and mixes_time_alone(module)):
            yield name, module


def mixes_time_alone(branch: Branch) -> bool:
    """Return whether a branch, with dropout or without, is attention of each position through the frames."""
    inner = branch.inner[0] if isinstance(branch.inner, nn.Sequential) else branch.inner
    return isinstance(inner, TemporalAttention)


def last_layer(prefix: str, path: nn.Module) -> list[str]:
    """Return the names of weight and bias of the last linear layer of a path."""
    last = [name for name, module in path.named_modules() if isinstance(module, nn.Linear)][-1]
    return [f"{prefix}.{last}.{name}" for name, _ in path.get_submodule(last).named_parameters()]


def tables_of_time(model: nn.Module) -> list[str]:
    """Return the names of learned tables of absolute time."""
    tables = ((name, module) for name, module in model.named_modules() if isinstance(module, AbsolutePosition))
    return [f"{name}.time_CT" for name, table in tables if table.time_CT is not None]


# --- names --------------------------------------------------------------------------------------------------------

BLOCK = re.compile(r"stages\.\d+\.blocks\.\d+\.")


def inside_paths(state: State, own: Mapping[str, Tensor]) -> State:
    """Rename the tensors of blocks that a path in time follows, which are one level deeper in the model."""
    followed = {match[0] for name in own if (match := BLOCK.match(name)) and name.startswith("block.", match.end())}
    return {name if name in own else deeper(name, followed): value for name, value in state.items()}


def deeper(name: str, followed: set[str]) -> str:
    """Return the name of a tensor behind a path in time, if it belongs to one of the blocks that one follows."""
    match = BLOCK.match(name)
    return f"{match[0]}block.{name[match.end() :]}" if match and match[0] in followed else name
