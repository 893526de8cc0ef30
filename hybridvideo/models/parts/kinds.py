"""The kinds of blocks of a hybrid's stages.

A kind is a line in KINDS. It builds either mixers of positions, which `Block` places in residual branches before an
MLP, or a complete block of its own. All map a grid (B, T, H, W, C) to a grid. A new attention or convolution is one
class, in a file of this folder, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from torch import nn

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError, nearest
from hybridvideo.models.parts.attention_kinds import (
    auto,
    cheaper,
    cross,
    divided,
    joint,
    linear,
    sparse,
    spatial,
    temporal,
    window3d,
)
from hybridvideo.models.parts.blocks import Block, Branch, PathInTime, WithTime
from hybridvideo.models.parts.bottleneck import Bottleneck
from hybridvideo.models.parts.can import CanBlock
from hybridvideo.models.parts.choice import Choice
from hybridvideo.models.parts.conv_attention import CoatBlock, MaxViTBlock
from hybridvideo.models.parts.convolution import DepthwiseConv
from hybridvideo.models.parts.correlation import correlation
from hybridvideo.models.parts.levit import LevitBlock
from hybridvideo.models.parts.mbconv import MBConv
from hybridvideo.models.parts.mobilevit import InvertedResidual, MobileVit, Pointwise
from hybridvideo.models.parts.parallel import Parallel
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.speech_conformer import ConformerTimeBlock

Mixers = list[nn.Module]

# Settings of every stage, those of `Block`, and those that name the kinds inside a composed one.
ALWAYS = ("block", "depth", "dim", "merge", "time_stride", "pool", "tokens", "up", "temporal")
OF_ATTENTION = ("heads", "relative")
NO_SCORES = "linear attention computes no scores for it to be added to; use position: conv"
OF_CONV_ATTENTION = (*OF_ATTENTION, "mlp_ratio", "norm", "norm_eps", "activation", "dropout", "layer_scale", "form")
INSIDE = ("convolution", "attention")
OF_BLOCK = ("mlp_ratio", "position", "norm", "norm_eps", "norm_place", "activation", "dropout", "layer_scale")


@dataclass(frozen=True)
class Kind:
    """How a kind of block is built, and what it takes."""

    mixers: Callable[[Place], Mixers] | None = None
    """What `Block` applies in order, each in a residual branch."""
    block: Callable[[Place], nn.Module] | None = None
    """A complete block instead, with the residual connections in it."""
    reads: tuple[str, ...] = ()
    """The settings of StageConfig that have a meaning for it, apart from ALWAYS and, with mixers, OF_BLOCK."""
    needs_grid: bool = False
    """Whether it needs the rows and columns of frames: neither pooled frames nor learned or class tokens will do."""
    offsets_in_space: bool = False
    """Whether `relative` is about rows and columns too, which learned tokens do not have."""
    among_positions: bool = False
    """Whether it needs several positions in a frame, which may be learned tokens."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Settings of StageConfig that a user may expect to have a meaning here: what to do instead."""
    changes_width: bool = False
    """Whether its first block takes another number of channels than it returns."""
    timeless: str | None = None
    """The kind that is the same without any path between frames; null: itself."""

    @property
    def composed(self) -> bool:
        """Whether it contains the kinds that the stage's `convolution` and `attention` name, and has their settings."""
        return {*INSIDE} <= {*self.reads}


# --- mixers and blocks ------------------------------------------------------------------------------------------------


def one(mixer: Callable[[Place], nn.Module]) -> Callable[[Place], Mixers]:
    """A single mixer."""
    return lambda place: [mixer(place)]


def convolution(kernel: Grid) -> Callable[[Place], Mixers]:
    """A depthwise convolution, of this kernel unless the stage has another."""
    return lambda place: [DepthwiseConv(place.dim, place.kernel(kernel))]


def joined(join: Callable[[Place, nn.Module, nn.Module], nn.Module]) -> Callable[[Place], Mixers]:
    """The two kinds that the stage names, joined; or what the control has of the two."""

    def mixers(place: Place) -> Mixers:
        both = branches(place)
        return [join(place, *both)] if len(both) == 2 else both

    return mixers


