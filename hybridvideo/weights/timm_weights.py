"""Weights that timm downloads (`timm:NAME[.TAG]`), with what its record states about them.

timm reads tensors alone, through huggingface_hub, which keeps what it has downloaded, so a machine without network
access can use the copy. The tensors have the names of timm's own network, as its files have.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from hybridvideo.config.data import Normalisation
from hybridvideo.errors import UserError, nearest
from hybridvideo.weights.source import Facts, Source, cannot_download

PREFIX = "timm:"
# Class of a layer -> name in the settings of stages.
ACTIVATIONS = {"GELU": "gelu", "GELUTanh": "gelu_tanh", "QuickGELU": "quick_gelu", "ReLU": "relu", "SiLU": "silu"}


def open_timm(source: str) -> Source:
    """Open weights by the name of their network: `timm:vit_small_patch16_224`, `timm:resnet50.a1_in1k`.

    Raises:
        UserError: timm has no such network, or no weights of that tag for it.
        EnvironmentFault: they cannot be downloaded.
    """
    import timm

    name = checked_name(source.removeprefix(PREFIX))
    record = timm.models.get_pretrained_cfg(name)
    try:
        model = timm.create_model(name, pretrained=True)
    except Exception as error:  # raised by the clients of several hosts and by the network libraries below them
        raise cannot_download(source, address(record), error) from error
    return Source(source, dict(model.state_dict()), facts=facts_of(model))


def checked_name(name: str) -> str:
    """Return NAME or NAME.TAG if timm has such weights."""
    import timm

    network, _, tag = name.partition(".")
    if network not in timm.list_models():
        raise UserError(f"timm has no network {network!r}{nearest(network, timm.list_models())}; such as timm:resnet50")
    tagged = timm.list_pretrained(f"{network}.*")
    offered = [entry.partition(".")[2] for entry in tagged]
    if not offered and not timm.models.is_model_pretrained(network):
        raise UserError(f"timm has no weights for {network}; choose another network, or give a file of weights")
    if tag and tag not in offered:
        raise UserError(f"timm has no weights {tag!r} of {network}{nearest(tag, offered)}; {', '.join(offered)}")
    return name


def address(record: Any) -> str:
    """Return where the weights of a record can be downloaded by hand."""
    if record.hf_hub_id:
        return f"https://huggingface.co/{record.hf_hub_id}"
    return str(record.url)


# --- what a network's record states -----------------------------------------------------------------------------------


def facts_of(model: Any) -> Facts:
    """Classes, normalisation and sizes."""
    record = model.pretrained_cfg
    _, height, width = record["input_size"]
    return Facts(
        labels=labels_of(model),
        normalisation=Normalisation(tuple(record["mean"]), tuple(record["std"])),
        size=(height, width),
        short_side=round(min(height, width) / record.get("crop_pct", 1.0)),
        heads=heads_of(model),
        activation=activation_of(model),
        changes={"height": height, "width": width},
    )


def heads_of(model: Any) -> int | None:
    """Return the heads of the first block of a ViT, which its tensors do not show; None for other networks."""
    heads = getattr(part_of_block(model, "attn"), "num_heads", None)
    return heads if isinstance(heads, int) else None


def activation_of(model: Any) -> str | None:
    """Return the activation in the first block of a ViT, which its tensors do not show; None for other networks."""
    layer = getattr(part_of_block(model, "mlp"), "act", None)
    if layer is None:
        return None
    name = type(layer).__name__
    return "gelu_tanh" if getattr(layer, "approximate", "none") == "tanh" else ACTIVATIONS.get(name, name)


def part_of_block(model: Any, name: str) -> Any:
    """Return a part of the first block of a ViT; None for other networks."""
    blocks: Any = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        return None
    return getattr(blocks[0], name, None)


def labels_of(model: Any) -> tuple[str, ...] | None:
    """Return the names of ImageNet's classes, those that two classes share with their WordNet number; else None."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(model)
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    numbers = range(info.num_classes())
    names = [info.index_to_description(i) for i in numbers]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return tuple(f"{name} ({info.index_to_label_name(i)})" if name in shared else name for i, name in enumerate(names))
