"""Shared by the layouts of `models.baselines`: the library's names below `net.`, and the variant tensors belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import isqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.models import MODELS
from hybridvideo.models.baselines.mvit import MVIT_PATCH
from hybridvideo.models.variants import Variant
from hybridvideo.weights.layouts.layout import Architecture, Renames, State

NET = "net."
OPEN = ("rel_pos_", "space_CHW", "time_CT")  # tables whose sizes follow from those of the input


def below_net(state: Mapping[str, Tensor]) -> State:
    """Put the library's own names below `net.`."""
    return {NET + key: value for key, value in state.items()}


def out_of_net(state: Mapping[str, Tensor]) -> State:
    """Undo `below_net`."""
    return {key.removeprefix(NET): value for key, value in state.items()}


# --- which network ----------------------------------------------------------------------------------------------------


def variant_of(state: Mapping[str, Tensor], names: Sequence[str]) -> str:
    """Return the model closest to tensors under our names: by names, then by shapes; of equals the first."""
    return max(names, key=lambda name: (named(state, shapes_of(name)), shaped(state, shapes_of(name))))


def named(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> float:
    """Return the share of names that a variant and the state have in common."""
    return len(state.keys() & shapes.keys()) / len(state.keys() | shapes.keys())


def shaped(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count tensors of a variant that are in the state with the same shape."""
    return sum(key in state and tuple(state[key].shape) == shape for key, shape in shapes.items())


@cache
def shapes_of(name: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a model's tensors, without those that depend on the input or the classes."""
    with torch.device("meta"):
        model = MODELS[name](1)
    state = model.state_dict()
    left_out = (*OPEN, f"{model.classifier_name}.")
    return {key: tuple(value.shape) for key, value in state.items() if not any(part in key for part in left_out)}


# --- MViT: tables of positions ----------------------------------------------------------------------------------------


def mvit_fix(prefix: str, space: str, time: str) -> Callable[[State], State]:
    """(.., N, C) -> (C, side, side), or (C, 1, N) for `mvit_adapt` if N is not a square; (.., T, C) -> (C, T)."""

    def fix(state: State) -> State:
        fixed = {}
        for key, value in state.items():
            if key.startswith(prefix):
                value = value.flatten(0, -2).t() if key in (space, time) else value.flatten()
            if key == space:
                side = isqrt(value.shape[1])
                value = value.reshape(len(value), *((side, side) if side**2 == value.shape[1] else (1, -1)))
            fixed[key] = value
        return below_net(fixed)

    return fix


def mvit_unfix(space: str, time: str, leading: int) -> Callable[[State], State]:
    """Undo `mvit_fix`; the library's tables and tokens have `leading` dimensions of 1 in front."""

    def unfix(state: State) -> State:
        state = out_of_net(state)
        for key in (space, time):
            if key in state:
                state[key] = state[key].flatten(1).t().reshape(*[1] * leading, -1, len(state[key]))
        return state

    return unfix


def mvit_adapt(state: State, own: Mapping[str, Tensor]) -> State:
    """Resize tables of relative positions to the model's lengths, linearly as the library does; reshape oblong ones."""
    adapted = {}
    for key, value in state.items():
        wanted = own.get(key, value).shape
        if ".rel_pos_" in key and value.ndim == 2 and len(value) != wanted[0]:
            value = F.interpolate(value.float().t()[None], int(wanted[0]), mode="linear")[0].t()
        elif key.endswith("space_CHW") and value.shape[1] == 1 and value.numel() == wanted.numel():
            value = value.reshape(wanted)
        adapted[key] = value
    return adapted


def mvit_architecture(state: Mapping[str, Tensor], names: Sequence[str]) -> Architecture:
    """Infer the variant from tensors under our names, and the frames and size of their tables that differ from it."""
    best = variant_of(state, names)
    sizes = table_sizes(state)
    same = [name for name in names if shapes_of(name) == shapes_of(best)]
    best = next((name for name in same if standard(name).get("frames") == sizes.get("frames")), best)
    return Architecture(best, {side: size for side, size in sizes.items() if standard(best).get(side) != size})


def standard(name: str) -> dict[str, int]:
    """Return frames, height and width of a variant."""
    builder = MODELS[name]
    assert isinstance(builder, Variant)
    return {side: getattr(builder.config, side) for side in ("frames", "height", "width")}


def table_sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Infer frames, height and width from tables of absolute positions, or of the first block's relative ones."""
    frames, side = state.get("tokens.position.time_CT"), state.get("tokens.position.space_CHW")
    if frames is not None and side is not None:
        counts = (frames.shape[1], *side.shape[1:])
        oblong = side.shape[1] == 1  # rows and columns are not known
        return {"frames": counts[0] * MVIT_PATCH[0]} if oblong else sized(*counts)
    times, rows = (state.get(f"net.blocks.0.attn.rel_pos_{axis}") for axis in "th")
    if times is None or rows is None:
        return {}
    return sized((len(times) + 1) // 2, *[(len(rows) + 1) // 2] * 2)


def sized(*counts: int) -> dict[str, int]:
    """Convert counts of patches to pixels."""
    sides = [count * stride for count, stride in zip(counts, MVIT_PATCH, strict=True)]
    return dict(zip(("frames", "height", "width"), sides, strict=True))


def token_renames(prefix: str, names: Sequence[str]) -> Renames:
    """Rename class token, its position, and tables of space and time from the library's names to ours."""
    ours = ("class_token", "class_position", "position.space_CHW", "position.time_CT")
    return tuple((f"{NET}{prefix}{theirs}", f"tokens.{mine}") for theirs, mine in zip(names, ours, strict=True))