def branches(place: Place) -> Mixers:
    """Build the kinds that the stage names; one with nothing left to do without time is missing."""
    made = [branch(place.inside(name)) for name in (place.stage.convolution, place.stage.attention)]
    return [module for module in made if module is not None]


def branch(place: Place) -> nn.Module | None:
    """Build a kind as a part of a residual branch: its first mixer, the others in residual branches behind it."""
    kind = KINDS[place.stage.block]
    if kind.block is not None:
        return kind.block(place)
    assert kind.mixers is not None
    mixers = kind.mixers(place)
    plain = replace(place, stage=replace(place.stage, layer_scale=None))
    behind = [Branch(plain, mixer) for mixer in mixers[1:]]
    return nn.Sequential(mixers[0], *behind) if behind else mixers[0] if mixers else None


def mobilevit(place: Place) -> nn.Module:
    """A Transformer of any attention that needs no more than `Block`."""
    allowed = [name for name, kind in KINDS.items() if kind.mixers is not None and not kind.composed]
    if place.stage.attention not in allowed:
        names = ", ".join(allowed)
        raise UserError(f"attention is {place.stage.attention!r} in a mobilevit block; give one of {names}")
    return MobileVit(place, make_block)


def conformer_time(place: Place) -> nn.Module:
    """Attention through time inside, or none without time."""
    return ConformerTimeBlock(place, [temporal(place.inside("temporal"))] if place.time else [])


# --- the kinds --------------------------------------------------------------------------------------------------------

KINDS: dict[str, Kind] = {
    # mixers in residual branches, then an MLP
    "conv": Kind(convolution((1, 5, 5)), reads=("kernel",), needs_grid=True),
    "conv3d": Kind(convolution((3, 3, 3)), reads=("kernel",), needs_grid=True),
    "spatial": Kind(one(spatial), reads=OF_ATTENTION, offsets_in_space=True, among_positions=True),
    "temporal": Kind(one(temporal), reads=OF_ATTENTION, timeless="mlp"),
    "divided": Kind(divided, reads=OF_ATTENTION, offsets_in_space=True, among_positions=True, timeless="spatial"),
    "joint": Kind(one(joint), reads=OF_ATTENTION, offsets_in_space=True, timeless="spatial"),
    "auto": Kind(auto, reads=OF_ATTENTION, offsets_in_space=True, timeless="spatial"),
    "window3d": Kind(one(window3d), reads=(*OF_ATTENTION, "window"), needs_grid=True),
    "linear": Kind(one(linear), reads=("heads", "features"), instead={"relative": NO_SCORES}),
    "sparse": Kind(one(sparse), reads=(*OF_ATTENTION, "window", "random_keys"), needs_grid=True),
    "cross": Kind(one(cross), reads=OF_ATTENTION, among_positions=True),
    "correlation": Kind(correlation, reads=("radius", "lags"), needs_grid=True, timeless="mlp"),
    "mlp": Kind(lambda _place: []),
    "parallel": Kind(joined(Parallel), reads=("gate", *INSIDE), needs_grid=True),
    "choice": Kind(joined(Choice), reads=("choice", *INSIDE), needs_grid=True),
    # complete blocks
    "can": Kind(block=CanBlock, reads=("kernel", "weigh", "heads", "layer_scale"), needs_grid=True),
    "conformer_time": Kind(block=conformer_time, reads=(*OF_ATTENTION, "kernel", "mlp_ratio", "activation", "dropout")),
    "levit": Kind(
        block=LevitBlock,
        reads=("heads", "stride", "mlp_ratio", "activation", "dropout", "key_dim", "value_ratio"),
        needs_grid=True,
        changes_width=True,
    ),
    "bottleneck": Kind(
        block=Bottleneck,
        reads=("attention", "heads", "stride", "kernel", "activation"),
        needs_grid=True,
        changes_width=True,
    ),
    "inverted": Kind(
        block=InvertedResidual,
        reads=("mlp_ratio", "stride", "kernel", "activation"),
        needs_grid=True,
        changes_width=True,
    ),
    "mobilevit": Kind(
        block=mobilevit,
        reads=("attention", "heads", "window", "kernel", "inner_dim", "inner_depth", *OF_BLOCK),
        needs_grid=True,
    ),
    "pointwise": Kind(block=Pointwise, reads=("activation",), changes_width=True),
    "mbconv": Kind(
        block=MBConv,
        reads=("stride", "kernel", "mlp_ratio", "form"),
        needs_grid=True,
        changes_width=True,
    ),
    "coat": Kind(
        block=CoatBlock, reads=("stride", "attention", *OF_CONV_ATTENTION), needs_grid=True, changes_width=True
    ),
    "maxvit": Kind(
        block=MaxViTBlock, reads=("stride", "kernel", "window", *OF_CONV_ATTENTION), needs_grid=True, changes_width=True
    ),
}


