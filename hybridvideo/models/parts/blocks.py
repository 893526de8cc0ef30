"""The kinds of blocks of a hybrid's stages, and the block that most of them share.

A kind is a line in KINDS. It builds either mixers of positions, which `Block` places in residual branches before an
MLP, or a complete block of its own. All map a grid (B, T, H, W, C) to a grid. A new attention or convolution is one
class, in a file of this folder, and one line here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from timm.layers import DropPath
from torch import Tensor, nn

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError, nearest
from hybridvideo.models.parts.attention import JointAttention, SpatialAttention, TemporalAttention, WindowAttention3d
from hybridvideo.models.parts.bottleneck import Bottleneck
from hybridvideo.models.parts.conv_attention import CoatBlock, MaxViTBlock
from hybridvideo.models.parts.convolution import DepthwiseConv
from hybridvideo.models.parts.correlation import correlation
from hybridvideo.models.parts.levit import LevitBlock
from hybridvideo.models.parts.mbconv import MBConv
from hybridvideo.models.parts.mlp import Mlp
from hybridvideo.models.parts.mobilevit import InvertedResidual, MobileVit, Pointwise
from hybridvideo.models.parts.norms import NORMS, LayerScale
from hybridvideo.models.parts.place import Place
from hybridvideo.models.parts.positions import ConvPosition

Mixers = list[nn.Module]

# Settings of every stage, and those of `Block`.
ALWAYS = ("block", "depth", "dim", "merge", "time_stride", "pool", "tokens", "up", "temporal")
OF_CONV_ATTENTION = ("heads", "mlp_ratio", "norm", "norm_eps", "activation", "dropout", "layer_scale", "form")
OF_BLOCK = ("mlp_ratio", "position", "norm", "norm_place", "activation", "dropout", "layer_scale")


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
    changes_width: bool = False
    """Whether its first block takes another number of channels than it returns."""
    timeless: str | None = None
    """The kind that is the same without any path between frames; null: itself."""


# --- kinds that mix positions -----------------------------------------------------------------------------------------


def window3d(place: Place) -> Mixers:
    """3-D windows; every second block is shifted."""
    return [WindowAttention3d(place.dim, place.stage.heads, place.stage.window, shifted=place.index % 2 == 1)]


def divided(place: Place) -> Mixers:
    """Attention through time, then within each frame."""
    return [TemporalAttention(place.dim, place.stage.heads), SpatialAttention(place.dim, place.stage.heads)]


def mobilevit(place: Place) -> nn.Module:
    """A Transformer of any attention that needs no more than `Block`."""
    inner = KINDS.get(place.stage.attention)
    if inner is None or inner.mixers is None:
        names = ", ".join(name for name, kind in KINDS.items() if kind.mixers is not None)
        raise UserError(f"attention is {place.stage.attention!r} in a mobilevit block; give one of {names}")
    return MobileVit(place, make_block)


KINDS: dict[str, Kind] = {
    "conv": Kind(lambda place: [DepthwiseConv(place.dim, place.kernel((1, 5, 5)))], reads=("kernel",), needs_grid=True),
    "conv3d": Kind(
        lambda place: [DepthwiseConv(place.dim, place.kernel((3, 3, 3)))], reads=("kernel",), needs_grid=True
    ),
    "spatial": Kind(lambda place: [SpatialAttention(place.dim, place.stage.heads)], reads=("heads",)),
    "temporal": Kind(lambda place: [TemporalAttention(place.dim, place.stage.heads)], reads=("heads",), timeless="mlp"),
    "divided": Kind(divided, reads=("heads",), timeless="spatial"),
    "joint": Kind(lambda place: [JointAttention(place.dim, place.stage.heads)], reads=("heads",), timeless="spatial"),
    "window3d": Kind(window3d, reads=("heads", "window"), needs_grid=True),
    "correlation": Kind(correlation, reads=("radius", "lags"), needs_grid=True, timeless="mlp"),
    "mlp": Kind(lambda _place: []),
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
        reads=("stride", "kernel", "mlp_ratio", "activation", "form"),
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


# --- the block --------------------------------------------------------------------------------------------------------


class Branch(nn.Module):
    """A residual branch: x + drop_path(scale * dropout(f(norm(x)))), or norm(x + ...) as in the Transformer of 2017."""

    def __init__(self, place: Place, inner: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        stage = place.stage
        self.norm = NORMS[stage.norm](place.dim)
        self.inner = inner
        self.dropout = nn.Dropout(dropout)
        self.scale = nn.Identity() if stage.layer_scale is None else LayerScale(place.dim, stage.layer_scale)
        self.drop_path = DropPath(place.drop_path)
        self.norm_first = stage.norm_place == "pre"

    def forward(self, x: Tensor) -> Tensor:
        if self.norm_first:
            return x + self.drop_path(self.scale(self.dropout(self.inner(self.norm(x)))))
        out: Tensor = self.norm(x + self.drop_path(self.scale(self.dropout(self.inner(x)))))
        return out


class Block(nn.Module):
    """[Convolutional position,] a branch for each mixer, a branch with the MLP."""

    def __init__(self, place: Place, mixers: Sequence[nn.Module]) -> None:
        super().__init__()
        stage, dim = place.stage, place.dim
        kernel = (3, 3, 3) if place.time else (1, 3, 3)
        self.position = ConvPosition(dim, kernel) if stage.position == "conv" else nn.Identity()
        self.branches = nn.ModuleList(Branch(place, mixer, stage.dropout) for mixer in mixers)
        hidden = int(dim * stage.mlp_ratio)
        self.mlp = Branch(place, Mlp(dim, hidden, stage.dropout, stage.activation)) if hidden else nn.Identity()

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        x = self.position(x_BTHWC)
        for branch in self.branches:
            x = branch(x)
        out: Tensor = self.mlp(x)
        return out


class PathInTime(nn.Module):
    """x + mixer(norm(x)), a mixer through time: what a block of an image network lacks."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(place.dim)
        self.mixer = PATHS_IN_TIME[place.stage.temporal](place)
        self.drop_path = DropPath(place.drop_path)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = x_BTHWC + self.drop_path(self.mixer(self.norm(x_BTHWC)))
        return out


