"""Attention on CPU against the fused kernel in double precision."""

from __future__ import annotations

import pytest
import torch

from hybridvideo.models.parts import attend as cpu_attention
from hybridvideo.models.parts.attend import attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("keys", [5, 40])
@pytest.mark.parametrize("heads_at_once", [1, 2])
def test_attention_on_cpu_has_the_fused_kernels_values_and_gradients(
    dtype: torch.dtype, keys: int, heads_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_attention, "SCORES", heads_at_once * keys**2)
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
