"""Checks of clips, settings and sizes before memory is allocated. All raise UserError."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hybridvideo.errors import UserError
from hybridvideo.parsing import check_plain, plain

LAYOUT = "float (B, 3, T, H, W): clips, colours, frames, rows, columns"


def check_clip(x_BCTHW: Tensor, input_shape: tuple[int, int, int, int], least_side: int = 1) -> None:
    """Raise UserError unless `x_BCTHW` is a batch of float clips of this model's channels with large enough frames.

    A clip of three frames with swapped axes looks like a correct one.
    """
    if not isinstance(x_BCTHW, Tensor):
        raise UserError(f"the clip is a {type(x_BCTHW).__name__}; give a tensor, {LAYOUT}")
    shape, channels = x_BCTHW.shape, input_shape[0]
    if len(shape) != 5 or shape[1] != channels:
        raise UserError(f"the clip is {tuple(shape)}; give {LAYOUT}{way_there(tuple(shape), channels)}")
    if not x_BCTHW.is_floating_point():
        kind = str(x_BCTHW.dtype).removeprefix("torch.")
        raise UserError(f"the clip is {kind} {tuple(shape)}; give {LAYOUT}, normalised: (x / 255 - mean) / std")
    if shape[0] == 0 or shape[2] == 0 or shape[3] < least_side or shape[4] < least_side:
        raise UserError(
            f"the clip is {tuple(shape)}; give {LAYOUT}, "
            f"1 or more clips of 1 or more frames of {least_side}x{least_side} or more"
        )


def way_there(shape: tuple[int, ...], channels: int) -> str:
    """Suggest the call that turns a likely wrong layout into the right one."""
    if len(shape) == 5 and shape[2] == channels:
        return "; x.transpose(1, 2) makes it of (B, T, 3, H, W)"
    if len(shape) == 5 and shape[4] == channels:
        return "; x.permute(0, 4, 1, 2, 3) makes it of (B, T, H, W, 3)"
    if len(shape) == 4 and shape[0] == channels:
        return "; x[None] makes it of one clip (3, T, H, W)"
    if len(shape) == 4 and shape[1] == channels:
        return "; x.transpose(0, 1)[None] makes it of the frames (T, 3, H, W) of one clip"
    return ""


# --- settings ---------------------------------------------------------------------------------------------------------


class Range(NamedTuple):
    """The numbers that a setting may take, ends included unless `above` or `below`."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return False
        return (
            self.low <= value <= self.high
            and not (self.above and value == self.low)
            and not (self.below and value == self.high)
        )

    def __str__(self) -> str:
        first, last = "above" if self.above else "from", "to under" if self.below else "to"
        return f"a number {first} {self.low:g} {last} {self.high:g}"


SIDE = Range(1, 2**14)
COUNT = Range(1, 1024)
WIDTH = Range(1, 2**16)
SHARE = Range(0, 1, below=True)
FACTOR = Range(0, 64, above=True)

# Name of a field -> range of its numbers, in every config of a model; in a tuple, of each number. Ten times wider than
# anything published; what the numbers amount to together is for `check_size`.
RANGES: dict[str, Range] = {
    "frames": SIDE,
    "height": SIDE,
    "width": SIDE,
    "patch": SIDE,
    "window": Range(1, 512),
    "depth": COUNT,
    "depths": COUNT,
    "heads": COUNT,
    "alpha": COUNT,
    "encoder_depth": Range(0, 1024),
    "decoder_depth": COUNT,
    "decoder_heads": COUNT,
    "fusion": Range(1, 255),
    "dim": WIDTH,
    "dims": WIDTH,
    "head_dim": WIDTH,
    "key_dim": WIDTH,
    "value_ratio": FACTOR,
    "inner_dim": WIDTH,
    "inner_depth": COUNT,
    "repeat": Range(1, 16),
    "decoder_dim": WIDTH,
    "memory_dim": WIDTH,
    "scales_dim": WIDTH,
    "queries": Range(1, 4096),
    "widths": WIDTH,
    "channels": WIDTH,
    "hidden": Range(0, 2**16),
    "mlp_ratio": Range(0, 64),
    "width_factor": FACTOR,
    "depth_factor": FACTOR,
    "drop_path": SHARE,
    "dropout": SHARE,
    "stride": Range(1, 1024),
    "time_stride": Range(1, 64),
    "tokens": Range(0, 4096),
    "registers": Range(0, 256),
    "random_keys": Range(0, 4096),
    "features": Range(0, 4096),
    "kernel": Range(1, 127),
    "layer_scale": Range(0, 64),
    "radius": Range(0, 16),
    "lags": Range(-256, 256),
    "box": Range(1, 127),
    "scales": Range(1, 64),
    "norm_eps": Range(0, 1, above=True),
    "batch_eps": Range(0, 1, above=True),
    "squeeze": Range(0, 1),
    "value": Range(0, 1),
    "temperature": Range(0, 64, above=True),
    "cost": Range(0, 1e3),
    "version": Range(1, 2),
    "gain": Range(-1e6, 1e6),
    "limit": Range(0, 1e6, above=True),
    "power": Range(0, 16, above=True),
    "mean": Range(-1e3, 1e3),
    "std": Range(0, 1e3, above=True),
}
MOST_ENTRIES = 32  # of a list: stages, their depths, the stem's widths
MOST_BLOCKS = 1024  # of all stages


