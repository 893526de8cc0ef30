"""A network of another library under this project's contract.

A `Baseline` holds the library's network as `net`; its parameters keep the library's names below that, so that
checkpoints of the library load by prefix. Some layers are replaced (`layers`), and no head ends in a softmax.

    x_BCTHW  features      grid_BTHWC  the same, channels last
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from hybridvideo.models.baselines.layers import adapted, channels_last, from_grid, to_grid
from hybridvideo.models.staged import Stage, StagedModel


class Baseline(StagedModel):
    """A library's network: `stem_parts` once, the blocks of each stage one after another, the head.

    A subclass names these modules. `config` has frames, height, width and dropout.
    """

    net: Any
    config: Any

    def __init__(self, net: nn.Module, config: Any, num_classes: int, classifier: str) -> None:
        super().__init__(config, num_classes)
        self.net = adapted(net)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier_name = f"net.{classifier}"
        self.num_features = self.classifier().weight.shape[1]

    def classifier(self) -> Any:
        """The last layer: linear, or a pointwise convolution."""
        return self.get_submodule(self.classifier_name)

    @abstractmethod
    def stem_parts(self) -> list[nn.Module]:
        """Modules before the stages, called one after another."""

    @abstractmethod
    def stage_blocks(self) -> dict[str, list[nn.Module]]:
        """Blocks of each stage."""

    def stage_list(self) -> list[Stage]:
        return [Stage(name, blocks) for name, blocks in self.stage_blocks().items()]

    def forward_stem(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = channels_last(x_BCTHW)
        for part in self.stem_parts():
            x_BCTHW = part(x_BCTHW)
        return to_grid(x_BCTHW)

    def enter(self, grid_BTHWC: Tensor) -> Any:
        return from_grid(grid_BTHWC)

    def grid_of(self, x: Any) -> Tensor:
        return to_grid(x)

    def forward_head(self, grid_BTHWC: Tensor, pre_logits: bool = False) -> Tensor:
        features_BC = self.pooled(grid_BTHWC)
        return features_BC if pre_logits else self.classify(features_BC)

    @abstractmethod
    def pooled(self, grid_BTHWC: Tensor) -> Tensor:
        """The features that the classifier reads, (B, C)."""

    def classify(self, features_BC: Tensor) -> Tensor:
        """Logits (B, K). A classifier that is a pointwise convolution gets its features as a grid of one position."""
        layer = self.classifier()
        features_BC = self.dropout(features_BC)
        pointwise = layer.weight.ndim == 5
        logits: Tensor = layer(features_BC[:, :, None, None, None] if pointwise else features_BC)
        return logits.flatten(1)

    def reset_classifier(self, num_classes: int) -> None:
        pointwise = self.classifier().weight.ndim == 5
        super().reset_classifier(num_classes)
        if pointwise:
            parent, _, name = self.classifier_name.rpartition(".")
            setattr(self.get_submodule(parent), name, as_convolution(self.classifier()))


@torch.inference_mode(False)
def as_convolution(layer: nn.Linear) -> nn.Conv3d:
    """A linear layer as the pointwise convolution with the same weights."""
    convolution = nn.Conv3d(layer.in_features, layer.out_features, 1).to(layer.weight.device, layer.weight.dtype)
    convolution.load_state_dict({"weight": layer.weight[:, :, None, None, None], "bias": layer.bias})
    return convolution
