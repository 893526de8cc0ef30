"""Rates of dropout and stochastic depth, scaled during a run."""

from __future__ import annotations

from timm.layers import DropPath
from torch import nn


class Drops:
    """The rates of all layers of a network, as they were built."""

    def __init__(self, model: nn.Module) -> None:
        layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.dropout._DropoutNd | DropPath)]
        self.rates = [(layer, name_of(layer), float(getattr(layer, name_of(layer)))) for layer in layers]
        self.factor = 1.0

    def scale(self, factor: float) -> None:
        """Set each rate to `factor` times what it was built with."""
        if factor != self.factor:
            self.factor = factor
            for layer, name, rate in self.rates:
                setattr(layer, name, factor * rate)


def name_of(layer: nn.Module) -> str:
    """The attribute that holds the rate."""
    return "drop_prob" if isinstance(layer, DropPath) else "p"
