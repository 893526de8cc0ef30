"""Weights that torchvision downloads (`torchvision:NAME[.WEIGHTS]`), with what its record states about them.

torchvision keeps what it has downloaded, so a machine without network access can use the copy.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from hybridvideo.config.data import ClipConfig, Normalisation
from hybridvideo.config.evaluation import EvalConfig
from hybridvideo.errors import UserError, nearest
from hybridvideo.weights.source import Facts, Source, cannot_download

PREFIX = "torchvision:"


def open_torchvision(source: str) -> Source:
    """Open weights by the name of their model: `torchvision:swin3d_t`, `torchvision:swin3d_b.KINETICS400_V1`.

    Raises:
        UserError: torchvision has no such model or weights.
        EnvironmentFault: they cannot be downloaded.
    """
    weights = weights_named(source.removeprefix(PREFIX))
    try:
        state = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=True, check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:  # RuntimeError: the hash does not match
        raise cannot_download(source, weights.url, error) from error
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    return Source(source, dict(state), (), (file,) if file.is_file() else (), facts_of(weights))


def weights_named(name: str) -> Any:
    """Return torchvision's record for `NAME.WEIGHTS`, or for `NAME`, which means its default weights."""
    from torchvision import models

    model, _, which = name.partition(".")
    known = models.list_models()
    if model not in known:
        raise UserError(f"torchvision has no model {model!r}{nearest(model, known)}; such as torchvision:swin3d_t")
    offered = models.get_model_weights(model)
    names = [weights.name for weights in offered]
    if which and which not in [*names, "DEFAULT"]:
        raise UserError(f"torchvision has no weights {which!r} of {model}{nearest(which, names)}; {', '.join(names)}")
    return offered[which or "DEFAULT"]


def facts_of(weights: Any) -> Facts:
    """Classes, normalisation and size; for video also clips and frame rate, which the record gives in prose."""
    transform = weights.transforms()
    numbers = {name: float(value) for name, value in re.findall(r"`(\w+)=([\d.]+)`", weights.meta.get("_docs", ""))}
    height, width = ([*transform.crop_size] * 2)[:2]
    clip = views = None
    if "frame_rate" in numbers:
        clip = ClipConfig(frames=int(numbers.get("clip_len", 16)), interval=1 / numbers["frame_rate"])
        views = EvalConfig(clips=int(numbers.get("clips_per_video", 1)), crops=1)
    return Facts(
        labels=tuple(weights.meta["categories"]) if "categories" in weights.meta else None,
        normalisation=Normalisation(tuple(transform.mean), tuple(transform.std)),
        clip=clip,
        views=views,
        size=(height, width),
        short_side=min(transform.resize_size),
        changes={"frames": clip.frames} if clip else {},
    )
