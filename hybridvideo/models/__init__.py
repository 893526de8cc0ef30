"""All models, under one contract (`contract.VideoModel`)."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatch
from typing import Any

import torch

from hybridvideo.errors import UserError, nearest
from hybridvideo.models.baselines.pytorchvideo import PYTORCHVIDEO
from hybridvideo.models.baselines.torchvision import TORCHVISION_VIDEO
from hybridvideo.models.checks import check_classes
from hybridvideo.models.contract import VideoModel
from hybridvideo.models.families import FAMILIES
from hybridvideo.models.published.timesformer import TIMESFORMERS
from hybridvideo.models.published.uniformer import UNIFORMERS
from hybridvideo.models.published.video_swin import VIDEO_SWINS
from hybridvideo.models.published.videomae import VIDEOMAES
from hybridvideo.models.published.videomae_pretraining import PRETRAINING, VideoMAEPretraining

# name -> builder(num_classes, **changes): the whole registry
MODELS: dict[str, Callable[..., VideoModel]] = {
    **FAMILIES,
    **TIMESFORMERS,
    **UNIFORMERS,
    **VIDEO_SWINS,
    **VIDEOMAES,
    **PYTORCHVIDEO,
    **TORCHVISION_VIDEO,
}


def list_models(pattern: str = "*") -> list[str]:
    """Names of the models that match a shell pattern, such as "hybrid_*"."""
    return [name for name in MODELS if fnmatch(name, pattern)]


def create_model(name: str, num_classes: int = 400, **changes: Any) -> VideoModel:
    """A model by name, with fresh weights unless `changes` name some.

    Args:
        name: one of `list_models()`.
        num_classes: classes of the last layer, 1 or more.
        changes: settings that differ from the named variant, the fields of its config (for hybrids `HybridConfig`,
            nested parts as mappings are merged into the variant's), such as `drop_path=0.2` or `time=False`. Every
            model takes `num_frames=T`, `image_size=S` or `(H, W)`, and `grad_checkpointing=True`.

    Raises:
        UserError: for an unknown name or setting, naming the nearest; for a value out of its range; for a network
            that is too large to be meant. All before memory is taken.
    """
    if name not in MODELS:
        raise UserError(f"no model {name!r}{nearest(name, MODELS)}; `hybridvideo models` lists them")
    check_classes(num_classes)
    grad_checkpointing = pop_checkpointing(changes)
    with torch.inference_mode(False):  # whatever the caller is in, the model may be trained later
        model = MODELS[name](num_classes, **input_size(changes))
    model.name = name
    model.set_grad_checkpointing(grad_checkpointing)
    return model


def create_pretraining(name: str, **changes: Any) -> VideoMAEPretraining:
    """A masked autoencoder by the name of the model it pretrains, with fresh weights.

    Args:
        name: one of PRETRAINING.
        changes: as for `create_model`: fields of its config, `num_frames`, `image_size`, `grad_checkpointing`.

    Raises:
        UserError: for an unknown name or setting, naming the nearest.
    """
    if name not in PRETRAINING:
        raise UserError(f"no pretraining of {name!r}{nearest(name, PRETRAINING)}; give one of {', '.join(PRETRAINING)}")
    grad_checkpointing = pop_checkpointing(changes)
    with torch.inference_mode(False):
        model = PRETRAINING[name](**input_size(changes))
    model.set_grad_checkpointing(grad_checkpointing)
    return model


def pop_checkpointing(changes: dict[str, Any]) -> bool:
    """What `changes` say of it, which is no field of a config."""
    wanted = changes.pop("grad_checkpointing", False)
    if not isinstance(wanted, bool):
        raise UserError(f"grad_checkpointing is {wanted!r}; give true or false")
    return wanted


def input_size(changes: dict[str, Any]) -> dict[str, Any]:
    """`num_frames` and `image_size` under the names that configs have: frames, height, width."""
    changes = dict(changes)
    if "num_frames" in changes:
        changes["frames"] = changes.pop("num_frames")
    if "image_size" in changes:
        size = changes.pop("image_size")
        if not isinstance(size, int) and not (isinstance(size, list | tuple) and len(size) == 2):
            raise UserError(f"image_size is {size!r}; give S or (H, W)")
        height, width = (size, size) if isinstance(size, int) else size
        changes |= {"height": height, "width": width}
    return changes
