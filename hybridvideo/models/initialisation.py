"""How the layers of a hybrid start: Kaiming for convolutions, Xavier or small normal numbers for matrices."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from hybridvideo.models.parts.linear import init_linear, init_xavier


def init_by_kind(layer: nn.Module) -> None:
    """Kaiming for convolutions; Xavier for matrices, each by itself if a layer holds several; zero biases."""
    init_convolution(layer)
    if isinstance(layer, nn.Linear):
        init_xavier(layer)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_normal(layer: nn.Module) -> None:
    """Kaiming for convolutions; truncated normal numbers of standard deviation 0.02 for matrices; zero biases."""
    init_convolution(layer)
    init_linear(layer)


def init_convolution(layer: nn.Module) -> None:
    """Kaiming weights and zero bias; other layers are left alone."""
    if isinstance(layer, nn.Conv2d | nn.Conv3d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="linear")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


INITIALISERS: dict[str, Callable[[nn.Module], None]] = {"xavier": init_by_kind, "normal": init_normal}


def initialise(part: nn.Module, by_kind: Callable[[nn.Module], None] = init_by_kind) -> None:
    """Initialise every layer by its kind, then let modules that start in a way of their own (`start()`) do so."""
    part.apply(by_kind)
    for module in part.modules():
        if (start := getattr(module, "start", None)) is not None:
            start()
