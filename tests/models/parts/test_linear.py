"""The linear layer is torch's, and what it keeps in lower precision follows its weights."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from hybridvideo.models.parts.linear import Linear


def mixed(layer: Linear, x: Tensor) -> Tensor:
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return layer(x)


def test_it_is_torchs_linear_layer_in_both_precisions() -> None:
    layer, x = Linear(6, 4), torch.randn(5, 6)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    with torch.autocast("cpu", torch.bfloat16):
        expected = F.linear(x, layer.weight, layer.bias)
    assert expected.dtype is torch.bfloat16 and torch.equal(mixed(layer, x), expected)


def test_weights_are_cast_once_and_again_when_they_change() -> None:
    layer, x = Linear(6, 4), torch.randn(5, 6)
    before = mixed(layer, x)
    kept = layer.cached.entry
    assert kept is not None and torch.equal(mixed(layer, x), before) and layer.cached.entry is kept
    with torch.no_grad():
        layer.weight.mul_(2)
    assert not torch.equal(mixed(layer, x), before)
    layer.load_state_dict(Linear(6, 4).state_dict())
    assert torch.equal(mixed(layer, x), mixed(copy.deepcopy(layer), x))


def test_nothing_is_kept_in_training_nor_in_copies() -> None:
    layer, x = Linear(6, 4), torch.randn(5, 6)
    mixed(layer, x)
    assert copy.deepcopy(layer).cached.entry is None
    assert layer.train().cached.entry is None
    with torch.autocast("cpu", torch.bfloat16):
        layer(x).float().sum().backward()
    assert layer.cached.entry is None and layer.weight.grad is not None
