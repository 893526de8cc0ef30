"""Build a model from the name and settings in a file or an option, which may contain anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybridvideo.errors import UserError
from hybridvideo.models import create_model
from hybridvideo.models.contract import VideoModel
from hybridvideo.text import one_line, shown

# What networks and the libraries they are built from raise for sizes and values that make no sense.
NONSENSE = (
    ArithmeticError,
    AssertionError,
    LookupError,
    MemoryError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


def build_from_settings(name: str, num_classes: int, settings: Mapping[str, Any], where: str) -> VideoModel:
    """Call `create_model`; whatever goes wrong becomes a UserError that begins with `where`."""
    try:
        return create_model(name, num_classes, **settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except NONSENSE as error:
        reason = shown(one_line(error))[:200] or type(error).__name__
        raise UserError(f"{where}: {name} cannot be built with these settings ({reason}); correct them") from error