PATHS_IN_TIME: dict[str, Callable[[Place], nn.Module]] = {
    "attention": lambda place: TemporalAttention(place.dim, place.stage.heads),
    "conv": lambda place: DepthwiseConv(place.dim, (3, 1, 1)),
}


class WithTime(nn.Module):
    """A block, then a path in time."""

    def __init__(self, block: nn.Module, temporal: nn.Module) -> None:
        super().__init__()
        self.block, self.temporal = block, temporal

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        out: Tensor = self.temporal(self.block(x_BTHWC))
        return out


def make_block(place: Place) -> nn.Module:
    """Build the block of a place, whose settings were checked."""
    kind = KINDS[place.stage.block]
    if kind.block is not None:
        block = kind.block(place)
    else:
        assert kind.mixers is not None
        block = Block(place, kind.mixers(place))
    return block if place.stage.temporal == "none" else WithTime(block, PathInTime(place))


def without_time(stage: StageConfig) -> StageConfig:
    """Return the same stage with every path between frames removed."""
    _, rows, columns = stage.window
    return replace(
        stage,
        block=timeless(stage.block),
        attention=timeless(stage.attention),
        convolution=timeless(stage.convolution),
        window=(1, rows, columns),
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
    if stage.temporal == "attention":
        reads.add("heads")
    for field in fields(stage):
        if field.name not in reads and getattr(stage, field.name) != getattr(StageConfig(), field.name):
            settings = ", ".join(name for name in (f.name for f in fields(stage)) if name in reads)
            raise UserError(f"{where}.{field.name} has no meaning for {stage.block} blocks; they have {settings}")
    if stage.kernel is not None and not all(side % 2 for side in stage.kernel):
        raise UserError(f"{where}.kernel is {stage.kernel}; give three odd numbers: frames, rows, columns")