def check_lengths(changes: Any) -> None:
    """Raise UserError for anything but plain data, and for a list, at any depth, too long to be intended."""
    try:
        values = plain(changes)
    except RecursionError:
        raise UserError("the settings are nested too deeply; give those of the model's config") from None
    check_plain(values)
    check_entries(values, "settings")


def check_entries(changes: Any, where: str) -> None:
    """Raise UserError for a list of more than MOST_ENTRIES, which would take long to parse."""
    if isinstance(changes, Mapping):
        for name, value in changes.items():
            check_entries(value, str(name))
    elif isinstance(changes, list | tuple):
        if len(changes) > MOST_ENTRIES:
            raise UserError(f"{where} has {len(changes)} entries; give {MOST_ENTRIES} or fewer")
        for value in changes:
            check_entries(value, where)


def check_settings(config: Any, where: str = "") -> None:
    """Raise UserError for the first number of a config, at any depth, outside its range."""
    for field in fields(config):
        value, place = getattr(config, field.name), f"{where}{field.name}"
        items = value if isinstance(value, tuple | list) else [value]
        if not items and field.name in RANGES:
            raise UserError(f"{place} is empty; give one or more, each {RANGES[field.name]}")
        for i, item in enumerate(items):
            if is_dataclass(item):
                check_settings(item, f"{place}[{i}]." if items is value else f"{place}.")
            elif isinstance(item, int | float) and not isinstance(item, bool) and item not in RANGES[field.name]:
                raise UserError(f"{place} is {value}; give {RANGES[field.name]}")
    blocks = sum(blocks_in(config))
    if not where and blocks > MOST_BLOCKS:
        raise UserError(f"{blocks} blocks in all; give {MOST_BLOCKS} or fewer")


def blocks_in(config: Any) -> Iterator[int]:
    """Yield the number of blocks of each stage of a config."""
    yield from getattr(config, "depths", ())
    for stage in getattr(config, "stages", ()):
        yield stage.depth * (stage.inner_depth if stage.block == "mobilevit" else 1)
    for name in ("encoder_depth", "decoder_depth"):
        yield getattr(config, name, 0)
    for name in ("conv", "attention"):
        if is_dataclass(tower := getattr(config, name, None)):
            yield from blocks_in(tower)


def check_heads(dim: int, heads: int) -> None:
    """Raise UserError unless the channels divide into heads."""
    if heads < 1 or dim < 1 or dim % heads:
        raise UserError(f"{dim} channels do not divide into {heads} heads; change heads or channels")


def check_classes(num_classes: int) -> None:
    """Raise UserError for a number of classes that no classifier can have."""
    if not isinstance(num_classes, int) or num_classes not in Range(1, 2**24):
        raise UserError(f"num_classes is {num_classes}; give 1 to {2**24}")


# --- sizes ------------------------------------------------------------------------------------------------------------

MOST_NUMBERS = 4 * 10**9  # 16 GB in fp32; the largest network here has 0.6 of a billion


class NumbersOnCpu(TorchFunctionMode):
    """Keep `linspace` and `others` on the CPU while a model is built on `meta`: libraries read numbers from them."""

    def __init__(self, *others: Callable[..., Tensor]) -> None:
        super().__init__()
        self.functions = (torch.linspace, *others)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in self.functions:
            kwargs.setdefault("device", "cpu")
        return func(*args, **kwargs)


def check_size(build: Callable[[], nn.Module]) -> None:
    """Raise UserError if the network is too large to be intended; it is built on `meta` to find out."""
    try:
        with torch.device("meta"), NumbersOnCpu():
            model = build()
        numbers = sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    except (RuntimeError, TypeError) as error:
        if "overflow" not in str(error).lower():  # of a size beyond 64 bits
            raise
        numbers = 2**63
    if numbers > MOST_NUMBERS:
        raise UserError(
            f"these settings make a network of {numbers / 1e9:,.1f} billion parameters, and at most "
            f"{MOST_NUMBERS / 1e9:g} are allowed; make it narrower or shallower, or its input or windows smaller"
        )
