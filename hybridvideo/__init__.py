"""Video understanding with spatiotemporal CNN-Transformer hybrids.

    import hybridvideo as hv
    model = hv.load_model("runs/demo/hybrid")
    for row in hv.classify(model, ["a.mp4", "b.mp4"]): ...

Names are imported when first used: `import hybridvideo` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridvideo.data.api import dataset, loader
    from hybridvideo.data.decode import Clip, VideoReader
    from hybridvideo.data.manifest import kinetics400_labels
    from hybridvideo.engine.inference.rows import classify, extract
    from hybridvideo.models import create_model, list_models
    from hybridvideo.weights.load_model import load_model
    from hybridvideo.weights.load_weights import load_weights

PUBLIC = {
    "Clip": "hybridvideo.data.decode",
    "VideoReader": "hybridvideo.data.decode",
    "classify": "hybridvideo.engine.inference.rows",
    "create_model": "hybridvideo.models",
    "dataset": "hybridvideo.data.api",
    "extract": "hybridvideo.engine.inference.rows",
    "kinetics400_labels": "hybridvideo.data.manifest",
    "list_models": "hybridvideo.models",
    "load_model": "hybridvideo.weights.load_model",
    "load_weights": "hybridvideo.weights.load_weights",
    "loader": "hybridvideo.data.api",
}

__all__ = [
    "Clip",
    "VideoReader",
    "classify",
    "create_model",
    "dataset",
    "extract",
    "kinetics400_labels",
    "list_models",
    "load_model",
    "load_weights",
    "loader",
]


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'hybridvideo' has no attribute {name!r}")
    return getattr(importlib.import_module(PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
