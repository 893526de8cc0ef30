"""Heads: from the last grid to the classes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hybridvideo.config.model import HeadConfig
from hybridvideo.models.parts.linear import Linear

# Statistics over the positions of all frames, (B, T, N, C) -> (B, C), none of which depends on the order of the frames.
POOLS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x_BTNC: x_BTNC.mean((1, 2)),
    "max": lambda x_BTNC: x_BTNC.amax((1, 2)),
    "min": lambda x_BTNC: x_BTNC.amin((1, 2)),
    "std": lambda x_BTNC: (x_BTNC.var((1, 2), correction=0) + 1e-6).sqrt(),
    "frame_max": lambda x_BTNC: x_BTNC.amax(2).mean(1),
}


NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer": nn.LayerNorm,
    "batch": nn.BatchNorm1d,
    "none": lambda _channels, eps: nn.Identity(),
}
ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "tanh": nn.Tanh}


class PoolHead(nn.Module):
    """Pool -> power -> norm -> [hidden layer] -> dropout -> linear."""

    def __init__(self, dim: int, num_classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.pools, self.power = config.pool, config.power
        pooled = dim * len(config.pool)
        self.norm = NORMS[config.norm](pooled, eps=config.norm_eps)
        hidden = (Linear(pooled, config.hidden), ACTIVATIONS[config.activation]()) if config.hidden else ()
        self.hidden = nn.Sequential(*hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.num_features = config.hidden or pooled
        self.classifier = Linear(self.num_features, num_classes)

    def forward(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        return self.classify(self.pool(grid_BTHWC), pre_logits)

    def pool(self, grid_BTHWC: Tensor) -> Tensor:
        """Pool (B, T, H, W, C) into (B, C * number of pools); no parameters."""
        x_BTNC = grid_BTHWC.flatten(2, 3)
        pooled_BC = torch.cat([POOLS[name](x_BTNC) for name in self.pools], 1)
        return pooled_BC if self.power == 1 else pooled_BC.sign() * (pooled_BC.abs() + 1e-6) ** self.power

    def classify(self, pooled_BC: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, K), or the features before the classifier."""
        features_BC: Tensor = self.hidden(self.norm(pooled_BC))
        return features_BC if pre_logits else self.classifier(self.dropout(features_BC))
