"""All models, under one contract (`contract.VideoModel`)."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

from hybridvideo.errors import UserError, nearest
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.hybrid import HYBRIDS

# name -> builder(num_classes, **changes): the whole registry
MODELS: dict[str, Callable[..., VideoModel]] = {**HYBRIDS}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, such as "hybrid_*"."""
    return [name for name in MODELS if fnmatch(name, pattern)]


def create_model(name: str, num_classes: int = 400, **changes: Any) -> VideoModel:
    """A model by name, with fresh weights unless `changes` name some.

    Args:
        name: one of `list_models()`.
        num_classes: classes of the last layer, 1 or more.
        changes: settings that differ from the named variant; for hybrids the fields of `HybridConfig`
            (nested parts as mappings are merged into the variant's), such as `drop_path=0.2` or `time=False`.

    Raises:
        UserError: for an unknown name or setting, naming the nearest.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r}{nearest(name, MODELS)}; `hybridvideo models` lists them")
    if num_classes < 1:
        raise UserError(f"num_classes is {num_classes}; give 1 or more")
    return MODELS[name](num_classes, **changes)
