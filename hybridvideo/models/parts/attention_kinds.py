"""The kinds of attention of a hybrid's blocks, each built for a place: the lines of kinds.KINDS call these."""

from __future__ import annotations

from torch import nn

from hybridvideo.models.parts.attention import JointAttention, SpatialAttention, TemporalAttention, WindowAttention3d
from hybridvideo.models.parts.cross import CrossAttention
from hybridvideo.models.parts.linear_attention import LinearAttention
from hybridvideo.models.parts.place import Grid, Place
from hybridvideo.models.parts.relative import RelativePosition, relative_position
from hybridvideo.models.parts.sparse import SparseAttention


def relative_to(place: Place, grid: Grid) -> RelativePosition | None:
    """The relative position of a stage's attention among the positions of a grid."""
    return relative_position(place.stage.relative, place.stage.heads, grid)


def spatial(place: Place) -> nn.Module:
    """Attention within each frame."""
    return SpatialAttention(place.dim, place.stage.heads, relative_to(place, place.frame))


def temporal(place: Place) -> nn.Module:
    """Attention of each position through the frames."""
    return TemporalAttention(place.dim, place.stage.heads, relative_to(place, place.instant))


def joint(place: Place) -> nn.Module:
    """Attention among all positions of all frames."""
    return JointAttention(place.dim, place.stage.heads, relative_to(place, place.grid))


def window3d(place: Place) -> nn.Module:
    """3-D windows; every second block is shifted."""
    stage, shifted = place.stage, place.index % 2 == 1
    return WindowAttention3d(place.dim, stage.heads, stage.window, shifted, by_mlp=stage.relative == "mlp")


def linear(place: Place) -> nn.Module:
    """Attention among all positions at a cost in proportion to their number."""
    return LinearAttention(place.dim, place.stage.heads, place.stage.features, place.index, not place.time)


def sparse(place: Place) -> nn.Module:
    """Local windows and random keys."""
    stage = place.stage
    relative = relative_to(place, place.grid if place.time else place.frame)
    keys = stage.random_keys, place.index
    return SparseAttention(place.dim, stage.heads, stage.window, *keys, relative, frames_apart=not place.time)


def cross(place: Place) -> nn.Module:
    """Attention of each position to the mean of each frame."""
    relative = relative_to(place, place.instant if place.time else (1, 1, 1))
    return CrossAttention(place.dim, place.stage.heads, relative, frames_apart=not place.time)


def divided(place: Place) -> list[nn.Module]:
    """Attention through time, then within each frame."""
    return [temporal(place), spatial(place)]


def auto(place: Place) -> list[nn.Module]:
    """Joint or divided attention."""
    return [joint(place)] if cheaper(place) == "joint" else divided(place)


def cheaper(place: Place) -> str:
    """Return joint or divided, whichever takes fewer multiply-adds on the standard grid."""
    T, H, W = place.grid
    N, S, C = T * H * W, H * W, place.dim
    joint = 4 * N * C**2 + 2 * N * N * C
    divided = 8 * N * C**2 + 2 * N * (T + S) * C
    return "joint" if joint <= divided else "divided"
