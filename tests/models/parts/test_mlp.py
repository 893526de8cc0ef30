"""The perceptron is linear, GELU, linear, however it is computed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hybridvideo.models.parts import mlp
from hybridvideo.models.parts.mlp import LinearOfGelu, Mlp


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Mlp(6, 24), torch.randn(2, 3, 5, 6)
    expected = layer.fc2(F.gelu(layer.fc1(x)))
    monkeypatch.setattr(mlp, "PORTION", 24 * 7)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_gradients_are_those_of_the_definition() -> None:
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 8), (4, 8), (4,))]
    assert torch.autograd.gradcheck(LinearOfGelu.apply, inputs)
    assert torch.autograd.gradgradcheck(LinearOfGelu.apply, inputs)


def test_what_is_kept_for_backward_has_one_tensor_of_the_hidden_width() -> None:
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: (kept.append(x.numel()), x)[1], lambda x: x):
        Mlp(6, 24)(torch.randn(100, 6, requires_grad=True))
    assert sum(numbers == 100 * 24 for numbers in kept) == 1


def test_mixed_precision_trains_it() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6)
    full = torch.autograd.grad(layer(x).sin().sum(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype is torch.bfloat16
    mixed = torch.autograd.grad(out.float().sin().sum(), list(layer.parameters()))
    for one, other in zip(full, mixed, strict=True):
        assert other.dtype is torch.float32 and torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.999