# --- a block of a place -----------------------------------------------------------------------------------------------


def make_block(place: Place) -> nn.Module:
    """Build the block of a place, whose settings were checked."""
    kind = KINDS[place.stage.block]
    if kind.block is not None:
        block = kind.block(place)
    else:
        assert kind.mixers is not None
        block = Block(place, kind.mixers(place))
    return block if place.stage.temporal == "none" else WithTime(block, PathInTime(place))


def built_kind(place: Place) -> str:
    """Return the kind of the block that `make_block` builds: the stage's, or the one that `auto` chooses."""
    return cheaper(place) if place.stage.block == "auto" else place.stage.block


def without_time(stage: StageConfig) -> StageConfig:
    """Return the same stage with every path between frames removed."""
    _, rows, columns = stage.window
    return replace(
        stage,
        block=timeless(stage.block),
        attention=timeless(stage.attention),
        convolution=timeless(stage.convolution),
        window=(1, rows, columns),
        gate=replace(stage.gate, per="frame"),
        temporal="none",
    )


def timeless(block: str) -> str:
    """Return the kind that is the same without a path between frames."""
    return KINDS[block].timeless or block if block in KINDS else block


# --- checks -----------------------------------------------------------------------------------------------------------


def check_stage(stage: StageConfig, where: str) -> None:
    """Raise UserError for a stage of an unknown kind, or with a setting that its kind does not have."""
    if stage.block not in KINDS:
        hint = nearest(stage.block, KINDS)
        raise UserError(f"{where}.block is {stage.block!r}{hint}; give one of {', '.join(KINDS)}")
    kind = KINDS[stage.block]
    reads = {*ALWAYS, *kind.reads, *(OF_BLOCK if kind.mixers is not None else ())}
    if kind.composed:
        reads.update(*({*inner_kind(stage, name, where).reads} - {"stride"} for name in INSIDE))
    if stage.temporal == "attention":
        reads.update(OF_ATTENTION)
    for name in (f.name for f in fields(stage)):
        if name not in reads and getattr(stage, name) != getattr(StageConfig(), name):
            settings = ", ".join(f.name for f in fields(stage) if f.name in reads)
            advice = kind.instead.get(name, f"they have {settings}")
            raise UserError(f"{where}.{name} has no meaning for {stage.block} blocks; {advice}")
    if not stage.mlp_ratio and "mlp_ratio" in kind.reads and "position" not in kind.reads:
        raise UserError(f"{where}.mlp_ratio is 0, and {stage.block} blocks have no other form; give a number above 0")
    if stage.kernel is not None and not all(side % 2 for side in stage.kernel):
        raise UserError(f"{where}.kernel is {stage.kernel}; give three odd numbers: frames, rows, columns")


def inner_kind(stage: StageConfig, name: str, where: str) -> Kind:
    """Return the kind inside a composed one; raise UserError for one that does not mix positions, or is composed."""
    allowed = [kind for kind, made in KINDS.items() if kind != "mlp" and not {*INSIDE} & {*made.reads}]
    wanted = getattr(stage, name)
    if wanted not in allowed:
        raise UserError(f"{where}.{name} is {wanted!r}{nearest(wanted, allowed)}; give one of {', '.join(allowed)}")
    return KINDS[wanted]
