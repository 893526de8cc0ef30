"""Rates of dropout, stochastic depth and noisy choices, scaled during a run."""

from __future__ import annotations

from torch import nn

# Layers of stochastic depth and noise, and the attribute of their rate. By name: every library has a class of its own.
PATHS = {"DropPath": "drop_prob", "DropRows": "rate", "StochasticDepth": "p", "GumbelNoise": "rate"}


class Drops:
    """The rates of all layers of a network, as they were built."""

    def __init__(self, model: nn.Module) -> None:
        named = ((layer, name_of(layer)) for layer in model.modules())
        self.rates = [(layer, name, float(getattr(layer, name) or 0.0)) for layer, name in named if name]
        self.factor = 1.0

    def scale(self, factor: float) -> None:
        """Set each rate to `factor` times what it was built with."""
        if factor != self.factor:
            self.factor = factor
            for layer, name, rate in self.rates:
                setattr(layer, name, factor * rate)


def name_of(layer: nn.Module) -> str | None:
    """The attribute that holds the rate; None for a layer without one."""
    return "p" if isinstance(layer, nn.modules.dropout._DropoutNd) else PATHS.get(type(layer).__name__)
