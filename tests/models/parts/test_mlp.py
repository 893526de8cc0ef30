"""The perceptron is linear, GELU, linear, however it is computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from hybridvideo.models.parts import mlp
from hybridvideo.models.parts.linear import Linear
from hybridvideo.models.parts.mlp import Mlp, without_keeping


def test_portions_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = Mlp(6, 24), torch.randn(2, 3, 5, 6)
    expected = layer.fc2(F.gelu(layer.fc1(x)))
    monkeypatch.setattr(mlp, "PORTION", 24 * 7)
    with torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-6)
    assert torch.allclose(layer(x), expected, atol=1e-6)


def test_gradients_are_those_of_the_definition() -> None:
    layer = nn.Linear(8, 4, dtype=torch.float64)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    def without(*inputs: Tensor) -> Tensor:
        return without_keeping(lambda x: call(x, *inputs[1:]), inputs[0])  # type: ignore[arg-type]

    inputs = [x, *layer.parameters()]
    assert torch.autograd.gradcheck(without, inputs)
    assert torch.autograd.gradgradcheck(without, inputs)


@pytest.mark.parametrize("adapted", [False, True])
def test_the_output_of_gelu_is_freed_before_backward(adapted: bool) -> None:
    layer, seen = Mlp(6, 24), []  # the hook below makes it call its second layer as a module, adapted or not
    if adapted:
        layer.fc2 = WithAdapter(layer.fc2)  # type: ignore[assignment]
    layer.fc2.register_forward_pre_hook(lambda _layer, inputs: seen.append(StorageWeakRef(inputs[0].untyped_storage())))
    out = layer(torch.randn(100, 6, requires_grad=True))
    assert seen[0].expired()
    out.sum().backward()


class WithAdapter(nn.Module):
    """A low-rank adapter around a layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.down = layer, nn.Linear(layer.in_features, 2, bias=False)
        self.up = nn.Linear(2, layer.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x) + self.up(self.down(x))
        return out


def test_an_adapter_around_the_second_layer_gets_its_gradients() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6)
    layer.fc2 = WithAdapter(layer.fc2)  # type: ignore[assignment]
    parameters = list(layer.parameters())
    got = torch.autograd.grad(layer(x).sin().sum(), parameters)
    wanted = torch.autograd.grad(layer.fc2(F.gelu(layer.fc1(x))).sin().sum(), parameters)
    for one, other in zip(got, wanted, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


class NewStorages(TorchDispatchMode):
    """Counts the tensors of a number of elements that operations allocate."""

    def __init__(self, numel: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.numel, self.count = numel, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage().data_ptr() for x in (*args, *(kwargs or {}).values()) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.numel() == self.numel:
            self.count += out.untyped_storage().data_ptr() not in given
        return out


def test_backward_allocates_the_recomputed_gelu_and_one_gradient() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6, requires_grad=True)
    out = layer(x).sum()
    with NewStorages(50 * 24) as new:
        out.backward()
    assert new.count == 2


class Unchanged(nn.Module):
    """Returns its input: the gradient of the output is that of the input, the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("second", [Unchanged(), Linear(24, 24)])
def test_a_gradient_that_others_hold_is_not_overwritten(second: nn.Module) -> None:
    hidden = torch.randn(50, 24, requires_grad=True)
    grad = torch.randn(50, 24)
    kept = grad.clone()
    (got,) = torch.autograd.grad(hidden + without_keeping(second, hidden), hidden, grad)
    (wanted,) = torch.autograd.grad(hidden + second(F.gelu(hidden)), hidden, kept)
    assert torch.equal(grad, kept) and torch.allclose(got, wanted, atol=1e-6)


def test_second_derivatives_of_the_plain_layer_are_right() -> None:
    layer, x = Mlp(3, 4).double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, [x]) and torch.autograd.gradgradcheck(layer, [x])


def test_a_layer_that_may_be_bypassed_gets_the_gradients_of_one_that_is_called() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6, requires_grad=True)
    bypassed = torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])
    layer.fc2.register_forward_hook(lambda *_: None)
    called = torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])
    for one, other in zip(bypassed, called, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_frozen_second_layer_gets_no_gradient_and_passes_one_on() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6, requires_grad=True)
    layer.fc2.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.fc2.weight.grad is None and x.grad is not None and layer.fc1.weight.grad is not None


def test_it_works_under_activation_checkpointing() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6, requires_grad=True)
    plain = torch.autograd.grad(layer(x).sin().sum(), [x, *layer.parameters()])
    again = torch.autograd.grad(checkpoint(layer, x, use_reentrant=False).sin().sum(), [x, *layer.parameters()])
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("training", [False, True])
def test_dropout_acts_after_the_gelu_and_at_the_end_in_training_alone(training: bool) -> None:
    layer, x = Mlp(6, 24, dropout=0.5).train(training), torch.randn(200, 6)
    torch.manual_seed(0)
    out = layer(x)
    torch.manual_seed(0)
    expected = F.dropout(layer.fc2(F.dropout(F.gelu(layer.fc1(x)), 0.5, training)), 0.5, training)
    assert torch.allclose(out, expected, atol=1e-6) and training == bool((out == 0).any())


@torch.no_grad()
def test_a_hook_on_the_first_layer_sees_its_output_untouched() -> None:
    layer, seen = Mlp(6, 24), []
    layer.fc1.register_forward_hook(lambda _layer, _inputs, out: seen.append(out))
    x = torch.randn(5, 6)
    layer(x)
    assert torch.equal(seen[0], F.linear(x, layer.fc1.weight, layer.fc1.bias))


def test_mixed_precision_trains_it() -> None:
    layer, x = Mlp(6, 24), torch.randn(50, 6)
    full = torch.autograd.grad(layer(x).sin().sum(), list(layer.parameters()))
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype is torch.bfloat16
    mixed = torch.autograd.grad(out.float().sin().sum(), list(layer.parameters()))
    for one, other in zip(full, mixed, strict=True):
        assert other.dtype is torch.float32 and torch.cosine_similarity(one.flatten(), other.flatten(), 0) > 0.999
