"""Per-frame stems: a small CNN of our own, and any network of timm or torchvision with feature maps, by name.

    x_NCHW frames (time folded into the batch, channels last in memory) -> features_NCHW at 1 / stride

`open_stem` builds one from its config. Each stem has `channels`, `stride` and `normalisation`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, cast

import torch
from timm.layers import Conv2dSame, LayerNorm2d
from torch import Tensor, nn

from hybridvideo.config.data import Normalisation
from hybridvideo.config.model import StemConfig
from hybridvideo.errors import EnvironmentFault, UserError, nearest
from hybridvideo.models.parts.backbone import BackboneTrunk, backbone_of
from hybridvideo.models.parts.conv_stem import TwoConvStem
from hybridvideo.models.parts.folded_network import FoldedNetwork
from hybridvideo.models.parts.stem_cut import Cut, FrameSize, Library, Way, find_cut
from hybridvideo.models.parts.stem_weights import prepare_trunk
from hybridvideo.text import one_line


class SmallStem(nn.Module):
    """3x3 convolutions, those of stride 2 wider each, each with a norm, and activations between them.

    With layer norm there are no statistics over frames or batch: one frame's features depend on that frame alone.
    """

    def __init__(self, config: StemConfig, normalisation: Normalisation) -> None:
        super().__init__()
        widths, batch = config.widths, config.norm == "batch"
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            for i in range(config.repeat):
                layers.append(nn.Conv2d(after if i else before, after, 3, 1 if i else 2, padding=1, bias=not batch))
                layers += [nn.BatchNorm2d(after) if batch else LayerNorm2d(after), activation(config.activation)]
        self.layers, self.folded = nn.Sequential(*layers[:-1]), FoldedNetwork()
        self.channels, self.stride, self.normalisation = widths[-1], 2 ** len(widths), normalisation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features: Tensor = self.folded(self.layers, x_NCHW)
        return features


def activation(name: str) -> nn.Module:
    """An activation as a layer."""
    layers: dict[str, Callable[[], nn.Module]] = {
        "gelu": nn.GELU,
        "gelu_tanh": partial(nn.GELU, "tanh"),
        "relu": nn.ReLU,
        "silu": nn.SiLU,
        "hard_swish": nn.Hardswish,
    }
    return layers[name]()


class LibraryStem(nn.Module):
    """A classification network of a library, cut at the last feature map of the wanted stride.

    Some networks are made for one frame size, or for sizes in steps from it: any other raises UserError.
    """

    def __init__(self, trunk: nn.Module, cut: Cut, config: StemConfig, own: Normalisation) -> None:
        super().__init__()
        self.trunk, self.name, self.stride = trunk, config.name, config.stride
        self.folded = FoldedNetwork()
        for parameter in cut.unused:
            trunk.get_parameter(parameter).requires_grad_(False)
        self.channels, self.channels_last = cut.channels, cut.channels_last
        self.size, self.step = cut.size, cut.step
        self.normalisation = normalisation_of(config, own)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        height, width = x_NCHW.shape[2:]
        self.check_size(height, width)
        as_built = (height, width) == self.size or torch.compiler.is_compiling()
        out = self.folded(self.trunk, x_NCHW) if as_built else self.at_another_size(x_NCHW)
        features = cast(Tensor, out["map"] if isinstance(out, dict) else out)
        return features.permute(0, 3, 1, 2) if self.channels_last else features

    def at_another_size(self, x_NCHW: Tensor) -> object:
        """Run the trunk. Raises UserError if it turns out not to take the size."""
        try:
            return cast(object, self.folded(self.trunk, x_NCHW))
        except torch.OutOfMemoryError:
            raise
        except (IndexError, RuntimeError, AssertionError) as error:
            height, width = x_NCHW.shape[2:]
            raise UserError(
                f"frames of {height}x{width}; stem {self.name} is built for {self.size[0]}x{self.size[1]} and does not "
                f"take them ({one_line(error)[:200]}); set the model's height and width"
            ) from error

    def check_size(self, height: int, width: int) -> None:
        """Raise UserError for frames of a size that the network does not take."""
        (H, W), step = self.size, self.step
        if step is None and (height, width) != self.size:
            raise UserError(
                f"frames of {height}x{width}; stem {self.name} is built for {H}x{W} and takes no other size"
            )
        if step and ((height - H) % step or (width - W) % step):
            raise UserError(
                f"frames of {height}x{width}; stem {self.name} takes {H}x{W}, or more or less by multiples of {step}"
            )


class TimmTrunk(nn.Module):
    """One intermediate feature map of a timm model."""

    def __init__(self, model: nn.Module, index: int) -> None:
        super().__init__()
        self.model = cast(Any, model)
        self.index = index

    def forward(self, x_NCHW: Tensor) -> Tensor:
        maps = self.model.forward_intermediates(x_NCHW, indices=[self.index], stop_early=True, intermediates_only=True)
        return cast(Tensor, maps[0])


def open_stem(config: StemConfig, height: int, width: int) -> SmallStem | TwoConvStem | LibraryStem:
    """Build the stem of a config for this frame size. Raises UserError for an unknown name, stride or unfit weights."""
    library, _, name = config.name.partition("/")
    if library not in STEMS or bool(name) == (library not in LIBRARIES):
        raise UserError(
            f"stem.name is {config.name!r}; give small, patch, coatnet, timm/NAME, torchvision/NAME or backbone/NAME"
        )
    stem = STEMS[library](name, config, (height, width))
    if isinstance(stem, LibraryStem):
        stem.check_size(height, width)
    return stem


def small_stem(_name: str, config: StemConfig, _size: FrameSize) -> SmallStem:
    """Our own, trained from scratch."""
    if config.weights is not None:
        raise UserError("stem.weights is set, but the small stem has none; use timm/NAME or torchvision/NAME")
    stem = SmallStem(config, normalisation_of(config, Normalisation()))
    init_convolutions(stem)
    return stem


def two_conv_stem(_name: str, config: StemConfig, _size: FrameSize) -> TwoConvStem:
    """CoAtNet's; its weights load with those of the network it belongs to."""
    if config.weights is not None:
        raise UserError("stem.weights is set, but the coatnet stem has none of its own; give model.weights")
    stem = TwoConvStem(config)
    init_convolutions(stem)
    return stem


