"""The parts of a model as plain facts, for drawing: what runs in which order, its shapes, costs and joints.

All is read from the model itself, on `meta`: modules in the order in which they are called, multiply-adds of each as
counted by torch. A module that runs some of its children side by side names them in a class attribute `lanes`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from hybridvideo.models.contract import VideoModel, count_parameters
from hybridvideo.models.parts.shortcuts import literally
from hybridvideo.models.staged import StagedModel
from hybridvideo.models.towers import Towers
from hybridvideo.report.plots.network import Lanes, Link, Network, Part, Repeat, Step, Tile

MOST_IN_STEM = 4  # tiles; of a deeper stem only their number is drawn

# What a class name says about a module, the first that fits.
NAMES: tuple[tuple[str, str, str], ...] = (
    ("ConvPosition|DPE|ConditionalPosition", "conv", "position"),
    ("PatchMerging", "grid", "merge 2x2"),
    ("TimePool", "grid", "average frames"),
    ("SpacePool", "grid", "average positions"),
    ("Tokeniser", "grid", "learned tokens"),
    ("PoolHead", "grid", "pool, classify"),
    ("Fusion", "gate", "fuse"),
    ("Align", "grid", "align"),
    ("TwoHeads", "grid", "two classifiers"),
    ("Pyramid", "gate", "pyramid of scales"),
    ("Gate", "gate", "gate"),
    ("SqueezeExcite|SEModule|ChannelWeights", "gate", "weigh channels"),
    ("PositionWeights", "gate", "weigh positions"),
    ("ToTokens", "gate", "to tokens"),
    ("ToConvolution", "gate", "to convolution"),
    (".*(Correlation|Volume|MotionStream).*", "time", "correlation"),
    (".*Temporal.*Attention.*", "time", "attention in time"),
    ("SpatialAttention", "attention", "attention in space"),
    ("ShiftedHeads", "attention", "attention, some heads to other frames"),
    ("AimAttention", "attention", "attention in time, in space"),
    ("MaskedAttention", "attention", "self-attention"),
    ("CrossAttention", "attention", "cross-attention"),
    (".*Attention.*|.*Attending", "attention", ""),
    (".*(Mlp|MLP|FeedForward)", "mlp", "MLP"),
)


# Class name -> the children that it runs side by side (of a list, each), how they are joined, whether they are coupled.
LANES: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "Parallel": (("convolution", "attention"), "gate", False),
    "Choice": (("paths",), "or", False),
    "CanBlock": (("conv", "weights"), "x", False),
    "CoupledBlock": (("conv", "attention"), "both", True),
    "MultiPathWayWithFuse": (("multipathway_blocks",), "fast to slow", False),
}


class Trace(NamedTuple):
    """A forward pass."""

    calls: dict[int, int]
    """When each module was first called, by its id."""
    callers: dict[int, int]
    """The module, by its id, in whose call that was."""
    macs: dict[str, float]
    """GMACs of each module by its name; "" is the whole."""


def network_of(name: str, model: VideoModel) -> Network:
    """Return everything that is drawn of a model, whose weights are on `meta`."""
    model.eval()
    x = torch.zeros(1, *model.input_shape, device="meta")
    trace = traced(model, x)
    with torch.no_grad(), literally():
        grids = model.forward_intermediates(x, model.stage_names)
    shapes = dict(zip(model.stage_names, (tuple(grid.shape[1:]) for grid in grids), strict=True))
    members = members_of(model)
    place = {id(inner): part for part, modules in members.items() for module in modules for inner in module.modules()}
    shares, numbers = shares_of(model, trace, place), parameters_of(model, trace, place)
    parts: list[Part] = []
    for part, modules in members.items():
        steps = stem_steps(owner_of(model, part), modules, trace.calls) if part.endswith("stem") else ()
        steps = steps or in_order(modules, trace.calls) or (Tile("grid", "pool, classify"),)
        begins = bool(parts) and part.endswith("stem")
        shape = None if part == "head" else shapes.get(part)
        parts.append(Part(part, shape, shares.get(part, 0.0), numbers.get(part, 0), steps, begins))
    return Network(name, model.input_shape, tuple(parts), links_of(model), trace.macs[""], count_parameters(model))


def traced(model: nn.Module, x: torch.Tensor) -> Trace:
    """Run the model and watch."""
    calls: dict[int, int] = {}
    callers: dict[int, int] = {}
    running: list[int] = []

    def begin(called: nn.Module, _inputs: object) -> None:
        if id(called) not in calls:
            calls[id(called)] = len(calls)
            callers[id(called)] = running[-1] if running else 0
        running.append(id(called))

    def end(_called: nn.Module, _inputs: object, _outputs: object) -> None:
        running.pop()

    with ExitStack() as stack:
        for module in model.modules():
            stack.callback(module.register_forward_pre_hook(begin).remove)
            stack.callback(module.register_forward_hook(end).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(literally())
        counter = stack.enter_context(FlopCounterMode(display=False))
        model(x)
    root = f"{type(model).__name__}."
    counts = {name.removeprefix(root): sum(flops.values()) / 2e9 for name, flops in counter.get_flop_counts().items()}
    return Trace(calls, callers, {**counts, "": counter.get_total_flops() / 2e9})


def members_of(model: VideoModel) -> dict[str, list[nn.Module]]:
    """Return the modules of stem, stages and head, by their names; of towers those of each, then the head of both."""
    if isinstance(model, Towers):
        parts: dict[str, list[nn.Module]] = {}
        for name, each in model.towers:
            inside = members_of(each)
            parts |= {f"{name}.{part}": modules for part, modules in inside.items() if part != "head"}
        return {**parts, "head": [model.norm, model.align, model.fusion, model.classifier]}
    assert isinstance(model, StagedModel)
    own = [part for part in model.stem_parts() if isinstance(part, nn.Module)]
    before = [module for name in ("input", "project", "position") if (module := getattr(model, name, None)) is not None]
    stages = {stage.name: [*stage.before, *stage.blocks] for stage in model.stage_list()}
    return {
        "stem": [*own, *(module for module in before if module not in own)],
        **stages,
        "head": [*model.head_parts()],
    }


def owner_of(model: VideoModel, part: str) -> VideoModel:
    """Return the network that a part belongs to: the model, or one of its towers."""
    name, dot, _ = part.partition(".")
    return dict(model.towers)[name] if dot and isinstance(model, Towers) else model


def stem_steps(model: Any, modules: Sequence[nn.Module], calls: dict[int, int]) -> tuple[Step, ...]:
    """Return the input, if it is more than the frames, and the stem: by its name, or by what is in it."""
    config = model.config
    mode = getattr(getattr(config, "input", None), "mode", "rgb")
    seen = () if mode == "rgb" else (Tile("time", f"input: {mode.replace('_', ' ')}"),)
    if (stem := getattr(config, "stem", None)) is not None:
        return (*seen, stem_tile(stem.name.rpartition("/")[2], model.stem.strides))
    inside = in_order(modules, calls)
    if len(list(tiles(inside))) > MOST_IN_STEM:
        return (Tile("conv", f"{len(list(tiles(inside)))} convolutions"),)
    return inside or (Tile("conv", "patches"),)


def stem_tile(name: str, strides: tuple[int, int, int]) -> Tile:
    """Return the tile of a hybrid's stem."""
    frames, rows, columns = strides
    if name == "patch":
        return Tile("conv", f"patches of {frames}x{rows}x{columns}")
    network = {"small": "small CNN", "coatnet": "two convolutions"}.get(name, name)
    return Tile("conv", f"{network} to stride {rows}, each frame")


