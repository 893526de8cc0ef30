"""Every way to compute attention against torch's kernel in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hybridvideo.models.parts import attend as ways
from hybridvideo.models.parts.attend import WAYS, attend, fastest, fused


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [5, 40])
@pytest.mark.parametrize("heads_at_once", [1, 2])
def test_attention_on_cpu_has_the_fused_kernels_values_and_gradients(
    dtype: torch.dtype, keys: int, heads_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "SCORES", heads_at_once * keys**2)
    inputs = [torch.randn(3, 2, keys, 16, dtype=dtype, requires_grad=True) for _ in range(3)]
    weight = torch.randn(3, 2, keys, 16)
    out = attend(*inputs)
    got = torch.autograd.grad((out.float() * weight).sum(), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    reference = torch.nn.functional.scaled_dot_product_attention(*exact)
    wanted = torch.autograd.grad((reference * weight).sum(), exact)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    assert torch.allclose(out.double(), reference, atol=tolerance, rtol=tolerance)
    for a, b in zip(got, wanted, strict=True):
        assert torch.allclose(a.double(), b, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("way", sorted(WAYS))
def test_every_way_has_the_same_values(way: str) -> None:
    q, k, v = (torch.randn(3, 2, 7, 16) for _ in range(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(WAYS[way](q, k, v, None), expected, atol=1e-5)


def test_the_way_follows_device_precision_keys_and_bias() -> None:
    def chosen(keys: int, dtype: torch.dtype = torch.float32, device: str = "cpu", bias: bool = False) -> str:
        q = torch.empty(2, 3, keys, 8, dtype=dtype, device=device)
        return fastest(q, q, q, torch.empty(1, 3, keys, keys, device=device) if bias else None)

    assert [chosen(8), chosen(200), chosen(2000)] == ["few_keys", "fused", "copied"]
    assert chosen(200, torch.bfloat16) == "groupwise"
    with torch.no_grad():
        assert chosen(200, torch.bfloat16) == "fused"
    assert [chosen(keys, bias=True) for keys in (8, 16, 2000)] == ["few_keys", "fused", "copied"]
    assert chosen(8, device="meta") == "fused"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("groups_at_once", [1, 2, 8])
@pytest.mark.parametrize("biased", [False, True])
def test_values_may_be_wider_than_keys(
    biased: bool, groups_at_once: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "SCORES", groups_at_once * 2 * 30 * 40)
    sizes = [(3, 2, 30, 8), (3, 2, 40, 8), (3, 2, 40, 16), (1, 2, 30, 40)][: 3 + biased]
    inputs = [torch.randn(size, dtype=dtype, requires_grad=True) for size in sizes]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    out, reference = attend(*inputs), torch.nn.functional.scaled_dot_product_attention(*exact)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-2
    assert torch.allclose(out.double(), reference, atol=tolerance, rtol=tolerance)
    with torch.no_grad():
        assert torch.allclose(attend(*inputs).double(), reference, atol=tolerance, rtol=tolerance)
    gradients = [torch.autograd.grad(result.sum(), of) for result, of in ((out, inputs), (reference, exact))]
    for got, wanted in zip(*gradients, strict=True):
        assert torch.allclose(got.double(), wanted, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("shape", [(11, 3, 5, 8), (3, 11, 5, 8), (11, 13, 5, 8)])
@pytest.mark.parametrize("bias_heads", [0, 1, None])
def test_no_call_of_the_kernel_exceeds_the_grid_that_cuda_launches(
    shape: tuple[int, ...], bias_heads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (torch.randn(shape) for _ in range(3))
    bias = None if bias_heads == 0 else torch.randn(1, bias_heads or shape[1], 5, 5)
    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []

    def watched(q: Tensor, *others: Tensor, **options: Tensor) -> Tensor:
        calls.append(q.shape)
        return kernel(q, *others, **options)

    expected = kernel(q, k, v, bias)
    monkeypatch.setattr(ways, "LARGEST_GRID", 4)
    monkeypatch.setattr(ways.F, "scaled_dot_product_attention", watched)
    assert torch.allclose(fused(q, k, v, bias), expected, atol=1e-5)
    assert len(calls) > 1 and all(len(call) == 4 and max(call[:2]) <= 4 for call in calls)


def test_the_gradient_of_a_bias_is_written_for_a_bounded_number_of_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(10, 2, 6, 4) for _ in range(3))
    bias = torch.randn(1, 2, 6, 6, requires_grad=True)
    kernel, calls = torch.nn.functional.scaled_dot_product_attention, []

    def watched(q: Tensor, *others: Tensor, **options: Tensor) -> Tensor:
        calls.append(q.shape[0] * bias.numel())
        return kernel(q, *others, **options)

    (expected,) = torch.autograd.grad(kernel(q, k, v, bias).sin().sum(), bias)
    monkeypatch.setattr(ways, "BIAS_GRADIENTS", 3 * bias.numel())
    monkeypatch.setattr(ways.F, "scaled_dot_product_attention", watched)
    (gradient,) = torch.autograd.grad(fused(q, k, v, bias).sin().sum(), bias)
    assert torch.allclose(gradient, expected, atol=1e-5) and max(calls) <= 3 * bias.numel()