def init_convolutions(stem: nn.Module) -> None:
    """Initialise as He et al. 2015 do, with zero biases."""
    for layer in stem.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def timm_stem(name: str, config: StemConfig, size: FrameSize) -> LibraryStem:
    """Any timm model with `forward_intermediates` over maps."""
    cut, way = cut_for(config.name, config.stride, size)
    model, own = timm_network(name, config, way)
    return LibraryStem(timm_trunk(model, cut.layer), cut, config, own)


def timm_network(name: str, config: StemConfig, way: Way) -> tuple[Any, Normalisation]:
    """Return a network of timm with the stem's weights, if it has any, and the normalisation of timm's own."""
    import timm

    try:
        model = timm.create_model(name, pretrained=config.weights == "hub", **way)
    except (OSError, RuntimeError) as error:
        raise offline(f"timm/{name}", error) from error
    prepare_trunk(model, config)
    return model, Normalisation(tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))


def timm_library(name: str) -> Library:
    """Return how to cut a model of timm. Raises UserError if there is none of that name."""
    import timm

    if name not in timm.list_models() and name.partition(".")[0] not in timm.list_models():
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    build = partial(timm.create_model, name)
    return Library(f"timm/{name}", build, timm_ways, timm_layers, timm_trunk, timm_strides)


def timm_ways(size: FrameSize) -> list[Way]:
    """As published; with the size given; with one side of it given."""
    return [{}, {"img_size": size}, *([{"img_size": size[0]}] if size[0] == size[1] else [])]


def timm_layers(model: Any, x_NCHW: Tensor) -> dict[Any, Tensor]:
    """The maps that a model offers, by their index."""
    if not hasattr(model, "forward_intermediates"):
        return {}
    try:
        return dict(enumerate(model.forward_intermediates(x_NCHW, intermediates_only=True)))
    except Exception:  # its last layers do not take frames of this size; earlier ones may
        maps: dict[Any, Tensor] = {}
        while first := timm_map(model, x_NCHW, len(maps)):
            maps[len(maps)] = first[0]
        if not maps:
            raise
        return maps


def timm_map(model: Any, x_NCHW: Tensor, index: int) -> list[Tensor]:
    """Return one map, without computing what follows it; an empty list if that does not work."""
    try:
        found: list[Tensor] = model.forward_intermediates(
            x_NCHW, indices=[index], stop_early=True, intermediates_only=True
        )
    except Exception:  # as above
        return []
    return found


def timm_strides(model: Any) -> dict[Any, int]:
    """Return the strides that timm records for a model's maps."""
    infos = getattr(model, "feature_info", [])
    return {i: info["reduction"] for i, info in enumerate(getattr(infos, "info", infos))}


def timm_trunk(model: Any, index: Any) -> nn.Module:
    """The model up to one of its maps."""
    model.prune_intermediate_layers([index], prune_norm=True, prune_head=True)
    return TimmTrunk(model, index)


def torchvision_stem(name: str, config: StemConfig, size: FrameSize) -> LibraryStem:
    """Any torchvision classification network that has maps."""
    from torchvision import models

    cut, way = cut_for(config.name, config.stride, size)
    try:
        model = models.get_model(name, weights="DEFAULT" if config.weights == "hub" else None, **way)
    except OSError as error:
        raise offline(f"torchvision/{name}", error) from error
    prepare_trunk(model, config)
    return LibraryStem(torchvision_trunk(model, cut.layer), cut, config, Normalisation())