# --- what belongs to which part ---------------------------------------------------------------------------------------


def shares_of(model: nn.Module, trace: Trace, place: dict[int, str]) -> dict[str, float]:
    """Return the GMACs of each part. What no part names belongs to the part that was called last before it."""
    shares = dict.fromkeys(place.values(), 0.0)
    names = {id(module): name for name, module in model.named_modules()}
    holders = holders_of(model, place)
    counted = set[int]()
    for module in trace.calls:  # in the order of the calls, so callers come first
        if module in holders or trace.macs.get(names[module], 0.0) == 0.0:
            continue
        if trace.callers[module] not in counted:
            shares[place.get(module) or part_before(trace.calls[module], trace, place)] += trace.macs[names[module]]
        counted.add(module)
    return shares


def holders_of(model: nn.Module, place: dict[int, str]) -> set[int]:
    """Return the modules that belong to no part themselves and contain some that do: these are counted instead."""
    outside = (module for module in model.modules() if id(module) not in place)
    return {id(module) for module in outside if any(id(inner) in place for inner in module.modules())}


def part_before(call: int, trace: Trace, place: dict[int, str]) -> str:
    """Return the part that was called last before a call; the stem if none."""
    before = [(when, place[module]) for module, when in trace.calls.items() if module in place and when <= call]
    return max(before)[1] if before else "stem"


def parameters_of(model: nn.Module, trace: Trace, place: dict[int, str]) -> dict[str, int]:
    """Return the number of parameters of each part."""
    numbers, seen = dict.fromkeys(place.values(), 0), set[int]()
    for module in model.modules():
        called = trace.calls.get(id(module))
        part = place.get(id(module)) or ("stem" if called in (None, 0) else part_before(called, trace, place))
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                numbers[part] += parameter.numel()
    return numbers


