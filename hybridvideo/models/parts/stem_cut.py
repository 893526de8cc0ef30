"""Where to cut a library's classification network to make it a stem, found on `meta`: without memory or computation.

A network is built for the wanted frame size in the first way that works: some accept any size, some must be told
the size, some have only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hybridvideo.errors import UserError
from hybridvideo.models.checks import NumbersOnCpu
from hybridvideo.text import one_line

FrameSize = tuple[int, int]  # rows, columns
Way = dict[str, Any]  # arguments that a library builds a network with
STEPS = (1, 4, 16, 32, 64)
USUAL = (224, 256)  # rows and columns that networks are published for
FRAMES = 2  # of a probe


class Cut(NamedTuple):
    """The layer whose output is the feature map, and its properties."""

    layer: Any
    channels: int
    channels_last: bool
    size: FrameSize
    """Size of the frames with which it was found."""
    step: int | None
    """Sides may differ from `size` by multiples of this; None: not at all."""
    unused: tuple[str, ...]
    """Parameters of the trunk that the map does not depend on."""


class Library(NamedTuple):
    """How to build and cut a library's network."""

    name: str
    """Name of the network, as in `stem.name`."""
    build: Callable[..., Any]
    """Builds it."""
    ways: Callable[[FrameSize], list[Way]]
    """Arguments of `build` to try in turn, for frames of a size."""
    layers: Callable[[Any, Tensor], dict[Any, Tensor]]
    """Outputs of a network by layer for a batch of frames, in the order of computation."""
    trunk: Callable[[Any, Any], nn.Module]
    """The network up to a layer."""
    strides: Callable[[Any], dict[Any, int]] = lambda model: {}
    """Strides of a network's maps by layer, if the library states them; otherwise they are measured."""


def find_cut(library: Library, stride: int, size: FrameSize) -> tuple[Cut, Way]:
    """Find the cut, and the first of the library's ways to build a network that has it, for frames of this size.

    Raises:
        UserError: no way works, or none has a map of the wanted stride.
    """
    large = max(size[0], USUAL[0]), max(size[1], USUAL[0])  # strides are measured best on large frames, which most take
    found = try_ways(library, stride, large)
    if not isinstance(found, str) and (large == size or found[0].step == 1):
        return found
    found = try_ways(library, stride, (max(size[0], 2 * stride), max(size[1], 2 * stride)))
    if not isinstance(found, str):
        return found
    other = next((side for side in USUAL if not isinstance(try_ways(library, stride, (side, side)), str)), None)
    hint = f"; for {other}x{other} it can" if other else "; choose another stride or network"
    raise UserError(
        f"{library.name} cannot be a stem of stride {stride} for frames of {size[0]}x{size[1]}: {found}{hint}"
    )


def try_ways(library: Library, stride: int, size: FrameSize) -> tuple[Cut, Way] | str:
    """Do as `find_cut`; if no way works, return why the best one does not."""
    reasons: list[str] = []
    for way in library.ways(size):
        try:
            with torch.device("meta"), NumbersOnCpu(), torch.no_grad():
                return cut_of(library, way, stride, size), way
        except UserError as error:
            reasons.insert(0, str(error))
        except Exception as error:  # whatever a library raises for a size it was not made for
            reasons.append(one_line(error) or "it does not take them")
    return reasons[0]


def cut_of(library: Library, way: Way, stride: int, size: FrameSize) -> Cut:
    """Find the last map of the stride. Raises UserError if there is none."""
    model = library.build(**way).eval()
    outputs = library.layers(model, torch.zeros(FRAMES, 3, *size))
    known = library.strides(model)
    strides = {layer: known.get(layer) or stride_of(out, size) for layer, out in outputs.items()}
    strides = {layer: found for layer, found in strides.items() if found}
    fitting = [layer for layer in strides if strides[layer] == stride]
    if not fitting:
        has = sorted({str(found) for found in strides.values()}, key=int)
        raise UserError(f"it has no feature map of stride {stride}, but of {', '.join(has) or 'none'}")
    trunk = library.trunk(model, fitting[-1]).eval()
    with torch.enable_grad():
        out = map_of(trunk, size)
        out.sum().backward()
    unused = tuple(name for name, parameter in trunk.named_parameters() if parameter.grad is None)
    last = not known and layout(out, size) == "last"
    return Cut(fitting[-1], out.shape[3 if last else 1], last, size, step_of(trunk, size), unused)


def map_of(trunk: nn.Module, size: FrameSize) -> Tensor:
    """Return the map of a trunk for frames of a size."""
    out = trunk(torch.zeros(FRAMES, 3, *size))
    found: Tensor = out["map"] if isinstance(out, dict) else out
    return found


def layout(out: Tensor, size: FrameSize) -> str | None:
    """Tell whether the channels of a map come first or last; None if it is not a map of these frames."""
    if not isinstance(out, Tensor) or out.ndim != 4 or out.shape[0] != FRAMES:
        return None
    sides = {"first": out.shape[2:], "last": out.shape[1:3]}
    return next((place for place, cells in sides.items() if stride_between(size, cells)), None)


def stride_of(out: Tensor, size: FrameSize) -> int | None:
    """Return the pixels per position of a map; None if it is not one."""
    if layout(out, size) is None:
        return None
    return stride_between(size, out.shape[1:3] if layout(out, size) == "last" else out.shape[2:])


def stride_between(size: FrameSize, cells: Sequence[int]) -> int | None:
    """Return the stride between a frame and a map; None if the axes disagree or the map is a single position."""
    if min(cells) < 2:
        return None
    ratio = math.sqrt(size[0] * size[1] / (cells[0] * cells[1]))
    power = 2 ** round(math.log2(ratio))
    if all(abs(side / power - count) < 1 for side, count in zip(size, cells, strict=True)):
        return power
    whole = {side // count for side, count in zip(size, cells, strict=True)}  # unpadded: 13 positions of 224 pixels
    return whole.pop() if len(whole) == 1 else None


def step_of(trunk: nn.Module, size: FrameSize) -> int | None:
    """See `Cut.step`."""
    for step in STEPS:
        far = math.ceil(64 / step) * step
        try:
            for more in ((step, 3 * step), (far, 2 * far)):
                map_of(trunk, (size[0] + more[0], size[1] + more[1]))
        except Exception:  # as above
            continue
        return step
    return None
