"""Depthwise convolution of a grid: the same as torch's, backward too, and right where torch's is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hybridvideo.models.parts.depthwise import depthwise_conv, on_grid

Kernel = tuple[int, int, int]


def gradients(conv: nn.Conv3d, out: Tensor, x: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    assert conv.bias is not None
    return list(torch.autograd.grad(out, [x, conv.weight, conv.bias], torch.randn(out.shape).to(out.dtype)))


@pytest.mark.parametrize("kernel", [(3, 3, 3), (5, 5, 5), (1, 5, 5), (3, 1, 1), (1, 1, 3), (3, 7, 5), (1, 1, 1)])
@pytest.mark.parametrize("grid", [(2, 4, 9, 7), (1, 1, 6, 6), (3, 2, 2, 1)])
def test_output_and_gradients_are_those_of_torch(kernel: Kernel, grid: tuple[int, int, int, int]) -> None:
    torch.manual_seed(0)
    t, h, w = kernel
    conv = nn.Conv3d(6, 6, kernel, padding=(t // 2, h // 2, w // 2), groups=6)
    x = torch.randn(*grid, 6, requires_grad=True)
    by_torch = conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
    ours = on_grid(conv, x)
    assert torch.allclose(ours, by_torch, atol=1e-5)
    for left, right in zip(gradients(conv, ours, x), gradients(conv, by_torch, x), strict=True):
        assert torch.allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("side", [3, 5])
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 8])
def test_gradients_in_bf16_are_those_of_fp32(side: int, frames: int) -> None:
    torch.manual_seed(0)
    conv = depthwise_conv(16, side)
    x = torch.randn(2, frames, 8, 8, 16, requires_grad=True)
    exact = gradients(conv, on_grid(conv, x), x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = gradients(conv, on_grid(conv, x), x)
    for left, right in zip(exact, rounded, strict=True):
        assert (left - right).norm() < 0.02 * left.norm()


def test_only_what_needs_a_gradient_gets_one() -> None:
    conv = depthwise_conv(4, 3)
    conv.weight.requires_grad_(False)
    x = torch.randn(1, 2, 4, 4, 4)
    on_grid(conv, x).sum().backward()
    assert conv.weight.grad is None and conv.bias is not None and conv.bias.grad is not None


def test_a_layer_without_bias_works() -> None:
    conv = nn.Conv3d(4, 4, 3, padding=1, groups=4, bias=False)
    x = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        on_grid(conv, x).float().sum().backward()
    assert conv.weight.grad is not None and x.grad is not None
