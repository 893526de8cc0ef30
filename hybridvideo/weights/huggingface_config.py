"""What a Hugging Face folder states about its weights: config.json and the processor's file.

A field that is missing is not assumed: the defaults of transformers' classes are not those of the weights
(TimeSformer's processor has ImageNet's statistics, its weights those of Kinetics).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybridvideo.config.data import Normalisation
from hybridvideo.documents import read_json_object
from hybridvideo.errors import UserError
from hybridvideo.parsing import is_whole, parsed
from hybridvideo.text import one_line, shown
from hybridvideo.weights.source import Facts

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
AGAIN = "download it again"
GENERIC = "LABEL_"  # start of the names transformers gives to classes that nobody has named
# Settings that cannot be inferred from tensors, by their names there and here.
SETTINGS = {"num_frames": "frames", "num_attention_heads": "heads"}


def facts_of(folder: Path) -> Facts:
    """Return the classes, normalisation and sizes that a folder states. UserError for a file of another form."""
    config = read_json_object(folder / CONFIG, AGAIN)
    processor = next((read_json_object(folder / name, AGAIN) for name in PROCESSORS if (folder / name).exists()), {})
    try:
        return Facts(
            labels=labels_of(config),
            normalisation=normalisation_of(processor) or normalisation_of(timm_statistics(config)),
            size=size_of(processor.get("crop_size")),
            short_side=short_side_of(processor),
            changes=changes_of(config),
        )
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        reason = shown(one_line(error))
        raise UserError(f"{folder}: {CONFIG} or {PROCESSORS[0]} is unusual ({reason}); correct it") from error


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes; None if they are only numbered."""
    names = {int(number): str(name) for number, name in (config.get("id2label") or {}).items()}
    labels = tuple(names[i] for i in range(len(names)))
    generic = all(name.startswith(GENERIC) for name in labels)
    return None if generic or len(set(labels)) < len(labels) else labels


def changes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return frames, size and heads under the names models have for them here."""
    changes = {ours: config[theirs] for theirs, ours in SETTINGS.items() if is_whole(config.get(theirs))}
    if size := size_of(config.get("image_size")):
        changes |= {"height": size[0], "width": size[1]}
    return changes


def normalisation_of(processor: Mapping[str, Any]) -> Normalisation | None:
    """Return the statistics of a processor; None if it has none."""
    if processor.get("do_normalize") is False:
        return Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    if "image_mean" not in processor or "image_std" not in processor:
        return None
    return parsed(Normalisation, {"mean": processor["image_mean"], "std": processor["image_std"]})


def timm_statistics(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics in timm's config.json, under a processor's names."""
    timm = config.get("pretrained_cfg") or {}
    return {ours: timm[theirs] for ours, theirs in (("image_mean", "mean"), ("image_std", "std")) if theirs in timm}


def size_of(value: Any) -> tuple[int, int] | None:
    """Return rows and columns of 224, [224, 224] or {"height": 224, "width": 224}."""
    if isinstance(value, Mapping):
        value = [value["height"], value["width"]] if "height" in value else None
    if is_whole(value):
        return value, value
    return (int(value[0]), int(value[1])) if value else None


def short_side_of(processor: Mapping[str, Any]) -> int | None:
    """Return the short side of frames before the crop."""
    size = processor.get("size")
    side = size.get("shortest_edge") if isinstance(size, Mapping) else size
    return side if is_whole(side) else None
