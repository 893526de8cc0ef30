"""What the positions of a stage's grid are, and which kinds of blocks have a use for them.

of frames    rows and columns, as the stem leaves them
whole        one vector for each frame, after `pool: space`
tokens       learned ones, which have a frame but no place in it
"""

from __future__ import annotations

from typing import Literal

from hybridvideo.config.model import StageConfig
from hybridvideo.errors import UserError
from hybridvideo.models.parts.kinds import KINDS

Positions = Literal["of frames", "whole", "tokens"]


def check_positions(stage: StageConfig, before: Positions, where: str) -> Positions:
    """Return what the positions are in a stage's blocks. Raises UserError if the stage has no use for them."""
    check_change(stage, before, where)
    positions = positions_after(stage, before)
    kind = KINDS[stage.block]
    if positions != "of frames" and (kind.needs_grid or stage.stride > 1):
        raise UserError(f"{where}: {stage.block} needs the rows and columns of frames, which are pooled before it")
    if positions == "whole" and kind.among_positions:
        raise UserError(f"{where}: {stage.block} attends within frames, each of which is one vector; use temporal")
    if positions == "tokens" and stage.position == "conv":
        raise UserError(f"{where}.position is conv, and learned tokens have no neighbours; use none")
    if positions == "tokens" and stage.relative != "none" and kind.offsets_in_space:
        raise UserError(f"{where}.relative is {stage.relative}, and learned tokens have no rows and columns; use none")
    return positions


def check_change(stage: StageConfig, before: Positions, where: str) -> None:
    """Raise UserError for a change of the grid that would change nothing, or what is no longer there."""
    if stage.merge and before != "of frames":
        raise UserError(f"{where}.merge needs the rows and columns of frames, which are pooled before it")
    if stage.pool == "space" and before == "whole":
        raise UserError(f"{where}.pool is space, and each frame is one vector already; leave it out")
    if stage.tokens and (before == "whole" or stage.pool == "space"):
        raise UserError(f"{where}.tokens is {stage.tokens}, and each frame is one vector; leave out pool or tokens")


def positions_after(stage: StageConfig, before: Positions) -> Positions:
    """Return what the positions are once a stage has changed the grid."""
    if stage.tokens:
        return "tokens"
    return "whole" if stage.pool == "space" else before


def moves_tokens(stage: StageConfig) -> str | None:
    """Return which setting of a stage needs the rows and columns of frames; None if it takes class tokens."""
    kind = KINDS[stage.block]
    inside = [name for name in ("attention", "convolution") if name in kind.reads]
    if kind.needs_grid or any(KINDS[name].needs_grid for i in inside if (name := getattr(stage, i)) in KINDS):
        return f"{stage.block} blocks need rows and columns"
    settings = {
        "merge": stage.merge,
        "stride 2": stage.stride > 1,
        "pool space": stage.pool == "space",
        "tokens": stage.tokens > 0,
        "position conv": stage.position == "conv",
        "relative position": stage.relative != "none",
    }
    return next((f"{name} needs rows and columns" for name, wanted in settings.items() if wanted), None)