def links_of(model: Any) -> tuple[Link, ...]:
    """Return what jumps over stages: skips of a U-Net, the levels of a pyramid, the first of two towers."""
    if isinstance(model, Towers):
        name, first = model.towers[0]
        return (Link(f"{name}.{first.stage_names[-1]}", "head"),)
    stages = getattr(getattr(model, "config", None), "stages", ())
    skips = [Link(up, f"stage{i + 1}") for i, stage in enumerate(stages) if (up := getattr(stage, "up", None))]
    pyramid = getattr(model, "pyramid", None)
    return (*skips, *(Link(level, "head") for level in getattr(pyramid, "levels", ())))


# --- what happens in a part -------------------------------------------------------------------------------------------


def in_order(modules: Sequence[nn.Module], calls: dict[int, int]) -> tuple[Step, ...]:
    """Return the steps of modules in the order of their calls; the same ones in a row as one that repeats."""
    called = [module for module in modules if first_call(module, calls) >= 0] or modules  # none: a path not taken
    return merged([steps_of(module, calls) for module in sorted(called, key=lambda each: first_call(each, calls))])


def merged(steps: Sequence[tuple[Step, ...]]) -> tuple[Step, ...]:
    """Chain steps; those of a block that are repeated become a `Repeat`."""
    out: list[Step] = []
    for own, group in groupby(step for step in steps if step):
        times = len(list(group))
        out += own if times == 1 else [Repeat(own, times)]
    return tuple(out)


def first_call(module: nn.Module, calls: dict[int, int]) -> int:
    """When a module, or the first of its children, was called; -1: never."""
    when = [calls[id(inner)] for inner in module.modules() if id(inner) in calls]
    return min(when, default=-1)


def steps_of(module: nn.Module, calls: dict[int, int]) -> tuple[Step, ...]:
    """Return what a module does, as tiles: itself if its name is known, else what is in it."""
    if type(module).__name__ in LANES:
        return side_by_side(module, calls)
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return convolution(module)
    kind, label = known_as(type(module).__name__)
    inner = (known_as(type(each).__name__)[0] for each in list(module.modules())[1:])
    if label or (kind and kind not in inner):
        return (Tile(kind, label or words(type(module).__name__)),)
    return in_order(list(module.children()), calls)


def side_by_side(module: nn.Module, calls: dict[int, int]) -> tuple[Step, ...]:
    """Return children that run side by side as lanes; those before and after them are chained to them."""
    names, joint, coupled = LANES[type(module).__name__]
    paths: list[nn.Module] = []
    for path in (getattr(module, name) for name in names):
        paths += path if len(names) == 1 else [path]
    drawn = Lanes(tuple(in_order([path], calls) for path in paths), joint, coupled)
    first = min(first_call(path, calls) for path in paths)
    inside = {id(inner) for path in paths for inner in path.modules()}
    others = [child for child in module.children() if not inside & {id(inner) for inner in child.modules()}]
    if coupled or joint in ("gate", "x"):  # what joins the lanes is in the joint's name
        others = [child for child in others if not all(each.kind == "gate" for each in tiles(steps_of(child, calls)))]
    before = [child for child in others if first_call(child, calls) < first]
    after = [child for child in others if first_call(child, calls) > first]
    return (*in_order(before, calls), drawn, *in_order(after, calls))


def convolution(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[Step, ...]:
    """Return the tile of a convolution; pointwise ones are not drawn."""
    kernel = tuple(int(side) for side in layer.kernel_size)
    if max(kernel) == 1:
        return ()
    depthwise = "depthwise" if layer.groups == layer.in_channels > 1 else "conv"
    through_time = len(kernel) == 3 and kernel[0] > 1 and max(kernel[1:]) == 1
    size = "x".join(map(str, kernel))
    return (Tile("time" if through_time else "conv", f"{depthwise} {size}"),)


def known_as(name: str) -> tuple[str, str]:
    """Return the kind and the label of a class by its name; a label "" is for what may contain the same kind."""
    for pattern, kind, label in NAMES:
        if re.fullmatch(pattern, name):
            return kind, label
    return "", ""


def words(name: str) -> str:
    """`WindowAttention3d` -> `window attention`."""
    return " ".join(re.findall(r"[A-Z][a-z]+", name)).lower()


def tiles(steps: Sequence[Step]) -> Iterator[Tile]:
    """Yield all tiles, those in lanes and repetitions too."""
    for step in steps:
        if isinstance(step, Tile):
            yield step
        elif isinstance(step, Repeat):
            yield from tiles(step.steps)
        else:
            for lane in step.lanes:
                yield from tiles(lane)