def torchvision_library(name: str) -> Library:
    """Return how to cut a network of torchvision. UserError if there is none of that name, or it has no maps."""
    from torchvision import models

    names = models.list_models(module=models)
    if name not in names:
        raise UserError(f"torchvision has no classification model {name!r}{nearest(name, names)}")
    if name.startswith("vit_"):
        raise UserError(f"torchvision/{name} returns tokens and has no feature map; use a vision transformer of timm")
    as_published: Way = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    ways = lambda size: [as_published, {"input_size": size}]  # noqa: E731
    build = partial(models.get_model, name)
    return Library(f"torchvision/{name}", build, ways, torchvision_layers, torchvision_trunk)


def torchvision_layers(model: nn.Module, x_NCHW: Tensor) -> dict[Any, Tensor]:
    """Outputs of all layers at most two names deep, in the order of their (last) run.

    Deeper ones are left out: the last map of a stride inside a block is often the widened one of the next block.
    """
    outputs: dict[Any, Tensor] = {}

    def record(layer: str, out: object) -> None:
        if isinstance(out, Tensor):
            outputs.pop(layer, None)
            outputs[layer] = out

    shallow = [(layer, module) for layer, module in model.named_modules() if layer and layer.count(".") < 2]
    hooks = [
        module.register_forward_hook(lambda _m, _i, out, layer=layer: record(layer, out)) for layer, module in shallow
    ]
    model(x_NCHW)
    for hook in hooks:
        hook.remove()
    return outputs


def torchvision_trunk(model: nn.Module, layer: Any) -> nn.Module:
    """The model up to one of its layers."""
    from torchvision.models.feature_extraction import create_feature_extractor

    return create_feature_extractor(model, {layer: "map"}, tracer_kwargs={"leaf_modules": [Conv2dSame]})


def backbone_stem(name: str, config: StemConfig, size: FrameSize) -> LibraryStem:
    """The CNN before the patch embedding of a ViT of timm."""
    cut, way = cut_for(config.name, config.stride, size)
    model, own = timm_network(name, config, way)
    return LibraryStem(BackboneTrunk(backbone_of(model, name)), cut, config, own)


def backbone_library(name: str) -> Library:
    """Return how to take the CNN out of a ViT of timm. Raises UserError if there is none of that name."""
    timm_library(name)
    import timm

    build = lambda: BackboneTrunk(backbone_of(timm.create_model(name), name))  # noqa: E731
    layers = lambda model, x_NCHW: {"backbone": model(x_NCHW)}  # noqa: E731
    return Library(f"backbone/{name}", build, lambda _size: [{}], layers, lambda model, _layer: model)


LIBRARIES: dict[str, Callable[[str], Library]] = {
    "timm": timm_library,
    "torchvision": torchvision_library,
    "backbone": backbone_library,
}


@lru_cache(maxsize=256)
def cut_for(name: str, stride: int, size: FrameSize) -> tuple[Cut, Way]:
    """Find where and how to cut a library's network, named as in `stem.name`, for frames of a size."""
    library, _, network = name.partition("/")
    return find_cut(LIBRARIES[library](network), stride, size)


def names_in_network(name: str) -> set[str]:
    """Return the names of all tensors of a library's complete network, named as in `stem.name`."""
    library, _, network = name.partition("/")
    with torch.device("meta"):
        whole = LIBRARIES["timm" if library == "backbone" else library](network).build()
    return set(whole.state_dict())


def without_network(config: StemConfig, height: int, width: int) -> StemConfig:
    """Replace a library's stem by a small one with as many channels, to measure the size of what follows it."""
    if config.name.partition("/")[0] not in LIBRARIES:
        return config
    cut, _ = cut_for(config.name, config.stride, (height, width))
    return StemConfig(widths=(cut.channels,))


STEMS: dict[str, Callable[[str, StemConfig, FrameSize], SmallStem | TwoConvStem | LibraryStem]] = {
    "small": small_stem,
    "coatnet": two_conv_stem,
    "timm": timm_stem,
    "torchvision": torchvision_stem,
    "backbone": backbone_stem,
}


def normalisation_of(config: StemConfig, own: Normalisation) -> Normalisation:
    """Return the config's statistics if given, else the stem's own."""
    return Normalisation(config.mean or own.mean, config.std or own.std)


def offline(name: str, error: Exception) -> EnvironmentFault:
    """Return the error for weights of a stem that could not be downloaded."""
    return EnvironmentFault(
        f"the weights of {name} cannot be downloaded ({type(error).__name__}); give a file with stem.weights PATH"
    )
