"""Per-frame CNN stems: a small one of our own, and any CNN of timm or torchvision by name.

    x_NCHW frames (time folded into the batch, channels last in memory) -> features_NCHW at 1 / stride

`open_stem` builds one from its config. Each stem has `channels`, `stride` and `normalisation`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from timm.layers import Conv2dSame, LayerNorm2d
from torch import Tensor, nn

from hybridvideo.config import Normalisation, StemConfig
from hybridvideo.errors import EnvironmentFault, UserError, nearest
from hybridvideo.models.state_files import read_state_dict


class SmallStem(nn.Module):
    """3x3 convolutions of stride 2, each followed by a norm over the channels of a position and GELU.

    No statistics over frames or batch, so one frame's features depend on that frame alone.
    """

    def __init__(self, widths: tuple[int, ...], normalisation: Normalisation) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((3, *widths), widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), LayerNorm2d(after), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        self.channels, self.stride, self.normalisation = widths[-1], 2 ** len(widths), normalisation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        features: Tensor = self.layers(x_NCHW)
        return features


class LibraryStem(nn.Module):
    """A classification CNN of a library, cut at the last feature map of the wanted stride."""

    def __init__(self, trunk: nn.Module, channels: int, stride: int, normalisation: Normalisation) -> None:
        super().__init__()
        self.trunk = trunk
        self.channels, self.stride, self.normalisation = channels, stride, normalisation

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = self.trunk(x_NCHW)
        return cast(Tensor, out["map"] if isinstance(out, dict) else out)


class TimmTrunk(nn.Module):
    """One intermediate feature map of a timm model."""

    def __init__(self, model: nn.Module, index: int) -> None:
        super().__init__()
        self.model = cast(Any, model)
        self.index = index

    def forward(self, x_NCHW: Tensor) -> Tensor:
        maps = self.model.forward_intermediates(x_NCHW, indices=[self.index], intermediates_only=True)
        return cast(Tensor, maps[0])


def open_stem(config: StemConfig) -> SmallStem | LibraryStem:
    """The stem a config describes; UserError for an unknown name, stride or unfit weights."""
    library, _, name = config.name.partition("/")
    if library not in STEMS or bool(name) == (library == "small"):
        raise UserError(f"stem.name is {config.name!r}; give small, timm/NAME or torchvision/NAME")
    return STEMS[library](name, config)


def small_stem(_name: str, config: StemConfig) -> SmallStem:
    """Our own, trained from scratch."""
    if config.weights is not None:
        raise UserError("stem.weights is set, but the small stem has none; use timm/NAME or torchvision/NAME")
    stem = SmallStem(config.widths, normalisation_of(config, Normalisation()))
    for layer in stem.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))
    return stem


def timm_stem(name: str, config: StemConfig) -> LibraryStem:
    """Any timm model with `forward_intermediates` over maps."""
    import timm

    if name not in timm.list_models() and name.partition(".")[0] not in timm.list_models():
        raise UserError(f"timm has no model {name!r}{nearest(name, timm.list_models())}")
    try:
        model = timm.create_model(name, pretrained=config.weights == "hub")
    except (OSError, RuntimeError) as error:
        raise offline(f"timm/{name}", error) from error
    prepare_trunk(model, config)
    infos = getattr(getattr(model, "feature_info", None), "info", None) or getattr(model, "feature_info", [])
    strides = [info["reduction"] for info in infos]
    if config.stride not in strides or not hasattr(model, "forward_intermediates"):
        raise UserError(f"timm/{name} has no feature map of stride {config.stride}; it has {strides or 'none'}")
    index = max(i for i, stride in enumerate(strides) if stride == config.stride)
    cast(Any, model).prune_intermediate_layers([index], prune_head=True)
    trunk = TimmTrunk(model, index)
    own = Normalisation(tuple(model.pretrained_cfg["mean"]), tuple(model.pretrained_cfg["std"]))  # of its weights
    return LibraryStem(trunk, channels_out(trunk), config.stride, normalisation_of(config, own))


def torchvision_stem(name: str, config: StemConfig) -> LibraryStem:
    """Any torchvision classification CNN."""
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    names = models.list_models(module=models)
    if name not in names:
        raise UserError(f"torchvision has no classification model {name!r}{nearest(name, names)}")
    try:
        weights = "DEFAULT" if config.weights == "hub" else None
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        model = models.get_model(name, weights=weights, **extra)
    except OSError as error:
        raise offline(f"torchvision/{name}", error) from error
    prepare_trunk(model, config)
    layer = layer_of_stride(model, name, config.stride)
    tracing = {"leaf_modules": [Conv2dSame]}
    trunk = create_feature_extractor(model, {layer: "map"}, tracer_kwargs=tracing)
    return LibraryStem(trunk, channels_out(trunk), config.stride, normalisation_of(config, Normalisation()))


STEMS: dict[str, Callable[[str, StemConfig], SmallStem | LibraryStem]] = {
    "small": small_stem,
    "timm": timm_stem,
    "torchvision": torchvision_stem,
}


def prepare_trunk(model: nn.Module, config: StemConfig) -> None:
    """Weights from a file, and padding, on the whole classification network, so that all keys are checked."""
    if config.weights is not None and config.weights != "hub":
        load_trunk(model, config.weights, config.name)
    if config.padding == "same":
        pad_like_tensorflow(model)


def load_trunk(model: nn.Module, source: str, name: str) -> None:
    """Load a state-dict file; only the classifier may have another size."""
    state = read_state_dict(source)
    own = model.state_dict()
    head = {key for key in own if key in state and own[key].shape != state[key].shape and own[key].ndim <= 2}
    wrong = [key for key in own if key in state and own[key].shape != state[key].shape and key not in head]
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    if wrong or missing or unexpected:
        what = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(wrong)} of another shape"
        first = (missing + unexpected + wrong)[0]
        raise UserError(f"{source} does not fit {name}: {what} (first: {first}); give the weights of that very model")
    model.load_state_dict({key: value for key, value in state.items() if key not in head}, strict=False)


def pad_like_tensorflow(model: nn.Module) -> None:
    """Replace each strided convolution by one with TensorFlow's `same` padding: the odd pixel goes right and down."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and max(child.stride) > 1 and max(child.kernel_size) > 1:
                same = Conv2dSame(
                    child.in_channels, child.out_channels, child.kernel_size, child.stride,
                    dilation=child.dilation, groups=child.groups, bias=child.bias is not None,
                )  # fmt: skip
                same.load_state_dict(child.state_dict())
                setattr(module, name, same)


