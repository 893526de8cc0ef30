"""A model as a file or an option describes it, where any name and any settings may stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.text import one_line, shown

# What networks, and the libraries they are made of, raise at sizes and values that nobody has meant.
UNMEANT = (
    ArithmeticError, AssertionError, LookupError, MemoryError, RecursionError, RuntimeError, TypeError, ValueError
)  # fmt: skip


def build_from_settings(name: str, num_classes: int, settings: Mapping[str, Any], where: str) -> VideoModel:
    """`create_model`, and UserError, which begins with `where`, for whatever goes wrong on the way."""
    try:
        return create_model(name, num_classes, **settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except UNMEANT as error:
        reason = shown(one_line(error))[:200] or type(error).__name__
        raise UserError(f"{where}: no {name} can be made with these settings ({reason}); correct them") from error