@torch.no_grad()
def layer_of_stride(model: nn.Module, name: str, stride: int) -> str:
    """Name of the last layer, at most two names deep, whose output is a map of 1 / stride of the frame.

    Deeper ones are left out: the last map of a stride inside a block is often the widened one of the next block.
    """
    strides: dict[str, int] = {}

    def record(layer: str, out: object) -> None:
        if isinstance(out, Tensor) and out.ndim == 4 and out.shape[2] > 1:
            strides.pop(layer, None)  # a layer that runs twice counts where it ran last
            strides[layer] = 224 // out.shape[2]

    shallow = [(layer, module) for layer, module in model.named_modules() if layer and layer.count(".") < 2]
    hooks = [module.register_forward_hook(lambda _m, _i, out, layer=layer: record(layer, out))
             for layer, module in shallow]  # fmt: skip
    model.eval()(torch.zeros(1, 3, 224, 224))
    model.train()
    for hook in hooks:
        hook.remove()
    fitting = [layer for layer in strides if strides[layer] == stride]
    if not fitting:
        has = sorted(set(strides.values()))
        raise UserError(f"torchvision/{name} has no feature map of stride {stride}; it has {has}")
    return fitting[-1]


@torch.no_grad()
def channels_out(trunk: nn.Module) -> int:
    """Channels of the feature map."""
    training = trunk.training
    out = trunk.eval()(torch.zeros(1, 3, 64, 64))
    trunk.train(training)
    return int((out["map"] if isinstance(out, dict) else out).shape[1])


def normalisation_of(config: StemConfig, own: Normalisation) -> Normalisation:
    """The config's statistics where given, else the stem's own."""
    return Normalisation(config.mean or own.mean, config.std or own.std)


def offline(name: str, error: Exception) -> EnvironmentFault:
    """The weights of a stem could not be downloaded."""
    return EnvironmentFault(
        f"the weights of {name} cannot be downloaded ({type(error).__name__}); give a file with stem.weights PATH"
    )
